"""Scores, kernels and gates of two ranks are those of one process on the union of their batches."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import ScoreError, get_method
from earlycrop.timing import NtkSettled
from tests import dense
from tests.distributed.helpers import BATCH, EVEN, ONE_SIDED, UNEVEN, make, met, method_of, parts
from tests.small import PRUNING, small


def scores(rank: int, name: str, bn_mode: str, sizes: list[list[int]]) -> tuple[Tensor, Tensor, bool, int]:
    net = met()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer += rank  # what batch norm has seen on other ranks than the first does not count
    buffers = [buffer.clone() for buffer in net.buffers()]
    pruner = make(net, method_of(name), parts(sizes)[rank], bn_mode=bn_mode, group=dist.group.WORLD)
    found = pruner.scores()
    same = all(torch.equal(*pair) for pair in zip(buffers, net.buffers(), strict=True))
    return found, pruner.choose(), same, pruner._scorer.samples


@pytest.mark.parametrize(
    ("bn_mode", "sizes"),
    [("running", UNEVEN), ("running", ONE_SIDED), ("calibrated", EVEN), ("calibrated", UNEVEN), ("batch", UNEVEN)],
)
@pytest.mark.parametrize("name", ["crop-u", "crop-s", "crop-s mixed", "crop-s group_sum", "snip", "snap", "grasp"])
def test_scores_are_those_of_one_process_on_the_union(ranks, name, sizes, bn_mode):
    alone = make(met(), method_of(name), [batch for part in parts(sizes) for batch in part], bn_mode=bn_mode)
    expected = alone.scores()
    scale = float(expected.abs().max())
    assert scale > 0
    (zero, kept, same, samples), other = ranks(scores, name, bn_mode, sizes)
    torch.testing.assert_close(zero, expected, rtol=0, atol=1e-10 * min(scale, 1))
    assert samples == alone._scorer.samples == 16
    assert torch.equal(kept, alone.choose())
    assert torch.equal(zero, other[0])
    assert torch.equal(kept, other[1])
    assert same
    assert other[2]


@pytest.mark.parametrize("name", PRUNING)
def test_every_method_scores_as_one_process_does(ranks, name):
    expected = make(met(), get_method(name), parts(UNEVEN)[0] + parts(UNEVEN)[1]).scores()
    (zero, kept, *_), (one, too, *_) = ranks(scores, name, "auto", UNEVEN)
    torch.testing.assert_close(zero, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    assert torch.equal(zero, one)
    assert torch.equal(kept, too)


def streamed(rank: int) -> tuple[Tensor, int]:
    pruner = make(small(), "crop-s", lambda: parts(UNEVEN)[rank], group=dist.group.WORLD)
    return pruner.scores(), pruner.check(0).samples


def test_functions_that_give_batches_give_the_union_too(ranks):
    alone = make(small(), "crop-s", [batch for part in parts(UNEVEN) for batch in part])
    (zero, samples), (one, _) = ranks(streamed)
    torch.testing.assert_close(zero, alone.scores(), rtol=0, atol=1e-10)
    assert torch.equal(zero, one)
    assert samples == 16


def synchronised(rank: int, bn_mode: str) -> Tensor:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(met())
    return make(net, "snap", parts(UNEVEN)[rank], bn_mode=bn_mode, group=dist.group.WORLD).scores()


def test_synchronised_batch_norm_scores_with_running_statistics(ranks):
    zero, one = ranks(synchronised, "running")
    torch.testing.assert_close(zero, make(met(), "snap", [BATCH], bn_mode="running").scores(), rtol=0, atol=1e-10)
    assert torch.equal(zero, one)
    for error in ranks.outcomes(synchronised, "batch"):
        assert isinstance(error, ScoreError)
        assert "SyncBatchNorm" in str(error)


def kernels(rank: int) -> tuple[Tensor, list[float]]:
    net = met()
    method = replace(get_method("earlycrop-s-ntk"), timing=NtkSettled(samples=3))
    pruner = make(net, method, parts(UNEVEN)[rank], group=dist.group.WORLD)
    kernel = pruner.kernel(3)
    for epoch in range(3):
        pruner.check(epoch)
        with torch.no_grad():
            net.head.weight.mul_(1.5)
    return kernel, [check.value for check in pruner.curve]


def test_the_kernel_is_that_of_rank_0s_first_samples(ranks):
    expected = make(met(), "earlycrop-s-ntk", parts(UNEVEN)[0]).kernel(3)
    (kernel, curve), (other, too) = ranks(kernels)
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-10)
    assert torch.equal(kernel, other)
    assert curve == too
    assert curve


def gathered(rank: int) -> tuple[Tensor, Tensor]:
    net = small()
    pruner = make(net, "gate-decorators", parts(UNEVEN)[rank], group=dist.group.WORLD)
    pruner.check(0)
    wrapped = DistributedDataParallel(net)
    for batch in parts(UNEVEN)[rank]:
        dense.cross_entropy(wrapped.train(), batch).backward()
        break
    return pruner._removal._gathering.total, pruner.scores()


def test_gates_judged_in_training_are_the_mean_of_what_each_rank_felt(ranks):
    (mine, zero), (theirs, one) = ranks(gathered)
    assert not torch.equal(mine, theirs)
    assert torch.equal(zero, one)
    seen = (mine + theirs) / 2
    torch.testing.assert_close(zero[zero > zero.min()], seen[zero > zero.min()])
