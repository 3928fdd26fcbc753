"""Steps that end where a layer has lost its bound: in every step, to the same end, scored anew each time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Method, Pruner, get_method
from earlycrop.scores import Crop, Magnitude, NormScale
from earlycrop.steps import Bounded, OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from tests import dense
from tests.small import adam, make, small, train

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")


def normed() -> nn.Module:
    """Every channel has a norm, and hence a score that no cut of others changes; the second layer has the least."""
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(2, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(),
        nn.Conv2d(20, 30, 3, padding=1), nn.BatchNorm2d(30), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(30, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for number, size in ((1, 1.0), (4, 0.3), (9, 2.0)):
            net[number].weight.normal_().mul_(size)
    return net


def scaled() -> nn.Module:
    """The small network with scales that differ."""
    net = small()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (net.norm0, net.norm1):
            norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
    return net


def watched(pruner: Pruner) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Of each cut how many units each layer had and how many it lost; and an entry for each scoring."""
    units, seen, scored = pruner.units, [], []
    keep_only, scores = units.keep_only, pruner._scorer.scores

    def spy(keep: Tensor) -> None:
        alive, layer = units.alive, units.layer
        gone = alive & ~keep.cpu()
        numbers = int(layer.max()) + 1
        seen.append(tuple(torch.bincount(layer[which], minlength=numbers).tolist() for which in (alive, gone)))
        keep_only(keep)

    units.keep_only = spy
    pruner._scorer.scores = lambda *arguments: (scored.append(1), scores(*arguments))[1]
    return seen, scored


def within_bounds(seen: list[tuple[list[int], list[int]]], most: float) -> bool:
    return all(lost <= max(1, int(most * had)) for each in seen for had, lost in zip(*each, strict=True))


def method(score, units, steps) -> Method:
    return Method("tested", score, units, AtInit(), steps)


@pytest.mark.parametrize("most", [0.15, 0.5, 0.9])
@pytest.mark.parametrize(
    ("net", "score", "units", "sparsity"),
    [
        (normed, NormScale(), Channels(), 0.9),
        (normed, Magnitude(), Weights(), 0.9),
        (small, Magnitude(), Weights(), 0.8),
        (scaled, NormScale(), Channels(), 0.75),
    ],
)
def test_no_layer_loses_more_in_any_step_and_the_end_is_that_of_one_shot(net, score, units, sparsity, most):
    """The score of a unit is its own here, so that several scorings say what one does."""
    once = make(net(), None, method(score, units, OneShot()), sparsity)
    once.check(0)
    pruner = make(net(), None, method(score, units, Bounded(most)), sparsity)
    seen, scored = watched(pruner)
    report = pruner.check(0)
    assert torch.equal(pruner.units.keep, once.units.keep)
    assert (report.after, report.widths) == (once.report.after, once.report.widths)
    assert within_bounds(seen, most)
    assert len(scored) == len(seen)
    if most < 0.9:
        total = [sum(column) for column in zip(*(lost for _, lost in seen), strict=True)]
        assert not within_bounds([(seen[0][0], total)], most)  # at once it would have been too much
        assert len(seen) > 1


@pytest.mark.parametrize("most", [0.3, 0.6])
def test_what_left_before_is_not_counted(most):
    """A mask that is there already: bounds are parts of what is left."""
    torch.manual_seed(1)
    given = torch.rand(sum(small().get_parameter(name).numel() for name in dense.prunable(small()))) < 0.7
    kept = {}
    for steps in (OneShot(), Bounded(most)):
        pruner = make(small(), None, method(Magnitude(), Weights(), steps), 0.9)
        pruner.units.keep_only(given)
        seen, _ = watched(pruner)
        pruner.check(0)
        kept[steps] = pruner.units.keep
        if steps.most:
            assert sum(seen[0][0]) == int(given.sum())
            assert within_bounds(seen, most)
            assert len(seen) > 1
    assert torch.equal(kept[OneShot()], kept[Bounded(most)])
    assert not bool((kept[OneShot()] & ~given).any())


@pytest.mark.parametrize("units", [Channels(), Weights()])
def test_scores_of_data_are_taken_anew_in_each_step(units):
    net, sparsity = small(), 0.6
    pruner = make(net, None, method(Crop(), units, Bounded(0.3)), sparsity)
    whole = pruner.units.counts().prunable
    seen, scored = watched(pruner)
    report = pruner.check(0)
    assert len(scored) == len(seen) > 2
    assert within_bounds(seen, 0.3)
    if isinstance(units, Weights):
        assert report.after.prunable == whole - round(sparsity * whole)
    else:
        assert report.after.prunable / whole == pytest.approx(1 - sparsity, abs=0.07)  # one class
        assert report.verification.exact


def test_the_row_of_the_table_and_its_plan():
    net = small()
    pruner = make(net, adam(net), "crop-s-bounded")
    train(net, pruner.optimizer)
    before = dense.everything(net, pruner.optimizer)
    plan = pruner.dry_run()
    assert dense.everything(net, pruner.optimizer) == before
    seen, _ = watched(pruner)
    report = pruner.check(0)
    assert report.after == plan.after
    assert within_bounds(seen, get_method("crop-s-bounded").steps.most)
    train(net, pruner.optimizer)


def test_a_small_layer_may_always_lose_one():
    net = dense.mlp(4, 3, 3, 3)
    x, _ = dense.vectors(12)
    pruner = Pruner(net, method(Magnitude(), Channels(), Bounded(0.01)), 0.6, example_inputs=x[:2])
    seen, scored = watched(pruner)
    pruner.check(0)
    assert len(scored) == len(seen) >= 2
    assert all(max(lost) == 1 and sum(lost) == 1 for _, lost in seen)


def test_bounds_in_widths_too():
    """Widths that another scoring finds in bounded steps: the units that stay are the method's own."""
    plain = make(small(), None, method(Crop(), Channels(), Bounded(0.3)))
    plain.check(0)
    row = get_method("crop-s")
    pruner = make(small(), None, replace(row, allocation=replace(row.allocation, steps=Bounded(0.3))), bn_mode="auto")
    assert pruner._scorer.bn_mode == "scaled"
    twin = make(small(), None, replace(method(Crop(), Channels(), Bounded(0.3)), bn_mode="scaled"))
    assert pruner.check(0).widths == twin.check(0).widths
