"""One run on several processes: `torchrun --nproc-per-node 2 -m earlycrop_lab train ...`.

Every rank trains the same network on its part of each batch. Rank 0 alone evaluates, measures, and has the folder.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from earlycrop.distributed import ALONE, Ranks

PATIENCE = timedelta(minutes=30)
"""How long a rank that is silent is waited for; one that died is noticed at once."""


def processes() -> int:
    """How many processes torchrun has started for this run; 1 if it was not torchrun that started this one."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """The ranks that torchrun started and this one's device; or this process alone."""
    if processes() == 1:
        yield ALONE, device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.group.WORLD), device
    finally:
        dist.destroy_process_group()


def data_parallel(model: nn.Module, ranks: Ranks) -> nn.Module:
    """What to call in the model's place, so that each backward pass takes the mean of the ranks' gradients."""
    return model if ranks.size == 1 else DistributedDataParallel(model)
