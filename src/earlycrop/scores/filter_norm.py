"""Filters with large weights stay."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class FilterNorm(AbstractNetworkScore):
    """Σ|θ| over the weights of the filters that create a class of channels, without biases (Li et al., 2017)."""

    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """The L1 norm of the filters of each class."""
        entries = [parameter.detach() for parameter in of.made_of.leaves(of.model)]
        return of.made_of.total([entry.abs() if entry.ndim > 1 else torch.zeros_like(entry) for entry in entries])
