"""Errors on one rank stop all, cuts are undone everywhere, and ranks that do not fit together are refused."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from earlycrop import EarlyCropError, RankError, ScoreError
from tests import dense
from tests.distributed.helpers import BATCH, EVEN, make, parts, planned
from tests.small import momentum, small


def bad_batch(rank: int) -> None:
    net = small()
    batches = parts(EVEN)[rank]
    before = [p.clone() for p in net.parameters()]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = dense.cross_entropy(model, batch)
        return value * torch.nan if rank == 1 else value

    try:
        make(net, "crop-s", batches, loss=loss, group=dist.group.WORLD).check(0)
    finally:
        assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_they_can_go_on(ranks):
    zero, one = ranks.outcomes(bad_batch)
    assert isinstance(zero, RankError)
    assert "Rank 1 failed" in str(zero)
    assert "The loss on the scoring set is nan" in str(zero)
    assert isinstance(one, ScoreError)
    assert ranks(planned)


def interrupted_cut(rank: int) -> tuple[str, list[tuple[int, ...]]]:
    net = small()
    pruner = make(net, "crop-s", parts(EVEN)[rank], group=dist.group.WORLD)
    if rank == 1:
        pruner.units.proof = lambda: (lambda: 1 / 0, None)  # fails after the cut
    try:
        pruner.check(0)
    except (ZeroDivisionError, RankError) as error:
        return type(error).__name__, [tuple(p.shape) for p in net.parameters()]
    raise AssertionError("one rank alone has cut")


def test_a_cut_that_fails_on_one_rank_is_undone_on_all(ranks):
    dense_shapes = [tuple(p.shape) for p in small().parameters()]
    assert ranks(interrupted_cut) == [("RankError", dense_shapes), ("ZeroDivisionError", dense_shapes)]


def test_a_group_is_a_group():
    with pytest.raises(EarlyCropError, match="`group` is a process group or \"alone\"; found 'world'"):
        make(small(), "crop-s", [BATCH], group="world")


def unsaid(rank: int) -> None:
    make(small(), "crop-s", [BATCH])


def alone(rank: int) -> int:
    pruner = make(small(rank), "crop-s" if rank else "crop-u", [BATCH], group="alone")
    return int(pruner.check(0).after.prunable)


def test_several_processes_must_say_whether_they_train_one_model(ranks):
    for error in ranks.outcomes(unsaid):
        assert isinstance(error, EarlyCropError)
        assert "There are 2 processes" in str(error)
        assert "group=torch.distributed.group.WORLD" in str(error)
    zero, one = ranks(alone)
    assert zero != one


def different(rank: int, what: str) -> None:
    if what == "weights":
        make(small(rank), "crop-s", [BATCH], group=dist.group.WORLD)
    elif what == "method":
        make(small(), ["crop-s", "snap"][rank], [BATCH], group=dist.group.WORLD)
    elif what == "seed":
        make(small(), "crop-s", [BATCH], seed=rank, group=dist.group.WORLD)
    else:
        net = small() if rank else nn.Sequential(nn.Flatten(), nn.Linear(BATCH[0][0].numel(), 3)).double()
        make(net, "crop-s", [BATCH], group=dist.group.WORLD)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("weights", "`stem.weight` is of shape"),
        ("method", "method is \"Method(name='crop-s'"),
        ("seed", "seed is 0 on rank 0 and 1 on rank 1"),
        ("model", "`1.weight` is of shape"),
    ],
)
def test_ranks_that_do_not_fit_are_refused_with_what_differs(ranks, what, told):
    for error in ranks.outcomes(different, what):
        assert isinstance(error, RankError)
        assert told in str(error)


def forgetful(rank: int) -> None:
    net = small()
    optimizer = momentum(net)
    pruner = make(net, "earlycrop-s", parts(EVEN)[rank], optimizer=optimizer, group=dist.group.WORLD)
    pruner.check(0)
    for batch in parts(EVEN)[rank]:
        dense.cross_entropy(net, batch).backward()
        optimizer.step()
    pruner.check(1)


def test_training_without_ddp_is_found_out(ranks):
    for error in ranks.outcomes(forgetful):
        assert isinstance(error, RankError)
        assert "DistributedDataParallel" in str(error)


def apart(rank: int) -> None:
    pruner = make(small(), "crop-s", parts(EVEN)[rank], group=dist.group.WORLD)
    pruner.scores() if rank else pruner.check(0)


def test_ranks_that_do_different_things_do_not_wait_for_each_other(ranks):
    zero, one = ranks.outcomes(apart)
    assert isinstance(zero, RankError)
    assert isinstance(one, RankError)
    assert "do different things" in str(zero)
    assert ranks(planned)
