"""Moments that nobody has to look for."""

import pytest

from earlycrop.timing import AtEpoch, AtInit, Never, Now


@pytest.mark.parametrize("epoch", [0, 0.5, 7])
def test_at_init_is_now_and_never_is_never(epoch):
    assert AtInit().reason(Now(epoch, 10, [], 0.9)) == "init"
    assert Never().reason(Now(epoch, 10, [], 0.9)) is None


@pytest.mark.parametrize(
    ("at", "epoch", "expected"),
    [(3, 2.99, None), (3, 3, "epoch"), (3, 4, "epoch"), (0, 0, "epoch"), (0.3, 0.1 + 0.2, "epoch"), (0.3, 0.29, None)],
)
def test_at_epoch(at, epoch, expected):
    assert AtEpoch(at).reason(Now(epoch, 10, [], 0.9)) == expected


def test_before_training_is_not_after_it():
    with pytest.raises(ValueError, match="epoch"):
        AtEpoch(-1)
