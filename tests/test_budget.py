"""How much leaves: exactly, whatever the ties; for channels the nearest reachable, found again by brute force."""

import copy
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from earlycrop.allocation import Global, Uniform
from earlycrop.budget import Budget, check_scores, largest
from earlycrop.counting import Counter
from earlycrop.errors import BudgetError, ScoreError
from earlycrop.structure import cut
from earlycrop.units import Channels, Weights
from tests import dense
from tests.cases import CASES

SPARSITIES = [0.0, 0.1, 1 / 3, 0.5, 0.9, 0.98, 0.999]


# Exact counts of weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("scores", ["distinct", "equal", "few", "zeros", "signed zeros"])
@pytest.mark.parametrize("allocation", [Global(), Uniform()])
def test_exactly_so_many_weights_stay(sparsity, scores, allocation):
    net = dense.mlp(30, 40, 3)
    units = Weights().of(net, torch.zeros(1, 30).double(), None, ())
    n = 30 * 40 + 40 * 3
    drawn = {
        "distinct": torch.rand(n),
        "equal": torch.full((n,), 3.0),
        "few": torch.randint(3, (n,)).double(),
        "zeros": torch.zeros(n),
        "signed zeros": torch.where(torch.rand(n) < 0.5, -0.0, 0.0),
    }[scores]
    keep = units.choose(Budget(sparsity), drawn, allocation)
    assert int(keep.sum()) == n - round(sparsity * n)
    if allocation == Global():
        assert drawn[keep].min() >= drawn[~keep].max() if 0 < keep.sum() < n else True
        again = units.choose(Budget(sparsity), drawn, allocation)
        assert torch.equal(keep, again)
    else:
        for part in keep.split([1200, 120]):
            assert abs(int(part.sum()) - (1 - sparsity) * part.numel()) <= 1
    units.keep_only(keep)
    assert sum(int((net.get_parameter(name) != 0).sum()) for name in dense.prunable(net)) == int(keep.sum())


@pytest.mark.parametrize("trial", range(20))
def test_the_largest_by_a_slow_and_obvious_sort(trial):
    torch.manual_seed(trial)
    scores = torch.randint(6, (40,)).double() - 2
    count = int(torch.randint(1, 41, ()))
    order = sorted(range(40), key=lambda i: (-scores[i].item(), i))
    expected = torch.zeros(40, dtype=torch.bool)
    expected[order[:count]] = True
    assert torch.equal(largest(scores, count), expected)


def test_steps_never_bring_a_weight_back_and_count_from_the_dense_network():
    net = dense.mlp(10, 10, 10)
    units = Weights().of(net, torch.zeros(1, 10).double(), None, ())
    last = units.keep
    for sparsity in (0.3, 0.6, 0.9):
        keep = units.choose(Budget(sparsity), torch.zeros(200), Global())
        units.keep_only(keep)
        assert int(units.keep.sum()) == 200 - round(sparsity * 200)
        assert not bool((units.keep & ~last).any())
        last = units.keep


def test_the_target_may_count_all_parameters():
    net = dense.mlp(10, 20, 3)  # 260 weights and 23 biases
    units = Weights().of(net, torch.zeros(1, 10).double(), None, ())
    keep = units.choose(Budget(0.5, "params"), torch.rand(260), Global())
    assert int((~keep).sum()) == round(0.5 * 283)
    with pytest.raises(BudgetError, match=r"reachable|reach") as caught:
        units.choose(Budget(0.95, "params"), torch.rand(260), Global())
    assert f"{259 / 283:.6g}" in str(caught.value)


def test_at_least_one_weight_stays_and_the_error_says_how_far_one_can_go():
    units = Weights().of(dense.mlp(10, 10), torch.zeros(1, 10).double(), None, ())
    assert int(units.choose(Budget(0.99), torch.rand(100), Global()).sum()) == 1
    with pytest.raises(BudgetError, match=r"0\.99\."):
        units.choose(Budget(0.999), torch.rand(100), Global())


