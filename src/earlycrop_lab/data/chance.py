"""Where chance comes from: a stream of its own for each tuple of numbers, the same on every machine."""

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Starts again for the same numbers, such as a seed and an epoch, and depends on nothing else."""
    return torch.Generator().manual_seed(np.random.SeedSequence(numbers).generate_state(1, np.uint64).item())
