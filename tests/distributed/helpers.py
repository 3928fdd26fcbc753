"""What the tests of several ranks have in common: a batch in parts, a network, a pruner, a planned cut."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from earlycrop import Pruner, get_method
from tests import dense
from tests.pruners import make_pruner
from tests.small import small

BATCH = dense.images(16)
HALVES, EVEN, UNEVEN, ONE_SIDED = [[8], [8]], [[3, 5], [8]], [[4, 7], [5]], [[9, 7], []]
"""How many samples each rank has in its batches."""


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


def planned(rank: int) -> tuple[dict, bool]:
    net = small()
    before = [p.clone() for p in net.parameters()]
    plan = make(net, "crop-s", parts(UNEVEN)[rank], group=dist.group.WORLD).dry_run()
    return plan.as_dict(), all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
