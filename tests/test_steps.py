"""The sparsities on the way: section 2.5, and SynFlow's."""

from itertools import pairwise

import pytest

from earlycrop.steps import Exponential, Halving, OneShot

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


@pytest.mark.parametrize("steps", [OneShot(), Halving(0), Halving(5), Exponential(1), Exponential(100)])
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
