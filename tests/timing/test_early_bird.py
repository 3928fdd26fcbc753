"""Early-Bird: masks of five epochs that hardly differ, and the penalty that drives them apart."""

import pytest
import torch

from earlycrop import METHODS, Pruner
from earlycrop.timing import EarlyBird, MaskDistance
from tests import dense
from tests.small import BATCH, make, small


def seen(masks, window=5):
    given = iter(masks)
    instrument = MaskDistance(lambda: next(given), window)
    return [distance for t in range(len(masks)) if (distance := instrument.read(t + 1.0)) is not None]


def test_five_equal_masks_fire_at_the_fifth_and_not_before():
    mask = torch.tensor([True, False, True, False])
    fired = [EarlyBird().ready(seen([mask] * n), 0.9) for n in range(1, 8)]
    assert fired == [False] * 4 + [True] * 3


def test_alternating_masks_never_fire():
    a, b = torch.ones(10, dtype=torch.bool), torch.ones(10, dtype=torch.bool)
    b[:2] = False  # 0.2 of the entries
    assert not any(EarlyBird().ready(seen([a, b] * n), 0.9) for n in range(1, 6))


@pytest.mark.parametrize(("differing", "fires"), [(1, True), (2, False)])
def test_a_tenth_is_allowed(differing, fires):
    masks = [torch.ones(10, dtype=torch.bool) for _ in range(5)]
    masks[0][:differing] = False
    assert EarlyBird().ready(seen(masks), 0.9) == fires


def test_the_distance_is_of_the_newest_from_each_other():
    """Not of neighbours: masks that drift by little each time are far apart in the end."""
    masks = [torch.arange(20) >= n for n in range(7)]
    assert seen(masks) == pytest.approx([1 / 20, 2 / 20, 3 / 20, 4 / 20, 4 / 20, 4 / 20])
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(30, generator=generator) < 0.3 for _ in range(9)]
    slow = [
        max(
            sum(bool(x) != bool(y) for x, y in zip(masks[t], masks[s], strict=True)) / 30
            for s in range(max(0, t - 4), t)
        )
        for t in range(1, 9)
    ]
    assert seen(masks) == pytest.approx(slow)


def test_it_goes_on_from_its_state():
    masks = [torch.arange(20) >= n for n in range(7)]
    given = iter(masks)
    first = MaskDistance(lambda: next(given), 5)
    head = [first.read(t + 1.0) for t in range(4)]
    second = MaskDistance(lambda: next(given), 5)
    second.load_state_dict(first.state_dict())
    assert [*head[1:], *(second.read(t + 1.0) for t in range(4, 7))] == seen(masks)


@pytest.mark.parametrize(("epochs", "cap"), [(10, 5), (20, 5), (40, 10), (None, float("inf"))])
def test_the_cap_leaves_time_for_five_masks(epochs, cap):
    assert EarlyBird().cap(epochs) == cap
    assert EarlyBird(max_epochs=3).cap(epochs) == 3


def test_scales_feel_the_penalty_and_nothing_else_does():
    net, plain = small(), small()
    pruner = make(net, None, "earlybird")
    pruner.check(0)
    for one in (net, plain):
        one.eval()  # no dropout
        dense.cross_entropy(one, BATCH).backward()
    for (name, p), q in zip(net.named_parameters(), plain.parameters(), strict=True):
        pull = 1e-4 * q.detach().sign() if name in ("norm0.weight", "norm1.weight") else 0.0
        torch.testing.assert_close(p.grad, q.grad + pull, atol=1e-15, rtol=0)


def test_in_training_masks_are_what_would_stay():
    net = small()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    pruner = Pruner(net, METHODS["earlybird"], 0.6, example_inputs=BATCH[0][:2], optimizer=optimizer, epochs=40)
    kept = []
    for epoch in range(9):
        if epoch:
            kept.append(pruner.choose())
        if pruner.check(epoch):
            break
        for _ in range(3):
            optimizer.zero_grad()
            dense.cross_entropy(net, BATCH).backward()
            optimizer.step()
    assert [check.value for check in pruner.curve] == pytest.approx(seen(kept))
