"""Phases and steps."""

import time

import pytest

from earlycrop_lab.measure.time import WARM, Clock


def test_phases_add_up_and_stay_apart():
    clock = Clock()
    for _ in range(2):
        with clock.phase("dense"):
            time.sleep(0.02)
    with clock.phase("scoring"):
        pass
    assert 0.04 <= clock.seconds["dense"] < 1
    assert 0 <= clock.seconds["scoring"] < 0.02
    assert clock.seconds["sparse"] == 0


def test_a_phase_that_fails_is_timed_too():
    clock = Clock()
    with pytest.raises(KeyError), clock.phase("dense"):
        raise KeyError
    assert clock.seconds["dense"] > 0


def test_the_step_time_is_the_median_of_warm_steps(monkeypatch):
    """Steps of 1, 2, …, 12 s on a clock that is set by hand; the first WARM = 5 do not count: median of 6 … 12 is 9.

    The process works for half of each.
    """
    now = 0.0
    monkeypatch.setattr("earlycrop_lab.measure.time.time.perf_counter", lambda: now)
    monkeypatch.setattr("earlycrop_lab.measure.time.time.process_time", lambda: now / 2)
    clock = Clock()
    for seconds in range(1, 13):
        with clock.step("dense"):
            now += seconds
    noted = clock.steps("dense")
    assert noted is not None
    assert (noted.milliseconds, noted.cpu_milliseconds, noted.steps) == (9000, 4500, 12 - WARM)
    assert clock.steps("sparse") is None
