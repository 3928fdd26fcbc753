"""Seeded initial weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw weights within the block from this seed, and leave the global random state as it was.

    Without a seed they are drawn from the global random state.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed the accelerators too
        yield
