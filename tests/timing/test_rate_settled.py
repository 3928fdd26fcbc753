"""The pace of the drift: on the sequences that were measured, and on ones made up."""

import math
from itertools import accumulate

import pytest

from earlycrop.timing import Now, RateSettled

ADAM = [
    1,
    0.26,
    0.25,
    0.26,
    0.25,
]  # moves of the unsquared distance over the first, measured on a ResNet18 with 16 base channels
SGD = [1, 0.22, 0.20, 0.23, 0.24]


def fires(rule: RateSettled, moves: list[float]) -> tuple[int, str] | None:
    curve = list(accumulate(moves))
    for t in range(1, len(curve) + 1):
        if reason := rule.reason(Now(t, None, curve[:t], 0.95)):
            return t, reason
    return None


@pytest.mark.parametrize("moves", [ADAM, SGD])
def test_where_it_fires_on_the_measured_sequences(moves):
    """At the third look: the rates of the second and the third agree within a tenth."""
    assert fires(RateSettled(), moves) == (3, "trigger")
    assert fires(RateSettled(), [0.31 * move for move in moves]) == (3, "trigger")


def test_where_two_agreements_in_a_row_come():
    assert fires(RateSettled(agreements=2), ADAM) == (4, "trigger")
    assert fires(RateSettled(agreements=2), SGD) is None


def test_a_pace_that_keeps_changing_does_not_settle():
    assert fires(RateSettled(), [1, 2, 4, 8, 16]) is None
    assert fires(RateSettled(), [1, 0.8, 0.6, 0.4]) is None


def test_a_turn_is_no_agreement():
    """|rate / rate before − 1| of opposite rates is 2, and of a standstill 1."""
    assert RateSettled().signal([1.0, 0.0, 1.0])[1:] == pytest.approx([2, 2])
    assert fires(RateSettled(), [1, -1, 1, -1]) is None


def test_weights_that_stand_still_divide_nothing_by_zero():
    signal = RateSettled().signal([0.0, 0.0, 0.0])
    assert all(not value < 0.1 for value in signal)
    assert len(signal) == 3


def test_no_agreement_at_all_is_refused():
    with pytest.raises(ValueError, match="agreements"):
        RateSettled(agreements=0)


def test_its_signal_has_one_entry_a_look():
    for n in range(1, 5):
        signal = RateSettled().signal([float(t) for t in range(1, n + 1)])
        assert len(signal) == n
        assert math.isnan(signal[0])
        assert signal[1:] == pytest.approx([0.0] * (n - 1))
