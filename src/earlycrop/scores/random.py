"""The baseline that every score must beat."""

from dataclasses import dataclass

import torch

from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Random(AbstractNetworkScore):
    """Uniform random numbers, drawn from the pruner's seed."""

    def __call__(self, of: Network) -> Vector:
        """U(0, 1) for each unit, drawn on the CPU so that a seed means the same everywhere."""
        values = of.coordinates.values
        generator = torch.Generator().manual_seed(of.seed)
        return torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
