"""What a dry run says is what the cut then does, and it touches nothing."""

import json

import pytest
import torch

from earlycrop import METHODS, EarlyCropError, get_method
from earlycrop.budget import Budget
from earlycrop.counting import Counter
from earlycrop.scores import GateDecorator
from earlycrop.structure import trace
from earlycrop.timing import AbstractDetector
from earlycrop.units import Channels
from tests import dense
from tests.cases import CASES
from tests.small import BATCH, PRUNING, Failing, adam, interrupted, make, momentum, small, train


@pytest.mark.parametrize("name", dense.some_of(PRUNING, ["crop-s", "cropit-s", "cropit-u", "snip", "random-s"]))
def test_what_is_planned_is_what_is_cut_and_nothing_is_touched(name):
    net = small()
    optimizer = momentum(net)
    pruner = make(net, optimizer, name)
    if not isinstance(METHODS[name].score, GateDecorator):
        train(net, optimizer)
    before, units = dense.everything(net, optimizer), pruner.units.keep.clone()
    plan = pruner.dry_run()
    assert dense.everything(net, optimizer) == before
    assert torch.equal(pruner.units.keep, units)
    assert not pruner.pruned
    assert plan.as_dict() == pruner.dry_run().as_dict()
    if isinstance(METHODS[name].timing, AbstractDetector):
        pruner.check(0)
    while not pruner.done:
        report = pruner._prune(0, "init")
    assert (plan.before, plan.after) == (report.before, report.after)
    assert [(row.layer, row.before, row.after) for row in plan.rows] == [
        (width.layer, width.before, width.after) for width in report.widths
    ]
    assert plan.frozen == report.frozen
    assert plan.unit == report.unit
    if plan.unit == "channels":
        assert [one.stays for one in plan.classes] == pruner.units.keep.tolist()
    else:
        assert plan.classes == ()
    train(net, optimizer)


def test_sizes_in_a_list_are_put_back():
    net, x = CASES["split_by_list"].build().double(), CASES["split_by_list"].inputs()
    before = [dict(vars(module)) for module in net.modules()]
    pruner = make(net, None, "random-s", example_inputs=x, batches=None, loss=None)
    assert pruner.dry_run().after.prunable < pruner.units.counts().prunable
    assert [vars(module) for module in net.modules()] == before
    net(*x)


@pytest.mark.parametrize("name", ["snap", "magnitude-s"])
def test_a_plan_lists_every_class_with_its_members_and_its_worth(name):
    net = small()
    pruner = make(net, None, name)
    plan, scores = pruner.dry_run(), pruner.scores()
    assert [one.worth for one in plan.classes] == pytest.approx(scores.tolist())
    classes = trace(small(), BATCH[0][:2]).classes
    assert [
        [(m.tensor, m.dim, list(m.index)) for m in one.members] for one in plan.classes
    ] == [[(m.tensor, m.dim, m.index.tolist()) for m in one.members] for one in classes]  # fmt: skip
    staying = [one.worth for one in plan.classes if one.stays]
    leaving = [one.worth for one in plan.classes if not one.stays]
    assert min(staying) >= max(leaving)
    stem, conv1, conv2, head = plan.rows
    assert stem.spaces == conv2.spaces != conv1.spaces
    assert len(stem.spaces) == len(conv1.spaces) == 1
    stream = [one.worth for one in plan.classes if one.members[0].tensor == "stem.weight"]
    assert (stem.worst, stem.best) == (min(stream), max(stream)) == (conv2.worst, conv2.best)
    assert (head.worst, head.best, head.spaces, head.frozen) == (None, None, (), "an output of the network")
    removed = [number for number, one in enumerate(plan.classes) if not one.stays]
    keep = torch.ones(len(plan.classes), dtype=torch.bool)
    keep[removed] = False
    assert Counter(trace(small(), BATCH[0][:2]), small())(keep) == plan.after


def test_the_worth_of_weights_and_the_density_of_layers():
    net = small()
    pruner = make(net, None, "snip")
    plan, scores = pruner.dry_run(), pruner.scores()
    parts = scores.split([net.get_parameter(name).numel() for name in dense.prunable(net)])
    keep = pruner.units.choose(Budget(0.6), scores, get_method("snip").allocation).split([p.numel() for p in parts])
    for row, part, kept in zip(plan.rows, parts, keep, strict=True):
        assert (row.worst, row.best) == (float(part.min()), float(part.max()))
        assert (row.before, row.after) == (part.numel(), int(kept.sum()))


