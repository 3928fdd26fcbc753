"""How layers share the budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from earlycrop.allocation import Global, PerCost, Uniform, places, within
from earlycrop.budget import Budget
from earlycrop.scores import Crop
from earlycrop.steps import OneShot
from earlycrop.units import Channels, Weights
from earlycrop.widths import WidthsOf
from tests import dense
from tests.knapsack import assert_as_a_knapsack


def free(name):
    raise AssertionError("nothing asks for the prices")


def test_global_leaves_scores_alone():
    scores, layer = torch.randn(9), torch.arange(9) // 3
    assert Global()(scores, layer, free) is scores


def test_per_cost_compares_worth_for_the_price():
    scores, prices = torch.tensor([4.0, 3.0, -2.0, 0.0]), torch.tensor([8.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 1.5, -6.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(PerCost()(scores, torch.arange(4), lambda _: prices), expected)


def test_several_costs_make_their_geometric_mean():
    scores, costs = torch.tensor([4.0, 3.0, -2.0]), {"weight": [8.0, 2.0, 3.0], "flops": [2.0, 32.0, 12.0]}
    found = PerCost(("weight", "flops"))(
        scores, torch.arange(3), lambda name: torch.tensor(costs[name], dtype=torch.float64)
    )
    torch.testing.assert_close(found, torch.tensor([4 / 4, 3 / 8, -2 * 6], dtype=torch.float64))
    assert [repr(PerCost()), repr(PerCost(("weight", "flops")))] == ["PerCost()", "PerCost(('weight', 'flops'))"]
    with pytest.raises(Exception, match="'flop'"):
        PerCost(("flop",))


class Branches(nn.Module):
    """Hidden layers side by side, at different cost: what they read has different sizes, and what leaves adds up."""

    def __init__(self):
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(size, 4, bias=False) for size in (1, 5, 17))
        self.out = nn.ModuleList(nn.Linear(4, 2, bias=False) for _ in range(3))

    def forward(self, x):
        parts = zip(x.split([1, 5, 17], -1), self.read, self.out, strict=True)
        return sum(out(torch.relu(read(part))) for part, read, out in parts)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_of_flops_is_a_knapsack(seed):
    """Against every choice of channels: none as cheap is worth more, but for at most one channel's worth."""
    units = Channels().of(Branches(), torch.zeros(1, 23), None, ())
    scores = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    price = torch.zeros(12)
    for number, size in enumerate((1, 5, 17)):
        price[units.structure.tensors[f"read.{number}.weight"].classes[0]] = 2.0 * (size + 2)
    keep = units.choose(Budget(0.5, "flops"), scores, PerCost())
    assert_as_a_knapsack(units.layer, keep, scores, price)


