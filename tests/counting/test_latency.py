"""Latencies from tables written by hand and from a clock that does not depend on time; nothing here is timed."""

import json
import random
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from earlycrop.allocation import PerCost
from earlycrop.budget import Budget
from earlycrop.counting import Counter, Latency, measuring
from earlycrop.counting.table import Entry, Table, Timing
from earlycrop.errors import BudgetError, EarlyCropError
from earlycrop.structure import trace
from earlycrop.units import Channels
from tests import dense
from tests.cases import CASES
from tests.knapsack import assert_as_a_knapsack
from tests.pruners import make_pruner
from tests.small import Small

IMAGES = dense.images(3)[0]


class Ticks:
    """A clock by which everything takes some random time."""

    def __init__(self) -> None:
        self.now, self.random = 0.0, random.Random(0)

    def __call__(self) -> float:
        self.now += self.random.expovariate(1e6)
        return self.now


def linear(width: int) -> float:
    """Seconds of a product of that width in a table by hand."""
    return 1e-3 * width


def by_hand(net: nn.Module, x: torch.Tensor, first: float = 3.0, second: float = 1.0) -> Latency:
    """A latency of a chain of two linear layers, the first of which costs so much more for each hidden unit."""
    (hidden,) = {layer.out_features for layer in (net[0],)}
    axis = ((0, 1), (1, 1))
    entries = {
        "0": Entry((((1, 0), (2, 0)),), ((1, hidden),), (first * linear(1), first * linear(hidden)), (0.0, 0.0)),
        "1": Entry((), (), (0.5e-3,), (0.0,)),
        "2": Entry((axis,), ((1, hidden),), (second * linear(1), second * linear(hidden)), (0.0, 0.0)),
    }
    operations = trace(net, x).work.operations
    calls = tuple((one.name, entry) for one, entry in zip(operations, entries.values(), strict=True))
    table = Table(calls, ())
    return Latency("a device", len(x), table.digest, table)


@pytest.fixture
def chain():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double(), torch.zeros(2, 4).double()


def test_it_is_the_sum_of_the_operators(chain):
    net, x = chain
    counter, cost = Counter(trace(net, x), net), by_hand(*chain)
    for left in range(1, 9):
        assert counter.price(cost, torch.arange(8) < left) == pytest.approx(4 * left + 0.5)  # milliseconds
    torch.testing.assert_close(counter.prices(cost), torch.full((8,), 4.0).double())


def test_the_batch_that_is_traced_makes_no_difference(chain):
    net, x = chain
    wide = Counter(trace(net, x.repeat(5, 1)), net)
    assert wide.price(by_hand(net, x)) == pytest.approx(32.5)


class Branches(nn.Module):
    """Hidden layers side by side, whose latencies add up."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(3, 4, bias=False) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(4, 2, bias=False) for _ in range(3))

    def forward(self, x):
        return sum(out(torch.relu(read(x))) for read, out in zip(self.read, self.out, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_of_latency_is_a_knapsack(seed):
    """Against every choice of channels: none as fast is worth more, but for at most one channel's worth."""
    units = Channels().of(Branches(), torch.zeros(1, 3), None, ())
    slow = iter((1.0, 5.0, 17.0))
    calls = []
    for one in units.structure.work.operations:
        each = next(slow) * 1e-3 if one.operands[-1].shape == (4, 3) else 0.0  # the layers that read the input
        axes = (((len(one.operands) - 1, 0),),) if each else ()
        calls.append(
            (one.name, Entry(axes, ((1, 4),), (each, 4 * each), (0, 0)) if each else Entry((), (), (0,), (0,)))
        )
    table = Table(tuple(calls), ())
    cost = Latency("a device", 1, table.digest, table)
    scores = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    price = torch.zeros(12)
    for number, each in enumerate((1, 5, 17)):
        price[units.structure.tensors[f"read.{number}.weight"].classes[0]] = float(each)
    keep = units.choose(Budget(0.5, target=cost), scores, PerCost())
    assert_as_a_knapsack(units.layer, keep, scores, price)


# The table ----------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(lambda row: tuple(sorted(row)))


