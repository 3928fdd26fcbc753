"""SynFlow: by hand, its conservation laws, and the collapse that its hundred rounds avoid."""

import pytest
import torch
from torch import nn

from earlycrop import METHODS, Method, Pruner, StarvationWarning
from earlycrop.scores import SynFlow
from earlycrop.steps import Exponential, OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from tests import dense
from tests.scores.worth import channels, worth


def test_by_hand():
    """R = Σ_k |v_k| |u_k|, so each weight of a path is worth the path's product."""
    net = dense.two_neurons((1, -3), (2, -0.5))
    found = worth(net, SynFlow(), example_inputs=torch.full((4, 1), -7.0).double())
    torch.testing.assert_close(found, dense.f64(2, 1.5, 2, 1.5), atol=1e-14, rtol=0)


def test_norms_are_made_positive_too():
    """R = Σ |W2| relu(|γ| (|W1| 1 − |μ|) / √(|σ²| + ε) + |β|)."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    dense.awake(net)
    with torch.no_grad():
        net[0].weight.mul_(3)
    w1, b1, w2 = (p.detach().abs().requires_grad_() for p in (net[0].weight, net[0].bias, net[3].weight))
    gamma, beta, mean = (t.detach().abs() for t in (net[1].weight, net[1].bias, net[1].running_mean))
    hidden = gamma * (w1.sum(1) + b1 - mean) / (net[1].running_var + net[1].eps).sqrt() + beta
    flow = (w2 @ hidden.relu()).sum()
    expected = torch.cat(
        [(p * g).reshape(-1) for p, g in zip((w1, w2), torch.autograd.grad(flow, (w1, w2)), strict=True)]
    )
    found = worth(net, SynFlow(), example_inputs=torch.randn(2, 3).double())
    torch.testing.assert_close(found, expected.abs().detach(), atol=1e-12, rtol=0)


def test_the_flow_through_every_layer_and_unit_is_the_same():
    net = dense.mlp(5, 7, 6, 3, bias=False, act=nn.ReLU)
    sizes = [35, 42, 18]
    scores = worth(net, SynFlow(), example_inputs=torch.zeros(2, 5).double())
    parts = [part.view(p.shape) for part, p in zip(scores.split(sizes), net.parameters(), strict=True)]
    total = torch.stack([part.sum() for part in parts])
    torch.testing.assert_close(total, total[:1].expand(3), atol=0, rtol=1e-12)
    for first, second in ((parts[0], parts[1]), (parts[1], parts[2])):
        torch.testing.assert_close(first.sum(1), second.sum(0), atol=0, rtol=1e-12)


def test_on_channels_it_is_the_flow_through_the_channel():
    net = dense.mlp(5, 7, 3, bias=False, act=nn.ReLU)
    x = torch.zeros(2, 5).double()
    of_weights = worth(net, SynFlow(), example_inputs=x)[:35].view(7, 5).sum(1)
    found = channels(net, SynFlow(), "0", None, example_inputs=x)
    torch.testing.assert_close(found, of_weights, atol=0, rtol=1e-12)


def test_the_model_is_as_it_was():
    net = dense.conv_norm_net()
    before = dense.everything(net)
    worth(net, SynFlow(), example_inputs=dense.images()[0])
    assert dense.everything(net) == before


@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_a_deep_network_does_not_overflow(units):
    net = dense.mlp(50, *[200] * 30, 10, bias=False, act=nn.ReLU).float()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)
    scores = worth(net, SynFlow(), units, example_inputs=torch.zeros(1, 50))
    assert torch.isfinite(scores).all()
    assert scores.max() > 3e38  # in float32 there would be no ranking


def test_it_needs_no_data():
    net = dense.mlp(5, 7, 3)
    report = Pruner(net, "synflow", 0.5, example_inputs=torch.zeros(1, 5).double()).check(0)
    assert report.samples == 0
    assert METHODS["synflow"].steps == Exponential(100)


COLLAPSE = (64, 32, 32, 32, 256, 256, 16, 16, 16, 16, 10)


def remaining(steps, sparsity: float, seed: int):
    torch.manual_seed(seed)
    net = dense.mlp(*COLLAPSE, bias=False, act=nn.ReLU).float()
    for parameter in net.parameters():
        nn.init.kaiming_normal_(parameter)
    method = Method("synflow", SynFlow(), Weights(), AtInit(), steps)
    return Pruner(net, method, sparsity, example_inputs=torch.zeros(1, 64)).check(0)


CASES = [(density, seed) for density in (0.005, 0.01, 0.02) for seed in range(3)]


@pytest.mark.parametrize(
    ("density", "seed"), [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])]
)
def test_a_hundred_rounds_empty_no_layer_where_one_shot_does(density, seed):
    with pytest.warns(StarvationWarning, match="starved of weights"):
        once = remaining(OneShot(), 1 - density, seed)
    assert min(width.after for width in once.widths) == 0
    assert any("keeps no weight" in what for what in once.collapsed)
    assert once.collapsed[-1] == "the output no longer depends on the input"
    often = remaining(Exponential(100), 1 - density, seed)
    assert min(width.after for width in often.widths) >= 25
    assert often.collapsed == ()


def test_on_channels_the_table_need_not_know_it():
    net = dense.residual_net(torch.relu)
    method = Method("synflow-s", SynFlow(), Channels(), AtInit(), Exponential(5))
    report = Pruner(net, method, 0.5, example_inputs=dense.images()[0]).check(0)
    assert report.weight_sparsity > 0.3
