"""Where the weights of a new network start."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Weights that are drawn within come from this seed, and the global random state stays as it was.

    Without a seed they are drawn from that.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the accelerators too
        yield
