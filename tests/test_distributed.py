"""Two ranks of one process group are as good as one process, cut the same, and never wait for one that is gone."""

import os
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import EarlyCropError, Pruner, RankError, ScoreError, get_method
from earlycrop.distributed import Ranks, checksums
from earlycrop.timing import AtEpoch, NtkSettled
from tests import dense
from tests.pruners import make_pruner
from tests.ranks import Ensemble, Gone
from tests.test_pruner import PRUNING, adam, momentum, small

BATCH = dense.images(16)
HALVES, EVEN, UNEVEN, ONE_SIDED = [[8], [8]], [[3, 5], [8]], [[4, 7], [5]], [[9, 7], []]
"""How many samples each rank has in its batches."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    with Ensemble(tmp_path_factory.mktemp("ranks")) as ensemble:
        yield ensemble


def parts(sizes: list[list[int]]) -> list[list[tuple[Tensor, Tensor]]]:
    """For each rank its batches; together they are the first samples of the batch, in order."""
    found, start = [], 0
    for rank in sizes:
        found.append([])
        for size in rank:
            found[-1].append(tuple(tensor[start : start + size] for tensor in BATCH))
            start += size
    return found


def met(seed: int = 1) -> nn.Module:
    """The network after a few steps, so that its norms have seen batches."""
    net = small(seed).train()
    with torch.no_grad():
        for _ in range(3):
            net(BATCH[0])
    return net


def make(net: nn.Module, method, batches, **options) -> Pruner:
    options = {"loss": dense.cross_entropy, "example_inputs": BATCH[0][:2], "epochs": 8, "micro_batch": 3} | options
    return make_pruner(net, method, 0.6, batches=batches, **options)


def method_of(name: str):
    name, _, reading = name.partition(" ")
    return get_method(name).reading(reading) if reading else get_method(name)


# Scores -----------------------------------------------------------------------------------------------------------


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
    return pruner._removal.gathering.total, pruner.scores()


def test_gates_judged_in_training_are_the_mean_of_what_each_rank_felt(ranks):
    (mine, zero), (theirs, one) = ranks(gathered)
    assert not torch.equal(mine, theirs)
    assert torch.equal(zero, one)
    seen = (mine + theirs) / 2
    torch.testing.assert_close(zero[zero > zero.min()], seen[zero > zero.min()])


# Training ---------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """No batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        return self.head((x + torch.tanh(self.conv2(x))).mean((2, 3)))


def plain() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Plain().double()


