"""A rank that dies or falls silent is an error on the others, and none waits longer than was said."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import RankError
from tests import dense
from tests.distributed.helpers import BATCH, EVEN, make, parts
from tests.ranks import Ensemble, Gone
from tests.small import momentum, small


def dies_while_scoring(rank: int) -> None:
    net, calls = small(), []
    before = [p.clone() for p in net.parameters()]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(batch)
        if rank == 1 and len(calls) == 2:
            os._exit(1)
        return dense.cross_entropy(model, batch)

    try:
        make(net, "crop-s", parts(EVEN)[rank], loss=loss, group=dist.group.WORLD).check(0)
    finally:
        assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


def dies_while_training(rank: int) -> None:
    net = small()
    optimizer = momentum(net)
    pruner = make(net, "crop-s", parts(EVEN)[rank], optimizer=optimizer, group=dist.group.WORLD)
    pruner.check(0)
    wrapped = DistributedDataParallel(net)
    for step in range(100):
        if rank == 1 and step == 5:
            os._exit(1)
        dense.cross_entropy(wrapped, BATCH).backward()
        optimizer.step()


def falls_silent(rank: int) -> None:
    pruner = make(small(), "crop-s", parts(EVEN)[rank], group=dist.group.WORLD)
    if rank == 1:
        time.sleep(3600)
    pruner.check(0)


@pytest.mark.parametrize("function", [dies_while_scoring, dies_while_training])
def test_a_rank_that_dies_is_an_error_on_the_others(tmp_path, function):
    with Ensemble(tmp_path, seconds=3600) as ensemble:
        zero, one = ensemble.outcomes(function)
    assert isinstance(one, Gone)
    if function is dies_while_scoring:
        assert isinstance(zero, RankError)
        assert "Another rank is gone" in str(zero)
    else:  # PyTorch's own
        assert isinstance(zero, RuntimeError)


def test_a_rank_that_is_silent_is_waited_for_as_long_as_was_said(tmp_path):
    with Ensemble(tmp_path, seconds=2) as ensemble:
        ensemble.start(falls_silent)
        error = ensemble.answer(0)
    assert isinstance(error, RankError)
    assert "timeout" in str(error)