def test_protected_layers_keep_their_best_weight():
    net = dense.mlp(10, 10, 10, 10)
    units = Weights().of(net, torch.zeros(1, 10).double(), None, ())
    scores = torch.cat([torch.rand(100) + 10, torch.rand(100), torch.rand(100) + 5])
    keep = units.choose(Budget(0.95), scores, Global())
    assert [int(part.sum()) for part in keep.split(100)] == [15, 0, 0]
    keep = units.choose(Budget(0.95, protect_layers=True), scores, Global())
    assert [int(part.sum()) for part in keep.split(100)] == [13, 1, 1]
    for part, kept in zip(scores.split(100), keep.split(100), strict=True):
        assert bool(kept[part.argmax()])
    with pytest.raises(BudgetError, match=r"0\.99\."):
        units.choose(Budget(0.995, protect_layers=True), scores, Global())


class Largest(TorchDispatchMode):
    """The most bytes that one tensor took."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.bytes = max(self.bytes, *(t.nbytes for t in tree_leaves(found) if isinstance(t, torch.Tensor)), 0)
        return found


@pytest.mark.parametrize("protect_layers", [False, True])
def test_choosing_globally_needs_no_vector_larger_than_the_scores(protect_layers):
    units = Weights().of(dense.mlp(20, 30, 20), torch.zeros(1, 20).double(), None, ())
    scores = torch.rand(1200)
    with Largest() as seen:
        units.choose(Budget(0.9, protect_layers=protect_layers), scores, Global())
    assert seen.bytes == scores.nbytes


@pytest.mark.parametrize("target", ["node", "flops"])
def test_weights_cannot_meet_a_target_of_channels(target):
    units = Weights().of(dense.mlp(10, 10), torch.zeros(1, 10).double(), None, ())
    with pytest.raises(BudgetError, match=target):
        units.choose(Budget(0.5, target), torch.rand(100), Global())


# Scores that cannot be ranked --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("allocation", [Global(), Uniform()])
@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_scores_that_are_not_finite_are_refused(bad, allocation, units):
    here = units.of(dense.mlp(4, 10, 3), torch.zeros(1, 4).double(), None, ())
    scores = torch.rand(len(here.keep))
    scores[3] = bad
    with pytest.raises(ScoreError, match=f"1 of {len(here.keep)}"):
        here.choose(Budget(0.5), scores, allocation)


def test_the_check_counts_what_is_wrong():
    check_scores(torch.tensor([0.0, -0.0, -3.0, 1e38]))
    with pytest.raises(ScoreError, match="2 of 3"):
        check_scores(torch.tensor([math.nan, 0.0, math.inf]))


# A description that makes no sense ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": -0.1}, "sparsity"),
        ({"sparsity": math.nan}, "sparsity"),
        ({"sparsity": 95.0}, "95"),
        ({"sparsity": 0.5, "min_channels": 0}, "min_channels"),
        ({"sparsity": 0.5, "min_channels": 0.0}, "min_channels"),
        ({"sparsity": 0.5, "min_channels": 1.5}, "min_channels"),
        ({"sparsity": 0.5, "round_to": 0}, "round_to"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(BudgetError, match=message):
        Budget(**options)


# Channels: the nearest stop, by brute force ---------------------------------------------------------------------------


def real_count(net: nn.Module, target: str, inputs, outputs: set[str]) -> float:
    """Counted on the network itself, without the library."""
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    if target == "weight":
        return sum(m.weight.numel() for m in layers.values())
    if target == "params":
        return sum(p.numel() for p in net.parameters())
    if target == "node":
        return sum(m.weight.shape[0] for n, m in layers.items() if n not in outputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(inputs)
    return counter.get_total_flops() / len(inputs)


def stops(units, scores):
    """Every keep-set on the way, from all to the least: the lowest leave first, each layer keeps its best."""
    spaces, keep = {}, torch.ones(len(scores), dtype=torch.bool)
    for number, one in enumerate(units.structure.classes):
        spaces.setdefault(frozenset((m.tensor, m.dim) for m in one.members), []).append(number)
    best = {max(members, key=lambda i: (scores[i].item(), -i)) for members in spaces.values()}
    yield keep.clone()
    for number in sorted(range(len(scores)), key=lambda i: (scores[i].item(), i)):
        if number not in best:
            keep[number] = False
            yield keep.clone()


@pytest.mark.parametrize("make", [dense.residual_net, dense.depthwise_net])
def test_the_nearest_stop_by_brute_force(make):
    net, x = make(), dense.images(2)[0]
    units = Channels().of(net, x, None, ())
    scores = torch.rand(len(units.keep))
    choices, smaller = list(stops(units, scores)), []
    for keep in choices:
        smaller.append(copy.deepcopy(net))
        cut(units.structure, smaller[-1], keep, None)
    for target in ("weight", "node", "params", "flops"):
        counts = [real_count(one, target, x, {"head"}) for one in smaller]
        assert counts == sorted(counts, reverse=True)
        for sparsity in (0.0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.85):
            goal = (1 - sparsity) * counts[0]
            if counts[-1] > goal:
                with pytest.raises(BudgetError) as caught:
                    units.choose(Budget(sparsity, target), scores, Global())
                assert f"{1 - counts[-1] / counts[0]:.6g}" in str(caught.value)
                continue
            first = next(i for i, count in enumerate(counts) if count <= goal + 1e-9)
            expected = first - 1 if first and abs(counts[first - 1] - goal) < abs(counts[first] - goal) else first
            assert torch.equal(units.choose(Budget(sparsity, target), scores, Global()), choices[expected])


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "grouped", "densenet", "chain_with_bias"])
def test_the_most_that_an_error_names_can_be_reached(name):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    units = Channels().of(net, inputs, None, ())
    scores, whole = torch.rand(len(units.keep)), units.counts()
    for target in ("weight", "node", "params", "flops"):
        with pytest.raises(BudgetError) as caught:
            units.choose(Budget(1 - 1e-9, target), scores, Global())
        most = float(re.search(r"reach is ([0-9.]+)\.", str(caught.value)).group(1))
        smaller = copy.deepcopy(net)
        after = cut(units.structure, smaller, units.choose(Budget(most - 1e-6, target), scores, Global()), None)
        left = Counter(after, smaller)().of(target)
        assert left == pytest.approx((1 - most) * whole.of(target), abs=2e-6 * whole.of(target))
        smaller.eval()(*inputs)


# Least widths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "expected", "sparsity"), [(1, 1, 0.85), (3, 3, 0.85), (10, 10, 0.85), (0.5, 5, 0.65), (0.25, 3, 0.8)]
)
def test_a_layer_whose_scores_are_all_tiny_keeps_its_least(least, expected, sparsity):
    net, x = dense.mlp(4, 10, 200, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    scores = torch.rand(210) + 1
    small = units.structure.tensors["0.weight"].classes[0]
    scores[small] = torch.rand(10) * 1e-9
    keep = units.choose(Budget(sparsity, min_channels=least), scores, Global())
    units.keep_only(keep)
    assert net[0].out_features == expected
    assert net[2].out_features < 200
    net(x)
    best = torch.topk(scores[small], expected).indices
    assert bool(keep[small[best]].all())


@pytest.mark.parametrize("round_to", [2, 4, 8])
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
def test_widths_are_multiples(round_to, sparsity):
    net, x = dense.mlp(4, 24, 40, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    units.keep_only(units.choose(Budget(sparsity, round_to=round_to), torch.rand(64), Global()))
    assert net[0].out_features % round_to == net[2].out_features % round_to == 0
    left = sum(net.get_parameter(name).numel() for name in dense.prunable(net))
    whole = 4 * 24 + 24 * 40 + 40 * 3
    assert abs(left - (1 - sparsity) * whole) <= round_to * (24 + 40 + 4)
    net(x)


def rounded_up(units, keep, scores, round_to):
    """Each space keeps more of its best until every layer's width is a multiple or the space is whole."""
    layers = {(layer.weight, layer.dim) for layer in units.structure.layers}
    spaces, held = {}, []
    for number, one in enumerate(units.structure.classes):
        spaces.setdefault(frozenset((m.tensor, m.dim) for m in one.members), []).append(number)
        held.append({(m.tensor, m.dim): len(m.index) for m in one.members if (m.tensor, m.dim) in layers})
    keep = keep.clone()
    for members in spaces.values():
        waiting = sorted((i for i in members if not keep[i]), key=lambda i: (-scores[i].item(), i))
        while waiting:
            widths = {}
            for i in members:
                for where, count in held[i].items():
                    widths[where] = widths.get(where, 0) + count * int(keep[i])
            if all(width % round_to == 0 for width in widths.values()):
                break
            keep[waiting.pop(0)] = True
    return keep