def trained(net: nn.Module, method, batches, optimizer, steps: int, wrap, rewrap: bool = True, **options) -> Pruner:
    """Steps through a cut in the middle."""
    method = replace(get_method(method), timing=AtEpoch(steps // 2))
    pruner = make(net, method, batches, optimizer=optimizer, epochs=steps, **options)
    subject = wrap(net)
    for step in range(steps):
        if pruner.check(step) and rewrap:
            subject = wrap(net)
        optimizer.zero_grad()
        dense.cross_entropy(subject.train(), batches[step % len(batches)]).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert pruner.done
    return pruner


def states(net: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner) -> dict:
    state = {(name, key): v for name, p in net.named_parameters() for key, v in optimizer.state[p].items()}
    masks = {} if pruner.report.unit == "channels" else pruner.units.masks()
    zero = all(not net.get_parameter(name)[~keep].any() for name, keep in masks.items())
    buffers = {name: buffer for name, buffer in net.named_buffers() if "running" not in name}
    parameters = dict(net.named_parameters())
    return {"parameters": parameters, "buffers": buffers, "state": state, "keep": pruner.units.keep, "zero": zero}


def fifty(rank: int, name: str, make_optimizer, rewrap: bool, views: bool) -> dict:
    net = small()
    torch.manual_seed(rank)  # dropout
    optimizer = make_optimizer(net)

    def wrap(net: nn.Module) -> nn.Module:
        return DistributedDataParallel(net, gradient_as_bucket_view=views)

    pruner = trained(net, name, parts(EVEN)[rank], optimizer, 50, wrap, rewrap, group=dist.group.WORLD)
    return states(net, optimizer, pruner)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("make_optimizer", [adam, momentum])
@pytest.mark.parametrize(
    ("name", "rewrap"), [("crop-s", True), ("crop-u", True), ("crop-u", False), ("cropit-s", True)]
)
def test_ranks_stay_bitwise_equal_through_a_cut(ranks, name, rewrap, make_optimizer, views):
    zero, one = ranks(fifty, name, make_optimizer, rewrap, views)
    for what in ("parameters", "buffers", "state"):
        assert zero[what].keys() == one[what].keys()
        assert all(torch.equal(a, one[what][key]) for key, a in zero[what].items())
    assert zero["state"]
    assert torch.equal(zero["keep"], one["keep"])
    assert not zero["keep"].all()
    assert zero["zero"]
    assert one["zero"]


def beside(rank: int, name: str) -> tuple[dict[str, Tensor], str]:
    net = small()
    torch.manual_seed(rank)  # dropout
    optimizer = adam(net)
    pruner = make(net, name, parts(EVEN)[rank], optimizer=optimizer, group=dist.group.WORLD)
    for epoch in range(int(pruner.total_epochs) + 1):
        pruner.check(epoch)
        wrapped = DistributedDataParallel(net).train()
        for batch in parts(HALVES)[rank] * 2:
            optimizer.zero_grad()
            dense.cross_entropy(wrapped, batch).backward()
            optimizer.step()
    assert pruner.done
    # the proof is made with what batch norm has seen on this rank
    return dict(net.named_parameters()), repr(replace(pruner.report, seconds=0.0, verification=None))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRUNING)
def test_every_method_beside_a_loop_of_two_ranks(ranks, name):
    (zero, report), (one, same) = ranks(beside, name)
    assert report == same
    assert all(torch.equal(tensor, one[key]) for key, tensor in zero.items())


def statistics(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    norm = nn.BatchNorm2d(2).double()
    wrapped = DistributedDataParallel(norm)
    for batch in parts(HALVES)[rank] * 2:
        wrapped(batch[0])
    before = norm.running_mean.clone()
    wrapped(batch[0])
    return before, batch[0].mean((0, 2, 3)), norm.running_mean


def test_batch_norm_sees_each_ranks_own_part_and_goes_on_from_rank_0s_statistics(ranks):
    (zero, _, _), (one, seen, after) = ranks(statistics)
    assert not torch.equal(zero, one)
    torch.testing.assert_close(after, 0.9 * zero + 0.1 * seen)


def not_wrapped_anew(rank: int) -> None:
    net = small()
    wrap = DistributedDataParallel
    trained(net, "crop-s", parts(EVEN)[rank], momentum(net), 4, wrap, rewrap=False, group=dist.group.WORLD)


def test_after_a_cut_of_channels_the_old_wrapper_complains(ranks):
    for error in ranks.outcomes(not_wrapped_anew):
        assert isinstance(error, RuntimeError)  # PyTorch's own


def twenty(rank: int, name: str) -> dict[str, Tensor]:
    net = plain()
    optimizer = momentum(net)
    trained(net, name, parts(HALVES)[rank], optimizer, 20, DistributedDataParallel, group=dist.group.WORLD)
    return dict(net.named_parameters())


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_training_is_that_of_one_process_on_the_union(ranks, name):
    zero, one = ranks(twenty, name)
    net = plain()
    optimizer = momentum(net)
    trained(net, name, [BATCH], optimizer, 20, lambda net: net)
    for key, parameter in net.named_parameters():
        torch.testing.assert_close(zero[key], parameter, rtol=0, atol=1e-8)
        assert torch.equal(zero[key], one[key])


def harvested(rank: int) -> dict[str, Tensor]:
    net = small()
    optimizer = adam(net)
    wrap = DistributedDataParallel
    pruner = trained(net, "crop-u", parts(EVEN)[rank], optimizer, 4, wrap, group=dist.group.WORLD)
    with torch.no_grad():
        net.norm1.bias.zero_()
        net.norm1.running_mean.mul_(rank)  # zero on the first alone, where whole channels are dead then
        net.conv1.weight[0] = 0
        pruner.units.keep_only(torch.cat([net.get_parameter(n).flatten() != 0 for n in pruner.units.names]))
    pruner.harvest()
    return dict(net.named_parameters())


def test_all_harvest_what_rank_0_finds_dead(ranks):
    zero, one = ranks(harvested)
    assert len(zero["conv1.weight"]) < 6
    assert all(torch.equal(tensor, one[name]) for name, tensor in zero.items())


def planned(rank: int) -> tuple[dict, bool]:
    net = small()
    before = [p.clone() for p in net.parameters()]
    plan = make(net, "crop-s", parts(UNEVEN)[rank], group=dist.group.WORLD).dry_run()
    return plan.as_dict(), all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


def test_a_dry_run_is_the_same_on_all(ranks):
    (zero, untouched), (one, too) = ranks(planned)
    assert zero == one
    assert untouched
    assert too


def wrapped_before(rank: int, looks: bool, group) -> list[Tensor]:
    """Widths are taken, or a cut is planned, when the model is wrapped already; then steps follow."""
    net = small()
    wrapped, optimizer = DistributedDataParallel(net), adam(net)
    pruner = make(net, "earlycrop-s", parts(EVEN)[rank], optimizer=optimizer, group=group or dist.group.WORLD)
    assert pruner.check(0) is None if looks else pruner.dry_run()
    net.drop.p = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        dense.cross_entropy(wrapped.train(), parts(HALVES)[rank][0]).backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize("group", [None, "alone"])
@pytest.mark.parametrize("looks", [True, False])
def test_what_is_cut_and_undone_does_not_part_the_ranks(ranks, looks, group):
    zero, one = ranks(wrapped_before, looks, group)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(zero, one, strict=True))


def test_nor_does_it_stop_a_process_that_is_alone_in_its_group(tmp_path):
    with Ensemble(tmp_path, size=1) as ensemble:
        for looks in (True, False):
            ensemble(wrapped_before, looks, None)


# Errors -----------------------------------------------------------------------------------------------------------


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
        ("method", "method is Method(name='crop-s'"),
        ("seed", "seed is 0 on rank 0 and 1 on rank 1"),
        ("model", "`1.weight` is of shape"),
    ],
)
def test_ranks_that_do_not_fit_are_refused_with_what_differs(ranks, what, told):
    for error in ranks.outcomes(different, what):
        assert isinstance(error, RankError)
        assert told in str(error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.int8])
