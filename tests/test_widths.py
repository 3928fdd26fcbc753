"""Widths of one scoring and the choice of another: exactly those widths, from the moment that was asked for."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._pytree import tree_leaves

from earlycrop import METHODS, Method, Plan, Pruner, Scoring, get_method
from earlycrop.allocation import PerCost, Uniform
from earlycrop.scores import (
    AbstractNetworkScore,
    Crop,
    CropMixed,
    Inverted,
    Magnitude,
    Network,
    NormScale,
    PathNorm,
    Random,
    Snip,
)
from earlycrop.steps import Halving, OneShot
from earlycrop.timing import AtEpoch, AtInit, LazyRegime
from earlycrop.units import Channels, Weights
from earlycrop.widths import WidthsOf
from tests import dense
from tests.cases import CASES
from tests.oracles import make_unique
from tests.pruners import make_pruner
from tests.small import adam, make, small, through_a_file, train

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # narrow networks are starved easily


@dataclass(frozen=True)
class Equal(AbstractNetworkScore):
    """All units are worth the same but the first, which is worth more: equal scores alone are refused."""

    def __call__(self, of: Network) -> Tensor:
        scores = torch.zeros_like(of.coordinates.values)
        scores[0] = 1
        return scores


def squares(model, batch) -> Tensor:
    """A loss for whatever a network returns."""
    outputs = model(*batch)
    return sum(leaf.square().mean() for leaf in tree_leaves(outputs) if leaf.is_floating_point())


def per_layer(pruner: Pruner) -> list[int]:
    """Units that are left in each layer, counted in the dense network."""
    units = pruner.units
    layer = units.dense.spaces() if isinstance(pruner.method.units, Channels) else units.layer
    return torch.bincount(layer[units.keep.cpu()], minlength=int(layer.max()) + 1).tolist()


# Exactly those widths ---------------------------------------------------------------------------------------------

FAMILIES = [
    "chain",
    "resnet",
    "grouped",
    "mobilenet",
    "transformer_layer",
    "heads_separate",
    "recurrent_time_first",
    "lstm_by_hand",
]


@pytest.mark.parametrize("steps", [OneShot(), Halving(1)])
@pytest.mark.parametrize(
    "name", dense.some_of(FAMILIES, ["chain", "resnet", "grouped", "heads_separate", "recurrent_time_first"])
)
def test_channels_keep_the_widths_of_the_other_scoring(name, steps):
    case, pruners = CASES[name], {}
    for row in (
        Method("plain", Snip(), Channels(), AtInit(), steps),
        Method("inside", Random(), Channels(), AtInit(), OneShot(), WidthsOf(Snip(), steps)),
    ):
        torch.manual_seed(0)
        net = make_unique(case.build())
        inputs = case.inputs()
        pruner = make_pruner(net, row, 0.5, example_inputs=inputs, loss=squares, batches=[inputs], bn_mode="running")
        pruner.check(0)
        pruners[row.name] = pruner
    plain, inside = pruners["plain"], pruners["inside"]
    assert inside.report.widths == plain.report.widths
    assert inside.report.after.prunable == plain.report.after.prunable
    assert per_layer(inside) == per_layer(plain)
    assert not torch.equal(inside.units.keep, plain.units.keep)
    assert inside.report.verification.exact


@pytest.mark.parametrize("widths", [WidthsOf(Crop(), OneShot()), WidthsOf(Magnitude(), Halving(2), Uniform())])
@pytest.mark.parametrize("score", [Random(), Snip(), Inverted(Magnitude())])
def test_weights_keep_as_many_in_each_layer(widths, score):
    plain = make(small(), None, Method("p", widths.score, Weights(), AtInit(), widths.steps, widths.allocation))
    inside = make(small(), None, Method("i", score, Weights(), AtInit(), OneShot(), widths))
    scores = inside.scores()
    plain.check(0)
    report = inside.check(0)
    assert report.widths == plain.report.widths
    assert report.after == plain.report.after
    kept = inside.units.keep
    for part, stays in zip(scores.split(inside.units.sizes), kept.split(inside.units.sizes), strict=True):
        best = sorted(range(len(part)), key=lambda unit: (-float(part[unit]), unit))[: int(stays.sum())]
        assert stays.nonzero().flatten().tolist() == sorted(best)


@pytest.mark.parametrize("options", [{"target": "flops"}, {"min_channels": 0.5}, {"round_to": 2}, {"target": "node"}])
def test_widths_follow_the_budgets_rules(options):
    plain = make(small(), None, Method("p", Magnitude(), Channels(), AtInit(), OneShot()), 0.5, **options)
    inside = make(
        small(), None, Method("i", Random(), Channels(), AtInit(), OneShot(), WidthsOf(Magnitude(), OneShot()))
    )
    inside = make(small(), None, inside.method, 0.5, **options)
    assert inside.check(0).widths == plain.check(0).widths


def test_the_best_of_each_layer_stay_and_of_equal_ones_the_earlier():
    """Strong paths inside CroP's widths, chosen here by sorting each layer."""
    pruner = make(small(), None, "crop-s")
    scores, layer = pruner.scores(), pruner.units.layer
    equal = make(small(), None, replace(get_method("crop-s"), score=Equal()))
    pruner.check(0)
    equal.check(0)
    widths = per_layer(pruner)
    assert per_layer(equal) == widths
    for number, width in enumerate(widths):
        mine = (layer == number).nonzero().flatten().tolist()
        best = sorted(mine, key=lambda unit: -float(scores[unit]))[:width]
        assert [unit for unit in mine if pruner.units.keep[unit]] == sorted(best)
        assert [unit for unit in mine if equal.units.keep[unit]] == mine[:width]


