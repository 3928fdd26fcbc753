"""Channels with large scales stay, the factors by which norms multiply them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class NormScale(AbstractNetworkScore):
    """Σ|γ| over the norms that a class of channels goes through (Liu et al., 2017; You et al., 2020).

    Channels without a norm leave last; a network without any is refused.
    """

    needs_norms: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """The sum of the scales' absolute values."""
        scales = [scale.detach() for scale in of.scales.leaves(of.model)]
        return behind(of, of.scales.total([scale.abs() for scale in scales]))


def behind(of: Network, scores: Vector) -> Vector:
    """The scores of classes by their norms, where classes without a norm are placed above all others."""
    have = of.scales.total([torch.ones_like(scale) for scale in of.scales.leaves(of.model)]) > 0
    return torch.where(have, scores, scores.max() + 1) if scores.numel() else scores
