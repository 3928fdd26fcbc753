"""Peak live bytes, against sums made by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop_lab.measure.memory import LiveBytes, held_by, process_peak_bytes
from earlycrop_lab.measure.meters import Meters


def test_a_freed_tensor_no_longer_counts():
    with LiveBytes() as live:
        a = torch.empty(100)  # 400
        b = a + 1  # 800
        del a  # 400
        c = b * 2  # 800
        d = c + b  # 1200
        del b, c, d
    assert (live.peak, live.now) == (1200, 0)


def test_views_and_in_place_results_are_counted_once():
    a = torch.zeros(10, 10)
    with LiveBytes([a]) as live:
        a.view(100).t().add_(1)
        a[2:4].relu_()
    assert (live.peak, live.now) == (400, 400)


def test_what_only_autograd_holds_is_alive_until_backward():
    x = torch.ones(100, requires_grad=True)
    with LiveBytes([x.detach()]) as live:
        y = x.exp()  # exp keeps its result: x 400, y 400
        z = y.sum()  # 4
        del y
        assert live.now == 804
        z.backward()  # the gradient, 400; what was kept is freed
        del z
    assert live.now == 800
    assert x.grad is not None


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_training_step_by_hand(momentum):
    """Batch 8; Linear 4 -> 5, ReLU, Linear 5 -> 3, cross-entropy; no biases; SGD in its plain loop.

    Held in float32: weights 20 + 15, gradients the same, velocity the same where there is momentum, batch 32 and 8
    labels of 8 bytes. Before backward: hidden 40, ReLU 40, logits 24, log-probabilities 24, loss 1 and its weight 1.
    The hidden layer before ReLU is let go of, as nothing needs it (ReLU keeps its result), and so are the logits.
    """
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, foreach=False)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    held = 4 * (35 + 35 + (35 if momentum else 0) + 32) + 8 * 8
    with LiveBytes([*held_by(model, optimizer), x, y]) as live:
        assert live.now == held
        loss = F.cross_entropy(model(x), y)  # gradients of the last step are still there
        forward = live.now - held
    assert forward == 4 * (40 + 24 + 1 + 1)  # ReLU's result, log-probabilities, loss, its weight
    assert live.peak - held == 4 * (40 + 24 + 24 + 1 + 1)  # the logits were there while the loss was made
    del loss


def test_the_peak_falls_with_the_width():
    def peak(width):
        model = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        x = torch.randn(4, 1, 8, 8)
        model(x)
        with LiveBytes([*held_by(model), x]) as live:
            model(x).sum().backward()
        return live.peak

    assert peak(32) > 3 * peak(8)


def test_the_process_peak_is_the_system_s():
    resource = pytest.importorskip("resource")
    assert process_peak_bytes() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.01)


def test_what_lives_beside_the_model_counts_in_the_watched_step():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    peaks = []
    for beside in ([], [torch.zeros(1000)]):
        meters = Meters(model, optimizer, torch.device("cpu"), lambda beside=beside: beside)
        for _ in range(3):
            with meters.step("dense", x := torch.ones(3, 4)):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
        peaks.append(meters.peak_bytes["dense"])
    assert peaks[1] - peaks[0] == 4000
