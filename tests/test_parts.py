"""Parts of a network: each loses its own part of its own cost, by the names that the user gives."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from earlycrop import Budget, Pruner, Report, Scoring
from earlycrop.allocation import Global, PerCost, Uniform
from earlycrop.errors import BudgetError
from earlycrop.parts import Parts, check_parts
from earlycrop.steps import Exponential, Halving
from earlycrop.structure import cut
from earlycrop.units import Channels, Weights
from tests import dense
from tests.cases import CASES
from tests.small import BATCH, small, through_a_file


def weight_units(net: nn.Module, width: int = 4):
    return Weights().of(net, torch.zeros(1, width).double(), None, ())


# Single weights: exact numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", ["distinct", "equal", "apart"])
@pytest.mark.parametrize("allocation", [Global(), Uniform()])
def test_exactly_so_many_weights_of_each_part_stay(scores, allocation):
    units = weight_units(dense.mlp(4, 10, 20, 30, 3))  # 40, 200, 600 and 90 weights
    drawn = {
        "distinct": torch.rand(930),
        "equal": torch.ones(930),
        "apart": torch.rand(930) + torch.arange(4).repeat_interleave(torch.tensor([40, 200, 600, 90])) * 10,
    }[scores]
    keep = units.choose(Budget(0.5, parts={"0": 0.1, ("2", "6"): 0.9, "4": 0.25}), drawn, allocation)
    first, second, third, last = keep.split([40, 200, 600, 90])
    assert int(first.sum()) == 40 - 4
    assert int(second.sum() + last.sum()) == 290 - 261
    assert int(third.sum()) == 600 - 150
    if allocation == Global():
        for part in ([0], [1, 3], [2]):
            here = torch.cat([drawn.split([40, 200, 600, 90])[i] for i in part])
            kept = torch.cat([keep.split([40, 200, 600, 90])[i] for i in part])
            assert here[kept].min() >= here[~kept].max()


def test_the_sparsity_holds_over_what_is_not_named():
    units = weight_units(dense.mlp(4, 10, 20, 3))
    keep = units.choose(Budget(0.5, parts={"2": 0.0}), torch.rand(300), Global())
    first, second, last = keep.split([40, 200, 60])
    assert bool(second.all())
    assert int(first.sum() + last.sum()) == 50


def test_parts_of_parameters_count_biases_and_what_is_kept_whole():
    net = dense.mlp(4, 10, 20, 3)  # biases 10, 20, 3
    units = Weights().of(net, torch.zeros(1, 4).double(), None, ("0",))
    keep = units.choose(Budget(0.0, "params", parts={("0", "2"): 0.5}), torch.rand(260), Global())
    second, last = keep.split([200, 60])
    assert int((~second).sum()) == (50 + 220) // 2
    assert bool(last.all())
    with pytest.raises(BudgetError, match=r"Cannot reach `0`'s params sparsity 0\.5: at least 0 of 0"):
        units.choose(Budget(0.0, "params", parts={"0": 0.5}), torch.rand(260), Global())


def test_a_parameter_may_be_named_and_the_longest_name_decides():
    net = dense.Net(
        lambda rnn, head, x: head(rnn(x)[0][:, -1]), rnn=nn.LSTM(4, 5, batch_first=True), head=nn.Linear(5, 3)
    )
    units = Weights().of(net.double(), torch.zeros(2, 6, 4).double(), None, ())
    given = {"rnn": 0.75, "rnn.weight_hh_l0": 0.2}
    keep = units.choose(Budget(0.0, parts=given), torch.rand(80 + 100 + 15), Global())
    read, again, head = keep.split([80, 100, 15])
    assert (int(read.sum()), int(again.sum()), int(head.sum())) == (20, 80, 15)


# Channels: as near as one class ---------------------------------------------------------------------------------------


def inside(net: nn.Module, target: str, inputs: torch.Tensor, mine: Callable[[str], bool], outputs: set[str]) -> float:
    """The cost of some layers, counted on the network itself without the library."""
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and mine(n)}
    if target == "weight":
        return sum(m.weight.numel() for m in layers.values())
    if target == "params":
        return sum(p.numel() for n, p in net.named_parameters() if mine(n.rpartition(".")[0]))
    if target == "node":
        return sum(m.weight.shape[0] for n, m in layers.items() if n not in outputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(inputs)
    found = counter.get_flop_counts()
    root = type(net).__name__
    return sum(sum(found.get(f"{root}.{name}", {}).values()) for name in layers) / len(inputs)


CASES_OF_PARTS = {
    "a chain": (lambda: dense.mlp(2, 5, 6, 7, 3), (2, 2), {"0": 0.5, "2": 0.25}, 0.6),
    "several names": (lambda: dense.mlp(2, 5, 6, 7, 3), (2, 2), {("0", "4"): 0.5}, 0.3),
    "a stream": (dense.residual_net, (2, 2, 4, 4), {"conv1": 0.3}, 0.4),
    "its second creator": (dense.residual_net, (2, 2, 4, 4), {"conv2": 0.25, "head": 0.2}, 0.3),
    "depthwise": (dense.depthwise_net, (2, 2, 4, 4), {"project": 0.3}, 0.4),
}


def stops(units, scores, mine: list[int]):
    """Every choice on the way as classes of a part leave, from all to the least; each space keeps its best."""
    spaces, keep = {}, torch.ones(len(scores), dtype=torch.bool)
    for number, one in enumerate(units.structure.classes):
        spaces.setdefault(frozenset((m.tensor, m.dim) for m in one.members), []).append(number)
    best = {max(members, key=lambda i: (scores[i].item(), -i)) for members in spaces.values()}
    yield keep.clone()
    for number in sorted(mine, key=lambda i: (scores[i].item(), i)):
        if number not in best:
            keep[number] = False
            yield keep.clone()


def owner(units, number: int, names: list[str]) -> str | None:
    """The longest name among those of the layers that create a class; the first of several."""
    made = ((name, units.structure.tensors[name].classes[dim]) for name, dim in units.structure.creators)
    creators = [name for name, classes in made if classes is not None and number in classes]
    fitting = [(name, creator) for creator in creators for name in names if (creator + ".").startswith(name + ".")]
    return max(fitting, key=lambda pair: pair[0].count("."))[0] if fitting else None


@pytest.mark.parametrize("target", ["weight", "node", "params", "flops"])
@pytest.mark.parametrize("name", CASES_OF_PARTS)
@pytest.mark.parametrize("seed", range(3))
def test_no_part_could_come_nearer_given_what_leaves_elsewhere(name, target, seed):
    build, shape, parts, rest = CASES_OF_PARTS[name]
    torch.manual_seed(seed)
    net, x = build(), torch.rand(shape).double()
    units = Channels().of(net, x, None, ())
    scores = torch.rand(len(units.keep))
    if target == "node":
        parts = {key: sparsity for key, sparsity in parts.items() if key != "head"}
    keep = units.choose(Budget(rest, target, parts=parts), scores, Global())
    named = {one: key for key in parts for one in (key if isinstance(key, tuple) else (key,))}
    outputs = {"head", "6"}
    for key, sparsity in [*parts.items(), (None, rest)]:
        mine = [i for i in range(len(scores)) if named.get(owner(units, i, list(named))) == key]
        elsewhere = keep.clone()
        elsewhere[mine] = True
        costs, choices = [], [stop & elsewhere for stop in stops(units, scores, mine)]
        for choice in [torch.ones_like(keep), *choices]:
            smaller = copy.deepcopy(net)
            cut(units.structure, smaller, choice, None)
            costs.append(inside(smaller, target, x, lambda n: named.get(n) == key, outputs))  # noqa: B023
        whole, *costs = costs
        distances = [abs(cost - (1 - sparsity) * whole) for cost in costs]
        chosen = next(i for i, choice in enumerate(choices) if torch.equal(choice, keep))
        assert distances[chosen] == pytest.approx(min(distances), abs=1e-9)


def test_by_hand():
    """4 - 2 - 3 - 1 without biases: 8, 6 and 3 weights; each layer is a part, and each part has its own worst."""
    net = dense.mlp(4, 2, 3, 1, bias=False)
    units = Channels().of(net, torch.zeros(1, 4).double(), None, ())
    scores = torch.tensor([5.0, 6.0, 0.3, 0.1, 0.2])  # a ranking of all would take the second layer's
    keep = units.choose(Budget(0.0, parts={"0": 0.5, "2": 0.5}), scores, Global())
    assert keep.tolist() == [False, True, True, True, True]  # 8 -> 4; then 6 -> 3 with the inputs alone
    keep = units.choose(Budget(0.0, parts={"0": 0.5, "2": 2 / 3}), scores, Global())
    assert keep.tolist() == [False, True, True, False, True]  # 6 -> 1 · 2
    keep = units.choose(Budget(2 / 3, parts={"0": 0.0}), scores, Global())
    assert keep.tolist() == [True, True, True, False, False]  # 6 + 3 -> 2 + 1
    keep = units.choose(Budget(1 / 3, "node", parts={"2": 2 / 3}), scores, Global())  # the rest has 2 + 1
    assert keep.tolist() == [False, True, True, False, False]


def test_prices_are_those_of_the_part():
    """In 4 - 2 - 2 - 50, the second layer's channels are dear to their reader, and the first layer's to the part."""
    units = Channels().of(dense.mlp(4, 2, 2, 50, 3, bias=False), torch.zeros(1, 4).double(), None, ())
    scores = torch.cat([torch.tensor([1.0, 1.1, 1.2, 1.3]), torch.rand(50)])
    keep = units.choose(Budget(0.0, parts={("0", "2"): 0.5}), scores, PerCost())
    assert keep[:4].tolist() == [False, True, True, True]
    keep = units.choose(Budget(50 / (8 + 4 + 100 + 150)), scores + torch.arange(54).ge(4) * 1e6, PerCost())
    assert keep[:4].tolist() == [True, True, False, True]


def test_a_part_that_others_have_taken_enough_of_loses_nothing_of_its_own():
    net = small()
    report = make_parts(net, "crop-s", Budget(0.0, parts={"stem": 0.75, "conv1": 0.5})).check(0)
    found = {part.part: part for part in report.parts}
    assert found["stem"].sparsity == 0.75
    assert found["conv1"].sparsity == 0.75  # its inputs alone are more than was asked for
    assert net.conv1.out_channels == 6


def make_parts(net, method, budget, **options):
    scoring = Scoring(dense.cross_entropy, [BATCH])
    return Pruner(net, method, budget, example_inputs=BATCH[0][:2], scoring=scoring, epochs=8, **options)


# Whole methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["crop-s", "cropit-s", "earlycrop-s", "crop-u", "random-s"])
def test_methods_in_any_number_of_steps_reach_each_part(method):
    net = small()
    pruner = make_parts(net, method, Budget(0.25, parts={"stem": 0.5, "conv1": 2 / 3}))
    plan, widths = pruner.dry_run(), {}
    report = next(filter(None, (pruner.check(epoch) for epoch in range(8))))
    assert [part.part for part in report.parts] == ["stem", "conv1", "the rest"]
    stem, conv1, rest = report.parts
    assert (stem.before, conv1.before, rest.before) == (144, 432, 24 + 432)
    if report.unit == "weights":
        assert [part.after for part in report.parts] == [72, 144, 342]
    else:
        widths = {width.layer: width.after for width in report.widths}
        assert widths["stem"] == 4
        assert widths["conv1"] == 4
        assert (stem.after, conv1.after, rest.after) == (72, 144, 12 + 144)
    assert report.after.prunable == sum(part.after for part in report.parts)
    assert [part.before for part in plan.parts] == [part.before for part in report.parts]
    for one in (str(plan), str(report)):
        assert "part        conv1" in one
        assert "asked for 0.25" in one
    again = Report.from_dict(json.loads(json.dumps(report.as_dict())))
    assert again.parts == report.parts
    json.dumps(plan.as_dict())


def test_each_step_is_the_same_fraction_of_the_way_of_every_part():
    budget = Budget(0.4, parts={"stem": 0.8, "head": 0.0})
    assert budget.highest == 0.8
    steps = Halving(2).towards(budget.highest)
    for step in steps:
        at = budget.at(step)
        assert at.sparsity == pytest.approx(0.5 * step)
        assert at.parts == {"stem": pytest.approx(step), "head": 0}
    assert budget.at(steps[-1]) == budget
    assert Budget(0.0, parts={"stem": 0.0}).at(0.0) == Budget(0.0, parts={"stem": 0.0})
    net, seen = dense.mlp(10, 20, 30, 3, bias=False), []
    units = Weights().of(net, torch.zeros(1, 10).double(), None, ())
    for step in Exponential(3).towards(0.875):
        units.keep_only(units.choose(Budget(0.0, parts={"0": 0.875, "2": 0.4375}).at(step), torch.rand(890), Global()))
        seen.append([width for _, width in units.widths()])
    assert seen == [[100, 450, 90], [50, 375, 90], [25, 338, 90]]


def test_only_what_is_named_may_leave():
    net = small()
    report = make_parts(net, "earlycrop-s", Budget(0.0, parts={"conv1": 0.5})).check(0)
    assert report is None  # a rule that follows sparsity has the part's, and waits
    report = make_parts(net, "crop-s", Budget(0.0, parts={"conv1": 0.5})).check(0)
    assert (net.stem.out_channels, net.conv1.out_channels, net.conv2.out_channels) == (8, 3, 8)
    assert report.requested_sparsity == 0


def test_a_saved_state_continues_with_the_same_parts_and_with_no_others():
    budget = Budget(0.25, parts={"stem": 0.5})
    pruner = make_parts(small(), "crop-s", budget)
    pruner.check(0)
    state = through_a_file(pruner.state_dict())
    again = make_parts(small(), "crop-s", budget)
    again.load_state_dict(state)
    assert torch.equal(again.units.keep, pruner.units.keep)
    assert again.report == pruner.report
    with pytest.raises(ValueError, match="another budget"):
        make_parts(small(), "crop-s", Budget(0.25, parts={"stem": 0.4})).load_state_dict(state)


def test_min_channels_and_round_to_hold_inside_parts():
    net = dense.mlp(4, 24, 40, 3)
    units = Channels().of(net, torch.zeros(1, 4).double(), None, ())
    units.keep_only(units.choose(Budget(0.3, round_to=8, min_channels=16, parts={"0": 0.3}), torch.rand(64), Global()))
    assert net[0].out_features == 16
    assert net[2].out_features % 8 == 0


# Which part ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "whose"),
    [
        ({"stem": 0.1}, 0),
        ({"conv2": 0.1}, 0),
        ({"conv2": 0.1, "stem": 0.2}, 1),  # both fit as well: the layer that runs first
        ({"conv2.weight": 0.1, "stem": 0.2}, 0),
        ({("conv1", "conv2"): 0.1, "stem": 0.2}, 1),
    ],
)
def test_a_stream_belongs_to_the_longest_name_and_then_to_the_first_layer(parts, whose):
    units = Channels().of(small(), BATCH[0][:2], None, ())
    owners = Parts(units.model, parts).owners(units.structure)
    stream = units.structure.tensors["stem.weight"].classes[0]
    assert owners[stream].tolist() == [whose] * 8


@pytest.mark.parametrize("name", ["resnet", "unet", "recurrent_lstm", "densenet", "grouped"])
def test_the_classes_of_a_space_have_one_part(name):
    case = CASES[name]
    net = case.build().double()
    units = Channels().of(net, case.inputs(), None, ())
    names = [one.name for one in units.layers]
    owners = Parts(net, dict.fromkeys(names[::2], 0.1)).owners(units.structure)
    for space in units.layer.unique():
        assert len(owners[units.layer == space].unique()) == 1


# What cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"conv1": 1.0}, r"sparsity of `conv1` in `parts` .* found 1\.0"),
        ({"conv1": "0.5"}, "found '0.5'"),
        ({"": 0.5}, "strings or tuples of strings"),
        ({(): 0.5}, "strings or tuples of strings"),
        ({7: 0.5}, "strings or tuples of strings"),
        ({"conv1": 0.5, ("stem", "conv1"): 0.2}, "names 'conv1' twice"),
        ([0.5], "maps names to sparsities"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts, message):
    with pytest.raises(BudgetError, match=message):
        check_parts(parts)


@pytest.mark.parametrize("method", ["crop-s", "crop-u"])
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"conv11": 0.5}, "`parts` names 'conv11', .* Did you mean 'conv1'"),
        ({("stem", "haed"): 0.5}, "Did you mean 'head'"),
        ({"norm1": 0.5}, "weight counts nothing in it"),
        ({"conv1": 0.5, "conv1.weight": 0.2}, "gives `conv1` a sparsity, but weight counts nothing"),
        ({"conv1": 0.999}, "Cannot reach `conv1`'s weight sparsity 0.999"),
    ],
)
def test_names_and_targets_that_cannot_be_are_found_before_anything_is_touched(method, parts, message):
    net = small()
    before = dense.everything(net)
    with pytest.raises(BudgetError, match=message):
        make_parts(net, method, Budget(0.2, parts=parts))
    assert dense.everything(net) == before


def test_a_part_whose_channels_cannot_leave_says_so():
    with pytest.raises(BudgetError, match=r"`head`'s weight sparsity 0\.9.*None of the channels"):
        make_parts(small(), "crop-s", Budget(0.2, parts={"head": 0.9}))


def test_masks_cannot_meet_a_target_of_channels_in_parts_either():
    with pytest.raises(BudgetError, match="`target='flops'`"):
        make_parts(small(), "crop-u", Budget(0.2, "flops", parts={"head": 0.5}))


# A description --------------------------------------------------------------------------------------------------------


def test_a_budget_with_parts_is_its_own_source_and_one_without_is_as_before():
    budget = Budget(0.5, "flops", parts={"stem": 0.1, ("conv1", "head"): 0.2})
    assert eval(repr(budget), {"Budget": Budget}) == budget
    assert hash(budget) == hash(Budget(0.5, "flops", parts={("conv1", "head"): 0.2, "stem": 0.1}))
    assert budget != Budget(0.5, "flops")
    assert repr(Budget(0.5)) == (
        "Budget(sparsity=0.5, target='weight', min_channels=None, round_to=1, protect_layers=False)"
    )


def test_the_given_mapping_may_change_afterwards():
    given = {"stem": 0.1}
    budget = Budget(0.5, parts=given)
    given["stem"] = 0.9
    assert budget.parts == {"stem": 0.1}


@pytest.mark.parametrize("sparsity", [0.0, 0.3])
def test_memory_has_no_parts(sparsity):
    """Activations lie between layers: the whole network would be counted as every part."""
    with pytest.raises(BudgetError, match=r"of a whole network, not of parts: .* a target of weight, params, node or"):
        Pruner(small(), "random-s", Budget(sparsity, "memory", parts={"stem": 0.5}), example_inputs=BATCH[0][:2])
