"""Every rank gets the sensitivity that one process finds on the union of the batches, or all of them an error."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import Pruner, RankError, ScoreError, Scoring, Sensitivity
from tests import dense
from tests.distributed.helpers import BATCH, EVEN, ONE_SIDED, UNEVEN, make, met, parts, planned
from tests.ranks import Ensemble
from tests.small import momentum, small

SPARSITIES = (0.25, 0.5, 0.9)


def close(found: Sensitivity, expected: Sensitivity) -> None:
    assert found.whole == pytest.approx(expected.whole, rel=1e-12)
    for one, other in zip(found.probes, expected.probes, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert replace(one, value=other.value) == other


def asked(rank: int, method: str, sizes: list[list[int]], bn_mode: str) -> tuple[Sensitivity, bool]:
    net = met()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer += rank  # what batch norm has seen on other ranks than the first does not count
    before = dense.everything(net)
    pruner = make(net, method, parts(sizes)[rank], bn_mode=bn_mode, group=dist.group.WORLD)
    found = pruner.sensitivity(sparsities=SPARSITIES)
    return found, dense.everything(net) == before


@pytest.mark.parametrize(
    ("bn_mode", "sizes"), [("auto", UNEVEN), ("auto", ONE_SIDED), ("calibrated", EVEN), ("batch", UNEVEN)]
)
@pytest.mark.parametrize("method", ["crop-s", "crop-u", "magnitude-s"])
def test_every_rank_finds_what_one_process_finds(ranks, method, sizes, bn_mode):
    (zero, same), (one, too) = ranks(asked, method, sizes, bn_mode)
    expected = make(met(), method, [b for part in parts(sizes) for b in part], bn_mode=bn_mode)
    close(zero, expected.sensitivity(sparsities=SPARSITIES))
    assert zero == one
    assert same
    assert too


def after_a_cut(rank: int, method: str) -> Sensitivity:
    pruner = make(met(), method, lambda: parts(UNEVEN)[rank], parts={"conv1": 0.3}, group=dist.group.WORLD)
    pruner.check(0)
    return pruner.sensitivity(sparsities=(0.5,))


@pytest.mark.parametrize("method", ["crop-s", "crop-u"])
def test_after_a_cut_and_with_functions_that_give_batches_too(ranks, method):
    zero, one = ranks(after_a_cut, method)
    pruner = make(met(), method, parts(UNEVEN)[0] + parts(UNEVEN)[1], parts={"conv1": 0.3})
    pruner.check(0)
    close(zero, pruner.sensitivity(sparsities=(0.5,)))
    assert zero == one


# A measure of one's own -----------------------------------------------------------------------------------------------


def measured(rank: int, way: str) -> tuple[Sensitivity, int]:
    """Each rank measures on other data, or all of them together."""
    calls, steps = [], []

    def accuracy(model: nn.Module) -> float:
        calls.append(model)
        images, labels = (tensor[8 * rank : 8 * rank + 8] for tensor in BATCH)
        hits = (model(images).argmax(1) == labels).sum().double()
        if way == "together":
            dist.all_reduce(hits)
        return float(hits / (16 if way == "together" else 8))

    pruner = make(met(), "crop-s", parts(UNEVEN)[rank], group=dist.group.WORLD)
    found = pruner.sensitivity(accuracy, SPARSITIES, lambda done, of: steps.append(done))
    assert steps == list(range(1, len(found.probes) + 1))
    return found, len(calls)


@pytest.mark.parametrize(("way", "samples"), [("apart", 8), ("together", 16)])
def test_the_figures_are_rank_0s_and_a_measure_may_communicate(ranks, way, samples):
    def accuracy(model: nn.Module) -> float:
        return float((model(BATCH[0][:samples]).argmax(1) == BATCH[1][:samples]).double().mean())

    (zero, calls), (one, too) = ranks(measured, way)
    expected = make(met(), "crop-s", parts(UNEVEN)[0] + parts(UNEVEN)[1]).sensitivity(accuracy, SPARSITIES)
    assert zero == one == expected
    assert calls == too


# Errors ---------------------------------------------------------------------------------------------------------------


def fails(rank: int, which: int, when: int) -> int:
    net, calls = met(), []
    before = dense.everything(net)

    def accuracy(model: nn.Module) -> float:
        calls.append(model)
        if rank == which and len(calls) == when:
            raise ZeroDivisionError("no validation sample")
        return 0.5

    pruner = make(net, "crop-s", parts(EVEN)[rank], group=dist.group.WORLD)
    try:
        pruner.sensitivity(accuracy)
    except (ZeroDivisionError, RankError) as error:
        assert dense.everything(net) == before
        error.args = (f"{error} [{len(calls)} calls]",)
        raise
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("when", [1, 3])
def test_a_measure_that_fails_on_one_rank_stops_all_at_once(ranks, which, when):
    found = ranks.outcomes(fails, which, when)
    assert isinstance(found[which], ZeroDivisionError)
    assert isinstance(found[1 - which], RankError)
    assert f"Rank {which} failed" in str(found[1 - which])
    assert "no validation sample" in str(found[1 - which])
    assert f"[{when} calls]" in str(found[1 - which])
    assert ranks(planned)  # and they can go on


def fails_alone(rank: int) -> None:
    def accuracy(model: nn.Module) -> float:
        if rank == 1:
            raise ZeroDivisionError("no validation sample")
        dist.all_reduce(hits := torch.ones(1))
        return float(hits)

    make(met(), "crop-s", parts(EVEN)[rank], group=dist.group.WORLD).sensitivity(accuracy)


def test_a_measure_that_waits_for_one_that_has_failed_waits_as_long_as_was_said(tmp_path):
    with Ensemble(tmp_path, seconds=3) as ensemble:
        zero, one = ensemble.outcomes(fails_alone)
    assert isinstance(zero, RuntimeError)  # PyTorch's own
    assert isinstance(one, ZeroDivisionError)


def not_finite(rank: int) -> None:
    calls = []

    def loss(model: nn.Module, batch) -> torch.Tensor:
        calls.append(batch)
        value = dense.cross_entropy(model, batch)
        return value * torch.nan if rank == 1 and not torch.is_grad_enabled() and len(calls) > 6 else value

    make(met(), "magnitude-s", parts(EVEN)[rank], loss=loss, group=dist.group.WORLD).sensitivity()


def test_a_loss_that_is_not_finite_on_one_rank_stops_all(ranks):
    zero, one = ranks.outcomes(not_finite)
    assert isinstance(zero, RankError)
    assert "The loss on the scoring set is nan" in str(zero)
    assert isinstance(one, ScoreError)
    assert ranks(planned)


def half(model: nn.Module) -> float:
    return 0.5


def unlike(rank: int, what: str) -> None:
    net = met()
    pruner = make(net, "magnitude-s", parts(EVEN)[rank], group=dist.group.WORLD)
    if what == "sparsities":
        pruner.sensitivity(sparsities=(0.25, (0.5, 0.75)[rank]))
    elif what == "a measure":
        pruner.sensitivity(half if rank else None)
    else:
        optimizer = momentum(net)
        for batch in parts(EVEN)[rank]:  # without DistributedDataParallel
            dense.cross_entropy(net, batch).backward()
            optimizer.step()
        pruner.sensitivity()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("sparsities", r"sparsities is (0.25, 0.5) on rank 0 and (0.25, 0.75) on rank 1"),
        ("a measure", "figure is 'loss' on rank 0 and 'half' on rank 1"),
        ("weights", "DistributedDataParallel"),
    ],
)
def test_ranks_that_ask_differently_are_refused(ranks, what, told):
    for error in ranks.outcomes(unlike, what):
        assert isinstance(error, RankError)
        assert told in str(error)
    assert ranks(planned)


def without_a_loss(rank: int) -> None:
    scoring = Scoring(dense.cross_entropy if rank == 0 else None, parts(EVEN)[rank])
    pruner = Pruner(small(), "magnitude-s", 0.5, example_inputs=BATCH[0][:2], scoring=scoring, group=dist.group.WORLD)
    pruner.sensitivity()


def test_a_loss_that_one_rank_lacks_is_an_error_on_all(ranks):
    for error in ranks.outcomes(without_a_loss):
        assert isinstance(error, RankError)
    assert ranks(planned)


def beside_ddp(rank: int) -> Sensitivity:
    """Asked before, during and after training through the cut."""
    net = small()
    optimizer = momentum(net)
    pruner = make(net, "earlycrop-s", parts(EVEN)[rank], optimizer=optimizer, group=dist.group.WORLD)
    for epoch in range(4):
        pruner.check(epoch)
        found = pruner.sensitivity(sparsities=(0.5,))
        wrapped = DistributedDataParallel(net).train()
        for batch in parts([[8], [8]])[rank] * 2:
            optimizer.zero_grad()
            dense.cross_entropy(wrapped, batch).backward()
            optimizer.step()
    assert pruner.done
    return found


def test_it_may_be_asked_in_any_epoch(ranks):
    zero, one = ranks(beside_ddp)
    assert zero == one
