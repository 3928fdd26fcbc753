"""The table: what its rows are, and that a method is its own source."""

from dataclasses import FrozenInstanceError, replace

import pytest

import earlycrop
from earlycrop import METHODS, Method, allocation, get_method, methods, names, scores, steps, timing, units, widths
from earlycrop.allocation import Global, PerCost, Uniform
from earlycrop.scores import (
    READINGS,
    Crop,
    CropGroupSum,
    CropMixed,
    Inverted,
    Magnitude,
    NormScale,
    PathNorm,
    Random,
    Snip,
    SynFlow,
)
from earlycrop.steps import Bounded, Exponential, Halving, OneShot
from earlycrop.timing import AtEpoch, AtInit, LazyRegime, NtkSettled, RateSettled, ScoreSettled, Spread
from earlycrop.units import Channels, Weights
from earlycrop.widths import WidthsOf

NAMES = {
    name: value
    for module in (earlycrop, methods, scores, steps, timing, units, allocation, widths)
    for name, value in vars(module).items()
    if isinstance(value, type)
}
OTHERS = [
    Method("a", Crop(), Channels("pre_norm"), LazyRegime(0.02, 1, "epoch1", "all", interval=0.25), OneShot()),
    Method("b", CropMixed(), Channels(), AtEpoch(2.5), Halving(3), Uniform()),
    Method("c", Snip(), Weights(), RateSettled(0.2, 2, max_epochs=7), OneShot()),
    Method("d", Inverted(NormScale()), Channels(), Spread(0.2, 0.4), Bounded(0.3), Global(), 2, "running"),
    Method("e", Inverted(Snip()), Weights(), AtInit(), OneShot(), WidthsOf(Crop(), Halving(2), Uniform(), "cut")),
]


@pytest.mark.parametrize("method", [*METHODS.values(), *OTHERS], ids=lambda method: method.name)
def test_a_method_prints_as_its_own_source(method):
    again = eval(repr(method), dict(NAMES))
    assert again == method
    assert hash(again) == hash(method)
    assert repr(again) == repr(method)


def test_the_names_of_the_issue_are_there():
    named = {"dense", "random-u", "random-s", "magnitude-u", "magnitude-s", "snip", "snap", "grasp", "synflow"}
    named |= {f"{name}-{unit}" for name in ("crop", "cropit", "earlycrop") for unit in "us"}
    named |= {f"earlycrop-{unit}-{rule}" for unit in "us" for rule in ("rate", "score", "ntk")}
    named |= {f"{name}-{unit}-poster" for name in ("crop", "cropit", "earlycrop") for unit in "us"}
    named |= {f"earlycrop-{unit}-random" for unit in "us"}
    named |= {"earlycrop-s-authors-2021", "earlycrop-s-authors-2022", "crop-s-bounded", "crop-s-spread"}
    assert named <= set(METHODS)
    assert all(name == method.name for name, method in METHODS.items())
    assert tuple(METHODS) == names.METHODS  # known without PyTorch


def test_all_rows_differ():
    assert len({replace(method, name="") for method in METHODS.values()}) == len(METHODS)


WIDTHS, SHARES = WidthsOf(Crop(), Bounded(), PerCost()), WidthsOf(Crop(), OneShot())
"""By CroP, of channels and of single weights, before training."""


