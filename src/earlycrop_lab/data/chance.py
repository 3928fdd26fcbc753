"""Random numbers: a separate stream for each tuple of integers, the same on every machine."""

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """A generator that depends only on the given numbers, such as a seed and an epoch."""
    return torch.Generator().manual_seed(np.random.SeedSequence(numbers).generate_state(1, np.uint64).item())
