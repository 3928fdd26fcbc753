"""Units on strong paths stay: the norm of the weights in, times the norm's scale, times the norm of the weights out."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from earlycrop.scores.abstract import AbstractNetworkScore, Entries, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class PathNorm(AbstractNetworkScore):
    """‖θ_in‖ · |γ| · ‖θ_out‖ of a channel: the norm of all paths through it, from one layer to the next.

    Each factor is a root mean square: θ_in are the filters and biases that create the channel, γ the scales of the
    norms that it goes through, θ_out the weights that read it; a factor without entries is 1. The squared product of
    weights, summed over all paths through a unit, is ‖θ_in‖² · ‖θ_out‖² (the path norm of Neyshabur et al., 2015, over
    two layers; using it as a score is our choice), so a unit that leaves takes that much of the signal with it. Needs
    no data, and becomes meaningful once the network has been trained a little.
    """

    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """The product of the three root mean squares."""
        factors = [_mean_square(of, entries) for entries in (of.made_of, of.scales, of.readers)]
        return torch.stack(factors).prod(0).sqrt()


def _mean_square(of: Network, entries: Entries) -> Vector:
    """The mean of θ² over the entries of each unit; 1 where it has none."""
    values = [parameter.detach().double() for parameter in entries.leaves(of.model)]
    count = entries.total([torch.ones_like(value) for value in values])
    total = entries.total([value.square() for value in values])
    return torch.where(count > 0, total / count.clamp_min(1), 1.0).double()