def test_the_rows_of_crop_are_its_widths_and_strong_paths_inside_them_once_there_are_any():
    often, often_wide = WidthsOf(Crop(), Halving(5)), WidthsOf(Crop(), Halving(5), PerCost())
    for name, when, shares, wide in (
        ("crop", AtInit(), SHARES, WIDTHS),
        ("cropit", AtInit(), often, often_wide),
        ("earlycrop", LazyRegime(), SHARES, WIDTHS),
        ("earlycrop-rate", RateSettled(), SHARES, WIDTHS),
        ("earlycrop-score", ScoreSettled(), SHARES, WIDTHS),
        ("earlycrop-ntk", NtkSettled(), SHARES, WIDTHS),
    ):
        base, _, rule = name.partition("-")
        for unit, leaving, score, inside in (
            ("u", Weights(), Magnitude(), shares),
            ("s", Channels(), PathNorm(), wide),
        ):
            full = "-".join(filter(None, (base, unit, rule)))
            score = Random() if when == AtInit() else score  # before training there is nothing to choose by
            assert get_method(full) == Method(
                full, score, leaving, when, OneShot(), inside, bn_mode="scaled", rescale=True
            )
            assert get_method(full).scores == (score, Crop())
    assert WIDTHS.taken == SHARES.taken == "first"  # before training
    assert (WIDTHS.allocation, SHARES.allocation) == (PerCost(), Global())


def test_saved_states_name_a_method_as_version_0_10_did():
    for method in METHODS.values():
        assert "rescale" not in method.saved
        assert eval(method.saved, dict(NAMES)) == replace(method, rescale=False)


def test_controls_differ_in_the_choice_alone():
    for unit in "us":
        control = get_method(f"earlycrop-{unit}-random")
        assert control == replace(get_method(f"earlycrop-{unit}"), name=control.name, score=Random())
    everywhere = get_method("earlymagnitude-u")
    assert everywhere == Method(
        "earlymagnitude-u", Magnitude(), Weights(), LazyRegime(), OneShot(), bn_mode="scaled", rescale=True
    )
    shares = WidthsOf(SynFlow(), Exponential(100))
    assert get_method("earlysynflow-u") == replace(everywhere, name="earlysynflow-u", allocation=shares)


def test_the_poster_to_the_letter():
    """One ranking by CroP over all layers; norms calibrated where they saw no batch (methods of 2022)."""
    for name, *row in (
        ("crop-u-poster", Weights(), AtInit(), OneShot()),
        ("crop-s-poster", Channels(), AtInit(), OneShot()),
        ("cropit-u-poster", Weights(), AtInit(), Halving(5)),
        ("cropit-s-poster", Channels(), AtInit(), Halving(5)),
        ("earlycrop-u-poster", Weights(), LazyRegime(), Halving(5)),
        ("earlycrop-s-poster", Channels(), LazyRegime(), OneShot()),
    ):
        assert get_method(name) == Method(name, Crop(), *row, Global(), 1, "auto")


def test_the_authors_code_to_the_letter():
    """In evaluation mode; channels by the mixed reading before the norm; drift to the first power, since epoch 1."""
    lazy = LazyRegime(power=1, reference="epoch1", params="all")
    for name, *row in (
        ("crop-s-authors-2022", CropMixed(), Channels("pre_norm"), AtInit(), OneShot()),
        ("earlycrop-s-authors-2022", CropMixed(), Channels("pre_norm"), lazy, OneShot()),
        ("earlycrop-s-authors-2021", CropMixed(), Channels("pre_norm"), lazy, Halving(5)),
        ("earlycrop-u-authors-2022", Crop(), Weights(), lazy, Halving(5)),
    ):
        assert get_method(name) == Method(name, *row, bn_mode="running")


def test_balanced_rows_price_a_channel_by_weights_and_flops():
    widths = replace(WIDTHS, allocation=PerCost(("weight", "flops")))
    for name, row in (("crop-s", "crop-s-balanced"), ("earlycrop-s", "earlycrop-s-balanced")):
        assert get_method(row) == replace(get_method(name), name=row, allocation=widths)


def test_cuts_that_are_spread_have_the_widths_of_their_own_moment():
    for name, score, leaving, inside in (
        ("crop-u-spread", Magnitude(), Weights(), SHARES),
        ("crop-s-spread", PathNorm(), Channels(), WIDTHS),
    ):
        now = replace(inside, taken="cut")
        assert get_method(name) == Method(
            name, score, leaving, Spread(), Exponential(8), now, bn_mode="scaled", rescale=True
        )


