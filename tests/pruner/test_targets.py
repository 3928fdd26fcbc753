"""How much leaves: targets in weights, nodes, parameters and operations, nothing, almost everything, by chance."""

import pytest
import torch

from earlycrop import StarvationWarning
from earlycrop.counting import COSTS, Counter
from tests import dense
from tests.small import make, small


@pytest.mark.parametrize(
    ("name", "target", "sparsity"),
    [
        *(("crop-s", target, 0.3) for target in ("weight", "node", "params", "flops", "memory")),
        *(("crop-s", "weight", 0.0), ("cropit-s", "flops", 0.6)),
    ],
)
def test_channels_come_within_one_class_of_any_target(name, target, sparsity):
    net = small()
    pruner = make(net, None, name, sparsity, target=target)
    whole = pruner.units.counts(COSTS[target]).of(target)
    per_class = []
    for number in range(len(pruner.units.keep)):
        keep = torch.ones(len(pruner.units.keep), dtype=torch.bool)
        keep[number] = False
        per_class.append(whole - Counter(pruner.units.structure, net)(keep, COSTS[target]).of(target))
    report = pruner.check(0)
    assert abs(1 - report.after.of(target) / whole - sparsity) <= max(per_class) / whole
    if sparsity == 0:
        assert bool(pruner.units.keep.all())


def test_no_sparsity_masks_nothing():
    net = small()
    before = [p.clone() for p in net.parameters()]
    report = make(net, None, "crop-u", 0.0).check(0)
    assert report.weight_sparsity == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_most_that_weights_can_lose_leaves_one():
    net = small()
    whole = sum(net.get_parameter(n).numel() for n in dense.prunable(net))
    with pytest.warns(StarvationWarning, match="starved of weights"):
        report = make(net, None, "snip", 1 - 1 / whole).check(0)
    assert report.after.prunable == 1
    assert report.collapsed


@pytest.mark.parametrize("name", ["random-u", "random-s"])
def test_the_seed_is_what_decides_at_random(name):
    def kept(seed: int) -> list[bool]:
        pruner = make(small(), None, name, seed=seed)
        pruner.check(0)
        return pruner.units.keep.tolist()

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)
