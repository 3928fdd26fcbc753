"""The table: what its rows are, and that a method is its own source."""

from dataclasses import FrozenInstanceError, replace

import pytest

import earlycrop
from earlycrop import METHODS, Method, allocation, get_method, methods, scores, steps, timing, units
from earlycrop.methods import Global, Uniform
from earlycrop.scores import READINGS, Crop, CropMixed, Snip
from earlycrop.steps import Halving, OneShot
from earlycrop.timing import AtEpoch, AtInit, LazyRegime, NtkSettled, RateSettled, ScoreSettled
from earlycrop.units import Channels, Weights

NAMES = {
    name: value
    for module in (earlycrop, methods, scores, steps, timing, units, allocation)
    for name, value in vars(module).items()
    if isinstance(value, type)
}
OTHERS = [
    Method("a", Crop(), Channels("pre_norm"), LazyRegime(0.02, 1, "epoch1", "all", interval=0.25), OneShot()),
    Method("b", CropMixed(), Channels(), AtEpoch(2.5), Halving(3), Uniform()),
    Method("c", Snip(), Weights(), RateSettled(0.2, 2, max_epochs=7), OneShot()),
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
    assert named <= set(METHODS)
    assert all(name == method.name for name, method in METHODS.items())


def test_all_rows_differ():
    assert len({replace(method, name="") for method in METHODS.values()}) == len(METHODS)


def test_the_rows_say_what_the_specification_says():
    lazy = LazyRegime()
    assert get_method("earlycrop-s") == Method("earlycrop-s", Crop(), Channels(), lazy, OneShot())
    assert get_method("earlycrop-u") == Method("earlycrop-u", Crop(), Weights(), lazy, Halving(5))
    assert get_method("cropit-s") == Method("cropit-s", Crop(), Channels(), AtInit(), Halving(5))
    assert get_method("cropit-u") == Method("cropit-u", Crop(), Weights(), AtInit(), Halving(5))
    assert get_method("snap").score == get_method("snip").score == Snip()
    assert get_method("random-s").allocation == Uniform()
    per_layer = {"random-s", "efficient-convnets"}
    assert {name for name, method in METHODS.items() if method.allocation == Uniform()} == per_layer
    assert {method.allocation for name, method in METHODS.items() if name not in per_layer} == {Global()}
    assert {name: method.min_channels for name, method in METHODS.items() if method.min_channels != 1} == {
        "gate-decorators": 0.1
    }
    assert Channels().gate == "post_norm"
    for unit in "us":
        of_unit = get_method(f"earlycrop-{unit}")
        for rule, detector in (("rate", RateSettled()), ("score", ScoreSettled()), ("ntk", NtkSettled())):
            name = f"earlycrop-{unit}-{rule}"
            assert get_method(name) == replace(of_unit, name=name, timing=detector)


def test_a_description_is_frozen():
    method = get_method("snip")
    for part, field in ((method, "name"), (method.units, "gate"), (get_method("grasp").score, "temperature")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, field, 1)


@pytest.mark.parametrize("reading", READINGS)
def test_readings(reading):
    method = get_method("earlycrop-s").reading(reading)
    assert method == replace(get_method("earlycrop-s"), score=READINGS[reading])
    assert method.reading("gate_hessian") == get_method("earlycrop-s")


def test_methods_are_keys():
    assert len(dict.fromkeys(METHODS.values(), 1)) == len(METHODS)
    assert get_method("snip") in set(METHODS.values())