def test_one_ranking_in_steps_and_in_bounded_steps():
    for name, *row in (
        ("crop-s-bounded", Channels(), AtInit(), Bounded(0.5)),
        ("earlycrop-s-steps", Channels(), LazyRegime(), Halving(5)),
        ("earlycrop-u-steps", Weights(), LazyRegime(), Halving(5)),
    ):
        assert get_method(name) == Method(name, Crop(), *row, bn_mode="scaled", rescale=True)


def test_the_rows_say_what_the_papers_say():
    assert get_method("snap") == Method("snap", Snip(), Channels(), AtInit(), OneShot(), bn_mode="scaled", rescale=True)
    assert get_method("snip") == Method("snip", Snip(), Weights(), AtInit(), OneShot())
    per_layer = {"random-s", "efficient-convnets"}
    assert {name for name, method in METHODS.items() if method.allocation == Uniform()} == per_layer
    inside = {name for name, method in METHODS.items() if isinstance(method.allocation, WidthsOf)}
    assert {METHODS[name].allocation for name in set(METHODS) - inside - per_layer} == {Global()}
    assert {METHODS[name].allocation.score for name in inside - {"earlysynflow-u"}} == {Crop()}
    assert {name: method.min_channels for name, method in METHODS.items() if method.min_channels != 1} == {
        "gate-decorators": 0.1
    }
    assert Channels().gate == "post_norm"


def test_what_is_scored_and_whether_crop_scores_channels():
    assert {name for name, method in METHODS.items() if method.reads} == {
        name for name, method in METHODS.items() if "crop" in name and "-s" in name and "-u" not in name
    }
    assert get_method("snap").scores == (Snip(),)


def test_a_description_is_frozen():
    method = get_method("snip")
    for part, field in ((method, "name"), (method.units, "gate"), (get_method("grasp").score, "temperature")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, field, 1)


@pytest.mark.parametrize("reading", READINGS)
def test_readings(reading):
    of_poster = get_method("earlycrop-s-poster")
    assert of_poster.reading(reading) == replace(of_poster, score=READINGS[reading])
    assert of_poster.reading(reading).reading("gate_hessian") == of_poster


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", ["earlycrop-s", "crop-s"])
def test_readings_of_widths_leave_the_choice_alone(name, reading):
    method = get_method(name)
    widths = replace(method.allocation, score=READINGS[reading])
    assert method.reading(reading) == replace(method, allocation=widths)
    assert method.reading(reading).reading("gate_hessian") == method


def test_a_reading_of_both():
    both = Method("both", Crop(), Channels(), AtInit(), OneShot(), WidthsOf(CropGroupSum(), OneShot()))
    assert both.reading("mixed").scores == (CropMixed(), CropMixed())
    only_choice = replace(both, allocation=WidthsOf(Snip(), OneShot()))
    assert only_choice.reading("mixed").scores == (CropMixed(), Snip())


@pytest.mark.parametrize("name", ["snap", "crop-u", "crop-u-poster", "random-s"])
def test_what_has_no_readings(name):
    with pytest.raises(ValueError, match="no readings to choose from"):
        get_method(name).reading("mixed")


def test_strong_paths_are_a_score_of_channels():
    with pytest.raises(ValueError, match="PathNorm is a score of channels"):
        replace(get_method("earlycrop-s"), units=Weights())


def test_methods_are_keys():
    assert len(dict.fromkeys(METHODS.values(), 1)) == len(METHODS)
    assert get_method("snip") in set(METHODS.values())


def test_widths_of_the_first_check_are_not_for_several_cuts():
    for name, several in (("crop-s-spread", Spread()), ("crop-u-spread", Spread())):
        now = get_method(name)
        with pytest.raises(ValueError, match="reached in the first: give `WidthsOf"):
            replace(now, allocation=replace(now.allocation, taken="first"))
        assert replace(now, allocation=replace(now.allocation, taken="first"), steps=OneShot()).timing == several
