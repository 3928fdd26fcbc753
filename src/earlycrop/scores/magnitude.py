"""Large weights stay."""

from dataclasses import dataclass

import torch

from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Magnitude(AbstractNetworkScore):
    """√(mean of θ² over the entries that make a unit): |θ| for a weight (Han et al., 2015).

    For a class of channels the entries are the filter and the bias of each of its creators; as a mean is taken, classes
    with many creators are not favoured.
    """

    def __call__(self, of: Network) -> Vector:
        """The root mean square of each unit's own entries."""
        entries = [parameter.detach() for parameter in of.made_of.leaves(of.model)]
        count = of.made_of.total([torch.ones_like(entry) for entry in entries])
        return (of.made_of.total([entry.square() for entry in entries]) / count.clamp_min(1)).sqrt()