@pytest.mark.parametrize("round_to", [2, 3, 4])
@pytest.mark.parametrize("name", ["mlp_residual", "grouped", "chunk", "pixel_shuffle", "depthwise_multiplier"])
def test_the_nearest_rounded_stop_by_brute_force(name, round_to):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    units = Channels().of(net, inputs, None, ())
    scores = torch.rand(len(units.keep))
    choices, weights = [], []
    for keep in (rounded_up(units, keep, scores, round_to) for keep in stops(units, scores)):
        if choices and torch.equal(keep, choices[-1]):
            continue
        smaller = copy.deepcopy(net)
        cut(units.structure, smaller, keep, None)
        choices.append(keep)
        weights.append(real_count(smaller, "weight", inputs, set()))
    assert weights == sorted(weights, reverse=True)
    for goal in [(a + b) / 2 + shift for a, b in pairwise(weights) for shift in (-0.25, 0.25)][::3]:
        first = next(i for i, count in enumerate(weights) if count <= goal)
        sparsity = 1 - goal / weights[0]
        expected = first - 1 if first and abs(weights[first - 1] - goal) < abs(weights[first] - goal) else first
        assert torch.equal(units.choose(Budget(sparsity, round_to=round_to), scores, Global()), choices[expected])


def test_a_width_that_no_multiple_fits_stays_whole():
    net, x = dense.mlp(4, 10, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    units.keep_only(units.choose(Budget(0.1, round_to=8), torch.rand(10), Global()))
    assert net[0].out_features in (8, 10)


def test_grouped_channels_count_as_many_as_they_are():
    net, inputs = CASES["grouped"].build().double(), CASES["grouped"].inputs()
    units = Channels().of(net, inputs, None, ())
    units.keep_only(units.choose(Budget(0.6, min_channels=2), torch.rand(len(units.keep)), Global()))
    assert all(m.out_channels >= 2 for m in net.modules() if isinstance(m, nn.Conv2d))
    net.eval()(*inputs)


def test_a_fraction_that_must_stay_is_of_the_dense_layer_at_every_step():
    net, x = dense.mlp(4, 16, 50, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    for sparsity in (0.2, 0.4, 0.6):
        scores = torch.rand(len(units.structure)) + 1
        scores[units.structure.tensors["0.weight"].classes[0]] = 0.0
        units.keep_only(units.choose(Budget(sparsity, min_channels=0.5), scores, Global()))
    assert net[0].out_features == 8


class Sequence(nn.Module):
    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        arguments = (x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else (x,)
        return self.head(self.layer(*arguments)[0])


@pytest.mark.parametrize("sparsity", [0.3, 0.6])
@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
def test_a_recurrent_layers_width_is_a_multiple_not_its_rows(make, sparsity):
    net, x = Sequence(make(5, 24, batch_first=True), 24).double(), torch.randn(2, 3, 5, dtype=torch.float64)
    units = Channels().of(net, x, None, ())
    units.keep_only(units.choose(Budget(sparsity, "params", round_to=8), torch.rand(len(units.keep)), Global()))
    assert net.layer.hidden_size in (8, 16)
    net(x)


@pytest.mark.parametrize(("round_to", "heads"), [(6, (1, 2, 3, 4, 5)), (4, (2, 4))])
def test_heads_leave_whole_and_their_channels_are_multiples(round_to, heads):
    """Of six heads of six channels so many stay that the width of all is a multiple."""
    layer, x = nn.MultiheadAttention(36, 6, batch_first=True), torch.randn(2, 3, 36, dtype=torch.float64)
    net = Sequence(layer, 36).double()
    units = Channels().of(net, x, None, ())
    scores = torch.rand(len(units.keep))
    in_head = units.structure.tensors["layer.out_proj.weight"].classes[1]
    scores[in_head.unique()] *= 0.5  # heads leave first
    for sparsity in (0.2, 0.4, 0.5):
        keep = units.choose(Budget(sparsity, "params", round_to=round_to), scores, Global())
        left = int(keep[in_head].sum())
        assert left in {6 * k for k in heads} | {36}
        assert set(scores[in_head.unique()][keep[in_head.unique()]].tolist()) == set(
            scores[in_head.unique()].sort(descending=True).values[: left // 6].tolist()
        )
