"""What sparsity counts: costs by name, and one that is a class here."""

import copy
import json
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from torch import nn

from earlycrop import Pruner, Report
from earlycrop.allocation import Global
from earlycrop.budget import Budget
from earlycrop.counting import Counter
from earlycrop.counting.costs import COSTS, AbstractCost, Nodes, Parameters, PrunableWeights
from earlycrop.counting.sizes import Sizes
from earlycrop.errors import BudgetError, EarlyCropError
from earlycrop.names import Target
from earlycrop.structure import cut
from earlycrop.units import Channels, Weights
from tests import dense
from tests.cases import CASES
from tests.pruners import make_pruner
from tests.test_budget import stops


@dataclass(frozen=True)
class ActivationBytes(AbstractCost):
    """What convolutions and linear layers write for one example."""

    bytes: int = 4

    name = "activations"

    def of(self, sizes: Sizes) -> float:
        uses = dict(sizes.uses)
        return sum(self.bytes * uses[layer.weight] * sizes.width(layer) for layer in sizes.layers)


@dataclass(frozen=True)
class Sum(AbstractCost):
    """A weighted sum of two others."""

    one: AbstractCost
    other: AbstractCost
    weight: float

    name = "sum"

    @property
    def per_weight(self) -> float:  # type: ignore[override]
        return self.one.per_weight + self.weight * self.other.per_weight

    def of(self, sizes: Sizes) -> float:
        return self.one.of(sizes) + self.weight * self.other.of(sizes)


def activations(net: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """The bytes that hooks see, without the library."""
    seen = []
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(lambda _m, _i, out: seen.append(4 * out[0].numel())) for layer in layers]
    with torch.no_grad():
        net.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return sum(seen)


def test_every_name_of_a_target_is_that_of_a_cost():
    assert get_args(Target) == tuple(COSTS) == tuple(cost.name for cost in COSTS.values())


@pytest.mark.parametrize("name", COSTS)
def test_a_name_and_its_cost_choose_alike(name):
    units = Channels().of(dense.residual_net(), dense.images()[0], None, ())
    scores = torch.rand(len(units.keep))
    choices = [units.choose(Budget(0.4, target), scores, Global()) for target in (name, COSTS[name])]
    assert torch.equal(*choices)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_a_fifth_cost_counts_what_hooks_see(name):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    units = Channels().of(net, inputs, None, ())
    counter, scores = Counter(units.structure, net), torch.rand(len(units.keep))
    assert counter.price(ActivationBytes()) == activations(net, inputs)
    for keep in list(stops(units, scores))[::5]:
        smaller = copy.deepcopy(net)
        after = cut(units.structure, smaller, keep, None)
        found = activations(smaller, inputs)
        assert counter.price(ActivationBytes(), keep) == Counter(after, smaller).price(ActivationBytes()) == found


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("cost", [ActivationBytes(), Sum(PrunableWeights(), Nodes(), 20.0)])
def test_the_nearest_stop_of_a_fifth_cost_by_brute_force(cost, sparsity):
    net = dense.residual_net()
    units = Channels().of(net, dense.images()[0], None, ())
    scores, counter = torch.rand(len(units.keep)), Counter(units.structure, net)
    choices = list(stops(units, scores))
    prices = [counter.price(cost, keep) for keep in choices]
    goal = (1 - sparsity) * prices[0]
    best = min(abs(price - goal) for price in prices)
    chosen = units.choose(Budget(sparsity, target=cost), scores, Global())
    assert abs(counter.price(cost, chosen) - goal) == best
    with pytest.raises(BudgetError, match=f"Cannot reach {cost.name} sparsity"):
        units.choose(Budget(1 - 1e-9, target=cost), scores, Global())


def pruner(net: nn.Module, method: str, target: AbstractCost) -> Pruner:
    options = {"loss": dense.cross_entropy, "batches": [dense.images()]}
    return make_pruner(net, method, 0.5, example_inputs=dense.images()[0], target=target, **options)


@pytest.mark.parametrize("name", ["snap", "cropit-s"])
def test_a_network_is_pruned_to_a_fifth_cost(name):
    net, inputs = dense.residual_net(torch.relu), (dense.images()[0],)
    dense_bytes = activations(net, inputs)
    one = pruner(net, name, ActivationBytes())
    plan, report = one.dry_run(), one.check(0)
    assert (report.before.other, report.after.other) == (dense_bytes, activations(net, inputs))
    assert (plan.before, plan.after) == (report.before, report.after)
    assert 0.3 < 1 - report.after.other / dense_bytes < 0.7
    assert report.target == plan.target == "activations"
    assert f"activations {dense_bytes:>13,} -> " in str(report)
    assert f"activations {dense_bytes:>13,} -> " in str(plan)
    record = json.loads(json.dumps(report.as_dict()))
    assert record["before"]["other"] == dense_bytes
    assert Report.from_dict(record) == report


def test_the_usual_reports_have_no_fifth_cost():
    report = pruner(dense.residual_net(torch.relu), "snap", COSTS["weight"]).check(0)
    assert report.target == "weight"
    assert "other" not in report.as_dict()["before"]
    assert Report.from_dict(report.as_dict()).after.other is None


def test_a_state_goes_on_with_its_own_cost_only():
    state = pruner(dense.residual_net(), "snap", ActivationBytes()).state_dict()
    pruner(dense.residual_net(), "snap", ActivationBytes()).load_state_dict(state)
    with pytest.raises(EarlyCropError, match="ActivationBytes"):
        pruner(dense.residual_net(), "snap", ActivationBytes(bytes=2)).load_state_dict(state)


# Single weights -----------------------------------------------------------------------------------------------------


def test_masks_meet_a_cost_that_falls_with_each_of_them():
    net = dense.mlp(10, 20, 3)  # 260 weights and 23 biases
    units = Weights().of(net, torch.zeros(1, 10).double(), None, ())
    cost = Sum(PrunableWeights(), Parameters(), 3.0)
    whole = 260 + 3 * 283
    units.keep_only(units.choose(Budget(0.5, target=cost), torch.rand(260), Global()))
    gone = int((~units.keep).sum())
    assert gone == round(0.5 * whole / 4)
    assert units.counts(cost).other == whole - 4 * gone
    assert units.counts(Parameters()).other is None


def test_masks_cannot_meet_a_cost_that_they_do_not_lower():
    units = Weights().of(dense.mlp(10, 10), torch.zeros(1, 10).double(), None, ())
    with pytest.raises(BudgetError, match=r"ActivationBytes.*`target='weight'` or `target='params'`"):
        units.choose(Budget(0.5, target=ActivationBytes()), torch.rand(100), Global())


def test_a_cost_of_masks_that_needs_the_graph_is_refused():
    units = Weights().of(dense.mlp(10, 10), torch.zeros(1, 10).double(), None, ())
    with pytest.raises(BudgetError, match="needs the network's graph"):
        units.choose(Budget(0.5, target=Sum(PrunableWeights(), COSTS["flops"], 1.0)), torch.rand(100), Global())
