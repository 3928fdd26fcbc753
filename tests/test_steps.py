"""The sparsities on the way: section 2.5, and SynFlow's."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earlycrop.steps import Bounded, Exponential, Halving, OneShot, Remaining, partway

SPARSITIES = [0.0, 0.1, 0.5, 0.7, 0.98, 0.999]


def test_the_seven_numbers():
    steps = Halving(5).towards(0.98)
    assert steps == pytest.approx([0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98], abs=1e-12)


@pytest.mark.parametrize(("sparsity", "start"), [(0.98, 0.5), (0.51, 0.5), (0.5, 0.25), (0.3, 0.15), (0.0, 0.0)])
def test_halving_starts_at_a_half_or_half_way(sparsity, start):
    assert Halving(5).towards(sparsity)[0] == pytest.approx(start)


def test_synflow_keeps_the_same_part_each_time():
    densities = [1 - sparsity for sparsity in Exponential(100).towards(0.98)]
    assert len(densities) == 100
    assert densities[0] == pytest.approx(0.962, abs=5e-4)
    assert densities[49] == pytest.approx(0.141, abs=5e-4)
    assert [after / before for before, after in pairwise(densities)] == pytest.approx([0.02**0.01] * 99)


@pytest.mark.parametrize("steps", [OneShot(), Halving(0), Halving(5), Exponential(1), Exponential(100), Bounded()])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_steps_only_rise_and_end_exactly_at_the_target(steps, sparsity):
    towards = steps.towards(sparsity)
    assert towards[-1] == sparsity
    assert towards == sorted(towards)
    assert all(0 <= one < 1 for one in towards)


@pytest.mark.parametrize(("make", "n"), [(Halving, -1), (Exponential, 0)])
def test_a_number_of_steps_that_cannot_be_is_refused(make, n):
    with pytest.raises(ValueError, match=r"`n`"):
        make(n)


def test_one_shot_is_one_step():
    assert OneShot().towards(0.9) == [0.9]
    assert len(Halving(5).towards(0.9)) == 7


# Steps that are bounded ------------------------------------------------------------------------------------------


def walked(keep: list[bool], scores: list[float], layer: list[int], most: float) -> list[bool]:
    """One unit after the other, the lowest first, until a layer has lost what it may."""
    stays = [True] * len(keep)
    may = {number: max(1, math.floor(most * layer.count(number))) for number in layer}
    for unit in sorted(range(len(keep)), key=lambda unit: (scores[unit], unit)):
        if not keep[unit]:
            stays[unit] = False
            may[layer[unit]] -= 1
            if may[layer[unit]] == 0:
                break
    return stays


UNITS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=30)


@settings(deadline=None)
@given(UNITS, st.floats(0.01, 0.99))
def test_a_part_of_the_way_against_a_loop(units, most):
    keep, scores, layer = (list(column) for column in zip(*units, strict=True))
    found = partway(torch.tensor(keep), torch.tensor(scores).double(), torch.tensor(layer), most)
    assert found.tolist() == walked(keep, scores, layer, most)
    assert bool((found | ~torch.tensor(keep)).all())  # nothing leaves that may stay
    assert bool(found.all()) == all(keep)  # and something leaves, if anything must


@settings(deadline=None)
@given(UNITS, st.floats(0.01, 0.99))
def test_parts_of_the_way_lead_there(units, most):
    """Taken until nothing is left to leave, each of what there is then."""
    keep, scores, layer = (torch.tensor(column) for column in zip(*units, strict=True))
    alive, rounds = torch.arange(len(keep)), 0
    while not bool(keep[alive].all()):
        stays = partway(keep[alive], scores[alive].double(), layer[alive], most)
        lost = torch.bincount(layer[alive][~stays], minlength=5)
        had = torch.bincount(layer[alive], minlength=5)
        assert bool((lost <= (had.double() * most).floor().clamp_min(1)).all())
        alive, rounds = alive[stays], rounds + 1
        assert rounds <= len(keep)
    assert alive.tolist() == keep.nonzero().flatten().tolist()


def test_a_layer_that_may_lose_all_it_has_to_is_no_bound():
    keep, layer = torch.tensor([True, False, True, True, False, True]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert torch.equal(partway(keep, torch.rand(6), layer, 0.9), keep)  # two of three may go, one has to


def test_only_bounded_steps_have_a_bound():
    assert [steps.most for steps in (OneShot(), Halving(3), Exponential(2), Remaining())] == [None] * 4
    assert Bounded().most == 0.5
    assert Bounded(0.2).towards(0.9) == [0.9]


@pytest.mark.parametrize("most", [0.0, 1.0, -0.1, 2])
def test_a_bound_that_is_none_is_refused(most):
    with pytest.raises(ValueError, match=r"`most`"):
        Bounded(most)
