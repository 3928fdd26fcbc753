"""Training of two ranks through a cut: they stay equal, plan and harvest the same, and learn as one process does."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop import Pruner, get_method
from earlycrop.timing import AtEpoch
from tests import dense
from tests.distributed.helpers import BATCH, EVEN, HALVES, make, parts, planned
from tests.ranks import Ensemble
from tests.small import PRUNING, adam, momentum, small


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