def test_checksums_see_every_move(dtype):
    before = checksums([("w", torch.ones(4, 3, dtype=dtype)), ("none", torch.empty(0))])
    assert before == checksums([("w", torch.ones(3, 4, dtype=dtype).T), ("none", torch.empty(0))])
    moved = torch.ones(4, 3, dtype=dtype)
    moved[1, 2] = 2
    assert before != checksums([("w", moved), ("none", torch.empty(0))])
    assert before != checksums([("w", torch.ones(12, dtype=dtype)), ("none", torch.empty(0))])


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


def tensors(rank: int) -> None:
    """All kinds of buffers are shared, whatever they are and however they lie."""
    together = Ranks(dist.group.WORLD)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64):
        tensor = torch.ones(3, 2).to(dtype).T if rank == 0 else torch.zeros(2, 3).to(dtype)
        together.share([tensor, empty := torch.empty(0)])
        assert bool((tensor == torch.ones(2, 3).to(dtype)).all())
        assert empty.numel() == 0
    assert together.first(torch.tensor([rank, 7], dtype=torch.uint32)).tolist() == [0, 7]
    assert [one.tolist() for one in together.gather(torch.tensor([rank], dtype=torch.uint16))] == [[0], [1]]
    assert together.total(rank, 2.5) == [1, 5.0]
    stored = torch.zeros(1000, 1000)
    (first, name, labels), *_ = together.union([(stored[rank], f"rank {rank}", torch.arange(3))])
    assert name == "rank 0"
    assert len(labels) == 3
    assert first.untyped_storage().nbytes() == 4000  # not what it is a view of


def test_any_tensor_travels(ranks):
    ranks(tensors)


# Ranks that are gone ----------------------------------------------------------------------------------------------


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