@settings(deadline=None)
@given(ROWS, ROWS, st.data())
def test_interpolation_never_falls_when_a_width_grows(one, other, data):
    count = len(one) * len(other)
    seconds = tuple(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    entry = Entry((((0, 0),), ((0, 1),)), (one, other), seconds, (0.0,) * count)
    found = {(a, b): entry.at([(a, b)]) for a, b in product(range(one[-1] + 1), range(other[-1] + 1))}
    for (a, b), value in found.items():
        assert value >= found.get((a - 1, b), 0) - 1e-9
        assert value >= found.get((a, b - 1), 0) - 1e-9
        assert min(seconds) - 1e-9 <= value <= max(seconds) + 1e-9


def test_interpolation_by_hand():
    entry = Entry((((0, 0),), ((1, 0),)), ((1, 5), (2, 4)), (1.0, 2.0, 5.0, 8.0), (0.0,) * 4)
    assert entry.at([(1,), (2,)]) == 1.0
    assert entry.at([(5,), (3,)]) == 6.5
    assert entry.at([(3,), (3,)]) == pytest.approx((1 + 2 + 5 + 8) / 4)
    assert entry.at([(0,), (0,)]) == 1.0
    with pytest.raises(IndexError, match="wider"):
        entry.at([(6,), (2,)])


def test_widths_that_change_together_count_by_their_sum():
    entry = Entry((((0, 1), (1, 0)), ((0, 0),)), ((3, 12),), (1.0, 4.0), (0.0, 0.0), joint=True)
    assert entry.at([(2, 2), (2,)]) == 2.0


def test_sums_are_fitted_to_networks():
    exact = Table((), tuple(Timing(one, 3 * one**0.8, 0.0) for one in (0.1, 0.2, 0.7)))
    assert exact.fit == pytest.approx((3, 0.8))
    assert exact.error == pytest.approx(0, abs=1e-9)
    assert Table((), (Timing(0.1, 0.2, 0.0),)).fit == pytest.approx((2, 1))
    falling = Table((), (Timing(1.0, 2.0, 0.0), Timing(2.0, 1.0, 0.0)))
    assert falling.fit[1] > 0
    assert falling.error > 0.4


# Measuring ----------------------------------------------------------------------------------------------------------


def measured(net: nn.Module, x: object = IMAGES, path=None, **options) -> Latency:
    return Latency.measured(net, x, path, seconds=0, clock=Ticks(), **options)


def test_a_file_is_not_measured_again(tmp_path, monkeypatch):
    net, path = Small().double(), tmp_path / "latency.json"
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = measured(net, path=path)
    assert first.batch == 3
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    monkeypatch.setattr(measuring, "_Rounds", None)
    again = measured(net, path=path)
    assert (again, again.table, repr(again)) == (first, first.table, repr(first))
    assert first.digest in repr(first)
    assert len(repr(first)) < 120


def test_a_file_holds_several_networks_and_what_they_share_once(tmp_path):
    path = tmp_path / "latency.json"
    small = measured(Small().double(), path=path)
    entries = len(json.loads(path.read_text())["entries"])
    assert entries < len(small.table.calls) or entries == len({name for name, _ in small.table.calls})
    measured(dense.residual_net(), path=path)
    record = json.loads(path.read_text())
    assert len(record["networks"]) == 2
    assert measured(Small().double(), path=path) == small


@pytest.mark.parametrize("key", ["device", "threads", "torch"])
def test_the_file_of_another_machine_is_refused_or_replaced(tmp_path, key):
    path = tmp_path / "latency.json"
    measured(Small().double(), path=path)
    record = json.loads(path.read_text())
    record["machine"][key] = 77
    path.write_text(json.dumps(record))
    with pytest.raises(BudgetError, match=r"77.*again=True"):
        measured(Small().double(), path=path)
    measured(Small().double(), path=path, again=True)
    measured(Small().double(), path=path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "{}",
        lambda text: text.replace("earlycrop latency 1", "something else"),
        lambda text: text.replace('"seconds": [', '"seconds": [1.0,', 1),
        lambda text: text.replace('"seconds": [', '"seconds": [-', 1),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "latency.json"
    measured(Small().double(), path=path)
    path.write_text(damaged := damage(path.read_text()))
    with pytest.raises(BudgetError, match="damaged"):
        measured(Small().double(), path=path)
    assert path.read_text() == damaged


@pytest.mark.parametrize("name", dense.some_of(["resnet", "mobilenet", "resnext", "densenet", "unet"], ["mobilenet"]))
def test_it_never_rises_when_channels_leave(name):
    net, inputs = CASES[name].build().double(), CASES[name].inputs()
    cost = measured(net, inputs)
    structure = trace(net, inputs)
    counter, keep = Counter(structure, net), torch.ones(len(structure), dtype=torch.bool)
    price = counter.price(cost)
    for one in torch.randperm(len(structure), generator=torch.Generator().manual_seed(1))[:-1].tolist():
        keep[one] = False
        assert counter.price(cost, keep) <= price * (1 + 1e-12)
        price = counter.price(cost, keep)


def test_operators_are_called_at_their_widths(monkeypatch):
    """Each operator of a network with groups of several kinds runs at every width that is asked for."""
    net, inputs = CASES["resnext"].build().double(), CASES["resnext"].inputs()
    subjects = measuring._subjects(trace(net, inputs))
    assert any(one.joint for one in subjects.values()) or len(subjects) > 3
    for one in subjects.values():
        for point in one.points:
            one.call(point, torch.device("cpu")).run()


# With a pruner ------------------------------------------------------------------------------------------------------


def proportional(net: nn.Module) -> Latency:
    """A latency of every operator that grows with each of its widths, by hand."""
    structure = trace(net, IMAGES)
    entries = {
        name: Entry(one.axes, one.widths, tuple(1e-3 * sum(p) for p in one.points), (0.0,) * len(one.points), one.joint)
        for name, one in measuring._subjects(structure).items()
    }
    table = Table(tuple((one.name, entries[one.name]) for one in structure.work.operations), ())
    return Latency("a device", len(IMAGES), table.digest, table)


def test_a_network_is_pruned_to_a_latency():
    net = Small().double()
    cost = proportional(net)
    options = {"loss": dense.cross_entropy, "batches": [dense.images()], "example_inputs": dense.images()[0][:2]}
    pruner = make_pruner(net, "crop-s", 0.3, target=cost, **options)
    report = pruner.check(0)
    assert report.target == "latency"
    assert report.after.other == Counter(pruner.units.structure, net).price(cost) < report.before.other
    again = make_pruner(Small().double(), "crop-s", 0.3, target=cost, **options)
    again.load_state_dict(pruner.state_dict())
    other = Latency(cost.device, cost.batch, "00000000", cost.table)
    with pytest.raises(EarlyCropError, match="digest"):
        make_pruner(Small().double(), "crop-s", 0.3, target=other, **options).load_state_dict(pruner.state_dict())


def test_the_latency_of_another_network_is_refused():
    cost, net = measured(Small().double()), dense.residual_net()
    with pytest.raises(BudgetError, match="another network"):
        Counter(trace(net, IMAGES), net).price(cost)