@pytest.mark.parametrize("score", [Inverted(Magnitude()), Equal()])
def test_steps_of_the_choice_bring_nothing_back(score):
    """What left in the first step scores highest in the second, and must not take a place."""
    row = Method("i", score, Weights(), AtInit(), Halving(1), WidthsOf(Crop(), OneShot()))
    pruner, whole = make(small(), None, row), make(small(), None, "crop-u-poster")
    whole.check(0)
    assert pruner.check(0).widths == whole.report.widths


# The moment -------------------------------------------------------------------------------------------------------

LATE = AtEpoch(2)


def late(unit: str, **changes) -> Method:
    score, units = (PathNorm(), Channels()) if unit == "s" else (Magnitude(), Weights())
    return replace(Method("late", score, units, LATE, OneShot(), WidthsOf(Crop(), OneShot())), **changes)


def run(method: Method, stop: bool = False, seed: int = 1) -> Pruner:
    """Two epochs and the cut; stopped in the middle, if asked, and gone on with on another network."""
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, method)
    for epoch in range(2):
        assert pruner.check(epoch) is None
        train(net, optimizer, 5)
        if stop and epoch == 0:
            state = through_a_file({"p": pruner.state_dict(), "n": net.state_dict(), "o": optimizer.state_dict()})
            net = small(seed=9)
            optimizer = adam(net)
            pruner = make(net, optimizer, method)
            pruner.load_state_dict(state["p"])
            net.load_state_dict(state["n"])
            optimizer.load_state_dict(state["o"])
    assert pruner.check(2)
    return pruner


@pytest.mark.parametrize("unit", ["s", "u"])
def test_widths_from_before_training_are_kept_through_it(unit):
    plain = late(unit, score=Crop(), allocation=METHODS["snip"].allocation)
    at_init = make(small(), None, replace(plain, timing=AtInit())).check(0)
    trained = run(plain)
    pruner = run(late(unit))
    assert pruner.report.widths == at_init.widths
    assert pruner.report.widths != trained.report.widths  # training moved them
    at_cut = run(late(unit, allocation=WidthsOf(Crop(), OneShot(), taken="cut")))
    assert at_cut.report.widths == trained.report.widths
    assert at_cut._removal.widths is None


@pytest.mark.parametrize("unit", ["s", "u"])
def test_the_choice_is_that_of_the_cut(unit):
    """The same widths, and another choice than at initialisation."""
    early, pruner = make(small(), None, late(unit, timing=AtInit())), run(late(unit))
    early.check(0)
    assert per_layer(early) == per_layer(pruner)
    assert not torch.equal(early.units.keep, pruner.units.keep)


@pytest.mark.parametrize("taken", ["first", "cut"])
@pytest.mark.parametrize("unit", ["s", "u"])
def test_going_on_is_not_stopping(unit, taken):
    method = late(unit, allocation=WidthsOf(Crop(), OneShot(), taken=taken))
    whole, found = run(method), run(method, stop=True)
    assert torch.equal(whole.units.keep, found.units.keep)
    assert whole.report.widths == found.report.widths
    parameters = zip(whole.model.parameters(), found.model.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in parameters)


@pytest.mark.parametrize("unit", ["s", "u"])
def test_a_state_holds_the_widths_and_nothing_else_can(unit):
    pruner = make(small(), None, late(unit))
    assert pruner.state_dict()["widths"] is None
    pruner.check(0)
    twin = make(small(seed=4), None, late(unit))
    twin.load_state_dict(through_a_file(pruner.state_dict()))
    assert torch.equal(twin._removal.widths, pruner._removal.widths)


# Nothing else is touched ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [OneShot(), Halving(1)])
@pytest.mark.parametrize("unit", ["s", "u"])
def test_taking_widths_leaves_everything_bit_for_bit(unit, steps):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, late(unit, allocation=WidthsOf(Crop(), steps)))
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    assert pruner.check(0) is None
    assert dense.everything(net, optimizer) == before
    assert pruner._removal.widths is not None
    assert pruner.check(1) is None  # and only once
    assert bool(pruner.units.keep.all())