class Maps(nn.Module):
    """Hidden layers side by side whose channels have as many weights each, and maps of different lengths."""

    def __init__(self):
        super().__init__()
        self.read = nn.ModuleList(nn.Conv1d(size, 4, 1, bias=False) for size in (3, 4, 5))
        self.out = nn.ModuleList(nn.Conv1d(4, 2, 1, bias=False) for _ in range(3))

    def forward(self, x):
        maps = (x[:, :size, :length] for size, length in zip((3, 4, 5), (16, 4, 1), strict=True))
        return sum(out(torch.relu(read(a))).mean(-1) for a, read, out in zip(maps, self.read, self.out, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", ["weight", "flops"])
def test_the_price_of_two_costs_is_by_hand(seed, target):
    """A channel that reads c others and writes 2 has c + 2 weights, and 2 (c + 2) l FLOPs on a map of length l."""
    units = Channels().of(Maps(), torch.zeros(1, 5, 16), None, ())
    scores = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights, flops = torch.zeros(12), torch.zeros(12)
    for number, (size, length) in enumerate(((3, 16), (4, 4), (5, 1))):
        mine = units.structure.tensors[f"read.{number}.weight"].classes[0]
        weights[mine], flops[mine] = size + 2.0, 2 * (size + 2.0) * length
    worth = scores / (weights * flops).sqrt()
    best = within(worth, units.layer, torch.ones(3, dtype=torch.int64))  # `min_channels`
    keep = units.choose(Budget(0.5, target), scores, PerCost(("weight", "flops")))
    assert worth[keep & ~best].min() > worth[~keep].max()
    cost = weights if target == "weight" else flops
    assert abs(float(cost[keep].sum() / cost.sum()) - 0.5) <= float(cost.max() / cost.sum()) / 2 + 1e-9


def test_uniform_is_the_rank_within_the_layer():
    scores = torch.tensor([5.0, 1.0, 3.0, 100.0, 200.0])
    layer = torch.tensor([0, 0, 0, 1, 1])
    expected = torch.tensor([2.5 / 3, 0.5 / 3, 1.5 / 3, 0.5 / 2, 1.5 / 2], dtype=torch.float64)
    torch.testing.assert_close(Uniform()(scores, layer, free), expected)


def test_equal_scores_rank_by_position():
    ranks = Uniform()(torch.zeros(6), torch.tensor([0, 1, 0, 1, 0, 1]), free)
    assert ranks[0] > ranks[2] > ranks[4]
    assert ranks[1] > ranks[3] > ranks[5]


def test_layers_need_not_lie_together():
    scores, layer = torch.rand(30), torch.randint(4, (30,))
    ranks = Uniform()(scores, layer, free)
    for number in range(4):
        inside = layer == number
        assert torch.equal(scores[inside].argsort(), ranks[inside].argsort())


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_every_layer_loses_the_same_part_of_its_weights(sparsity):
    net = dense.mlp(20, 40, 60, 10)
    units = Weights().of(net, torch.zeros(1, 20).double(), None, ())
    scores = torch.cat([torch.rand(800), torch.rand(2400) * 1e-6, torch.rand(600) * 1e6])
    keep = units.choose(Budget(sparsity), scores, Uniform())
    for part in keep.split([800, 2400, 600]):
        assert abs(float((~part).double().mean()) - sparsity) <= 1 / part.numel()


def test_every_layer_loses_the_same_part_of_its_channels():
    net, x = dense.mlp(4, 20, 40, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    scores = torch.rand(60)
    scores[units.structure.tensors["2.weight"].classes[0]] *= 1e-6
    units.keep_only(units.choose(Budget(0.5, "node"), scores, Uniform()))
    assert (net[0].out_features, net[2].out_features) == (10, 20)


def test_what_has_left_stays_last():
    scores = torch.tensor([1.0, -torch.inf, 2.0, -torch.inf])
    ranks = Uniform()(scores, torch.zeros(4, dtype=torch.int64), free)
    assert ranks[1] == ranks[3] == -torch.inf


# Widths ----------------------------------------------------------------------------------------------------------

UNITS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=25)


def by_place(scores: list[float], layer: list[int]) -> list[int]:
    """How many of its layer come before each unit: those above it, and of equal ones the earlier."""
    return [
        sum(
            layer[other] == layer[unit] and (scores[other], -other) > (scores[unit], -unit)
            for other in range(len(scores))
        )
        for unit in range(len(scores))
    ]


@settings(deadline=None)
@given(UNITS)
def test_places_against_counting(units):
    scores, layer = (list(column) for column in zip(*units, strict=True))
    assert places(torch.tensor(scores).double(), torch.tensor(layer)).tolist() == by_place(scores, layer)


@settings(deadline=None)
@given(UNITS, st.lists(st.integers(0, 9), min_size=4, max_size=4))
def test_the_best_of_each_layer_against_sorting_it(units, widths):
    scores, layer = (list(column) for column in zip(*units, strict=True))
    kept = within(torch.tensor(scores).double(), torch.tensor(layer), torch.tensor(widths)).tolist()
    for number, width in enumerate(widths):
        mine = [unit for unit in range(len(scores)) if layer[unit] == number]
        best = sorted(mine, key=lambda unit: (-scores[unit], unit))[:width]
        assert [unit for unit in mine if kept[unit]] == sorted(best)


def test_of_equal_units_the_earlier_stay():
    layer = torch.tensor([0, 1, 0, 1, 0, 1])
    kept = within(torch.zeros(6), layer, torch.tensor([2, 1]))
    assert kept.tolist() == [True, True, True, False, False, False]


def test_what_has_left_is_never_among_the_best():
    scores = torch.tensor([-torch.inf, -5.0, -torch.inf, -7.0])
    assert within(scores, torch.zeros(4, dtype=torch.int64), torch.tensor([2])).tolist() == [False, True, False, True]


def test_widths_are_taken_at_one_of_two_moments():
    with pytest.raises(Exception, match="taken"):
        WidthsOf(Crop(), OneShot(), taken="late")