def test_the_last_score_of_each_class_is_told_where_there_are_several_steps():
    plan = make(small(), None, "cropit-s-poster").dry_run()
    net, worth = small(), {}
    pruner = make(net, None, "cropit-s-poster")
    numbers = torch.arange(len(pruner.units.keep))
    for sparsity in pruner.method.steps.towards(0.6):
        scores = pruner.scores()
        worth |= dict(zip(numbers.tolist(), scores.tolist(), strict=True))
        keep = pruner.units.choose(pruner.budget.at(sparsity), scores, pruner.method.allocation)
        pruner.units.keep_only(keep)
        numbers = numbers[keep]
    assert [one.worth for one in plan.classes] == pytest.approx([worth[n] for n in range(len(plan.classes))])


def test_a_plan_reads_as_text_and_as_records():
    net = small()
    plan = make(net, None, "crop-s", 0.3, ignore=("norm1",)).dry_run()
    text = str(plan)
    row = next(row for row in plan.rows if row.layer == "conv1")
    assert row.frozen == "conv1.weight dim 0 (6 channels): kept by `ignore`"
    assert text.count("kept by `ignore`") == 1
    assert f"{plan.before.prunable:,} -> {plan.after.prunable:>13,}" in text
    for row in plan.rows:
        (line,) = [line for line in text.splitlines() if line.split()[0] == row.layer]
        assert f"{row.before:,} -> {row.after:>9,}" in line
    record = json.loads(json.dumps(plan.as_dict(), allow_nan=False))
    assert record["classes"][0]["members"][0] == {
        "tensor": plan.classes[0].members[0].tensor,
        "dim": plan.classes[0].members[0].dim,
        "index": list(plan.classes[0].members[0].index),
    }
    assert record["after"]["prunable"] == plan.after.prunable


@pytest.mark.parametrize("name", ["cropit-s", "cropit-u"])
def test_a_dry_run_that_fails_touches_nothing(name):
    net = small()
    optimizer, loss = adam(net), Failing(10**9, interrupted)
    pruner = make(net, optimizer, name, loss=loss)
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    loss.calls, loss.after = 0, 5
    with pytest.raises(KeyboardInterrupt):
        pruner.dry_run()
    assert dense.everything(net, optimizer) == before


def test_there_is_nothing_to_plan_after_the_cut_or_without_one():
    pruner = make(small(), None, "crop-s")
    pruner.check(0)
    with pytest.raises(EarlyCropError, match="pruned already"):
        pruner.dry_run()
    with pytest.raises(EarlyCropError, match="never prunes"):
        make(small(), None, "dense").dry_run()


# Coupled by hand --------------------------------------------------------------------------------------------------


def twins(*, wide: int = 6):
    return dense.awake(
        dense.Net(
            lambda n, x: n.head(torch.tanh(n.a(x)).mean((2, 3))) + n.tail(torch.tanh(n.b(x)).mean((2, 3))),
            a=torch.nn.Conv2d(2, 6, 3),
            b=torch.nn.Conv2d(2, wide, 3),
            head=torch.nn.Linear(6, 3),
            tail=torch.nn.Linear(wide, 3),
        )
    )


@pytest.mark.parametrize("names", [("a", "b"), ("a.weight", "b.weight"), ["b", "a.weight"]])
def test_layers_coupled_by_hand_leave_index_by_index(names):
    x = BATCH[0][:2]
    assert len(trace(twins(), x)) == 12
    structure = trace(twins(), x, coupled=[names])
    assert len(structure) == 6
    for one in structure.classes:
        places = {(m.tensor, m.dim): m.index.tolist() for m in one.members}
        assert set(places) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.bias", 0), ("head.weight", 1),
                               ("tail.weight", 1)}  # fmt: skip
        assert len({tuple(index) for index in places.values()}) == 1
    net = twins()
    report = make(net, None, "crop-s", 0.5, coupled=[names]).check(0)
    assert report.verification.exact
    assert net.a.out_channels == net.b.out_channels < 6


def test_what_is_coupled_to_an_ignored_layer_stays():
    structure = trace(twins(), BATCH[0][:2], ignore=("a",), coupled=[("a", "b")])
    assert len(structure) == 0


@pytest.mark.parametrize(
    ("together", "wide", "what"),
    [
        ([("a", "b")], 5, "6 and 5 channels"),
        ([("a", "c")], 6, "'c', which is not a layer"),
        ([("a", "function")], 6, "Did you mean"),
        ([("a",)], 6, "two or more"),
        (["a"], 6, "two or more"),
        ([("a", "a.bias")], 6, "not a layer that creates"),
    ],
)
def test_what_cannot_be_coupled_is_refused(together, wide, what):
    net = twins(wide=wide)
    before = dense.everything(net)
    with pytest.raises(EarlyCropError, match=what):
        make(net, None, "crop-s", coupled=together)
    assert dense.everything(net) == before


def test_single_weights_are_not_coupled():
    with pytest.raises(EarlyCropError, match="single weights"):
        make(twins(), None, "snip", coupled=[("a", "b")])
    assert Channels().of(twins(), BATCH[0][:2], None, (), (("a", "b"),)).keep.numel() == 6
