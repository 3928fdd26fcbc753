"""What a scoring would keep: the overlap of two in a row."""

import pytest
import torch

from earlycrop.timing import Now, Overlap, ScoreSettled
from tests import dense
from tests.pruners import make_pruner


def sets(*keeps):
    return iter([torch.tensor(keep, dtype=torch.bool) for keep in keeps])


def kept(overlap: int, size: int = 10) -> tuple[list[int], list[int]]:
    """Two sets of `size` units that share so many."""
    a = [1] * size + [0] * size
    b = [1] * overlap + [0] * (size - overlap) + [1] * (size - overlap) + [0] * overlap
    return a, b


@pytest.mark.parametrize("overlap", range(11))
def test_the_overlap_by_hand(overlap):
    given = sets(*kept(overlap))
    instrument = Overlap(lambda: next(given))
    assert instrument.read(1.0) is None
    assert instrument.read(2.0) == pytest.approx(overlap / 10, abs=1e-12)


@pytest.mark.parametrize(("overlap", "fires"), [(8, False), (9, True), (10, True)])
def test_nine_in_ten_is_enough(overlap, fires):
    given = sets(*kept(overlap))
    instrument = Overlap(lambda: next(given))
    instrument.read(1.0)
    reason = ScoreSettled().reason(Now(2, None, [instrument.read(2.0)], 0.95))
    assert reason == ("trigger" if fires else None)


def test_each_look_is_compared_with_the_one_before():
    a, b = kept(0)
    given = sets(a, b, b, a)
    instrument = Overlap(lambda: next(given))
    assert [instrument.read(float(t)) for t in range(1, 5)] == [None, 0, 1, 0]


@pytest.mark.parametrize("name", ["earlycrop-u-score", "earlycrop-s-score"])
def test_in_training_it_is_the_overlap_of_what_would_stay(name):
    net, batch = dense.mlp(4, 12, 3), dense.vectors(12)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    pruner = make_pruner(
        net,
        name,
        0.5,
        example_inputs=batch[0],
        loss=dense.cross_entropy,
        batches=[batch],
        optimizer=optimizer,
        epochs=99,
    )
    keeps, expected = [], []
    for epoch in range(1, 9):
        dense.cross_entropy(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        keeps.append(pruner.choose())
        if len(keeps) > 1:
            expected.append(float((keeps[-2] & keeps[-1]).sum()) / float(keeps[-2].sum()))
        if report := pruner.check(epoch):
            break
    assert [check.value for check in pruner.curve] == pytest.approx(expected, abs=1e-12)
    assert report is not None
    assert report.reason == "trigger"
    assert expected[-1] >= 0.9
    assert all(overlap < 0.9 for overlap in expected[:-1])