@pytest.mark.parametrize("steps", [OneShot(), Halving(1)])
@pytest.mark.parametrize("unit", ["s", "u"])
def test_a_plan_has_the_widths_that_the_cut_will_have(unit, steps):
    net = small()
    pruner = make(net, adam(net), late(unit, timing=AtInit(), allocation=WidthsOf(Crop(), steps)))
    before = dense.everything(net, pruner.optimizer)
    plan = pruner.dry_run()
    assert isinstance(plan, Plan)
    assert dense.everything(net, pruner.optimizer) == before
    assert pruner._removal.widths is None  # what is planned is not decided
    report = pruner.check(0)
    assert plan.after == report.after
    assert [row.after for row in plan.rows] == [width.after for width in report.widths]


def test_a_failure_while_widths_are_taken_leaves_everything():
    net = small()
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return dense.cross_entropy(model, batch)

    for unit in "su":
        calls.clear()
        pruner = make(net, adam(net), late(unit, allocation=WidthsOf(Crop(), Halving(3))), loss=loss)
        before = dense.everything(net, pruner.optimizer)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            pruner.check(0)
        assert dense.everything(net, pruner.optimizer) == before
        assert pruner._removal.widths is None


def test_widths_need_data_where_their_score_does():
    net = small()
    with pytest.raises(Exception, match="give `scoring"):
        Pruner(net, "crop-s", 0.6, example_inputs=dense.images()[0])
    with torch.no_grad():
        for norm in (net.norm0, net.norm1):
            norm.weight.uniform_(0.5, 1.5)
    without = replace(get_method("crop-s"), allocation=WidthsOf(NormScale(), OneShot()))
    Pruner(net, without, 0.6, example_inputs=dense.images()[0]).check(0)


def test_a_scoring_set_that_changes_is_asked_for_at_the_first_check():
    asked = []

    def batches():
        asked.append(1)
        return [dense.images(24)]

    net = small()
    timing = LazyRegime(tau=1e-9, max_epochs=2)
    pruner = make(net, None, replace(get_method("earlycrop-s"), timing=timing), batches=batches)
    assert len(asked) == 0
    for epoch in range(3):
        report = pruner.check(epoch)
        assert len(asked) == (1 if epoch < 2 else 2)  # at the cut for the outputs' variation
        train(net, adam(net))
        assert (report is not None) == (epoch == 2)


# Controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_a_random_choice_in_the_same_widths_goes_by_the_seed(name):
    def kept(seed: int) -> Pruner:
        pruner = make(small(), None, name, seed=seed)
        pruner.check(0)
        return pruner

    one, same, other = kept(1), kept(1), kept(2)
    assert torch.equal(one.units.keep, same.units.keep)
    assert not torch.equal(one.units.keep, other.units.keep)
    assert one.report.widths == other.report.widths
    own = replace(get_method(name), score=Crop())
    assert make(small(), None, own).check(0).widths == one.report.widths


@pytest.mark.parametrize("reading", ["gate_hessian", "mixed", "group_sum"])
def test_widths_by_each_reading(reading):
    row = get_method("crop-s").reading(reading)
    plain = replace(get_method("crop-s-bounded"), allocation=PerCost()).reading(reading)
    assert make(small(), None, row).check(0).widths == make(small(), None, plain).check(0).widths
    assert (row.allocation.score == CropMixed()) == (reading == "mixed")


def test_widths_are_scored_with_the_methods_norms():
    """`scaled` and `calibrated` norms give other widths, and what the user says has the last word."""
    widths = {}
    for mode in ("scaled", "running", "calibrated"):
        plain = make(
            wide(), None, replace(get_method("crop-s-bounded"), allocation=PerCost()), 0.6, bn_mode=mode
        ).check(0)
        widths[mode] = make(wide(), None, "crop-s", 0.6, bn_mode=mode).check(0).widths
        assert widths[mode] == plain.widths
    assert make(wide(), None, "crop-s", 0.6).check(0).widths == widths["scaled"]
    assert widths["scaled"] != widths["calibrated"]


def wide() -> nn.Module:
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for inside, outside in ((2, 12), (12, 14), (14, 16)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).double()


@pytest.mark.parametrize("name", ["crop-u", "earlycrop-u", "cropit-u"])
def test_each_norm_of_a_weight_keeps_its_best_entry(name):
    """Whatever else the choice prefers: a filter that weight norm divides by its norm is divided by zero without it."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.randint(4, (32,))
    layers = [weight_norm(nn.Linear(6, 40)), nn.ReLU(), weight_norm(nn.Linear(40, 40)), nn.ReLU(), nn.Linear(40, 4)]
    net, scoring = nn.Sequential(*layers), Scoring(dense.cross_entropy, [(x, y)])
    pruner = Pruner(net, name, 0.8, example_inputs=x[:2], scoring=scoring, epochs=4)
    for epoch in range(4):
        pruner.check(epoch)
    assert pruner.report.weight_sparsity == pytest.approx(0.8, abs=1e-3)
    for mask in (pruner.units.masks()[f"{layer}.parametrizations.weight.original1"] for layer in (0, 2)):
        assert bool(mask.any(1).all())
