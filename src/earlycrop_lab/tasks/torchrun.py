"""One run on several processes: `torchrun --nproc-per-node 2 -m earlycrop_lab train ...`.

Every rank trains the same network on its part of each batch. Only rank 0 evaluates, measures, and writes the folder.
PyTorch is imported when the ranks join, for the command asks how many there are before it knows that nothing is wrong.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from earlycrop.distributed import Ranks

PATIENCE = timedelta(minutes=30)
"""How long to wait for a rank that does not respond; one that has died is noticed at once."""


def processes() -> int:
    """The number of processes that torchrun has started for this run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined(device: str) -> Iterator[tuple["Ranks", str]]:
    """Join the ranks that torchrun started: the ranks and this one's device; without torchrun, this process alone."""
    import torch
    from torch import distributed as dist

    from earlycrop.distributed import ALONE, Ranks

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


def data_parallel(model: "nn.Module", ranks: "Ranks") -> "nn.Module":
    """The model wrapped so that each backward pass averages the ranks' gradients; unwrapped if there is one rank."""
    from torch.nn.parallel import DistributedDataParallel

    return model if ranks.size == 1 else DistributedDataParallel(model)
