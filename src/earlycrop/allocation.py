"""How the budget is shared between layers: each way makes scores comparable across layers.

An allocation maps scores to scores; the highest of all then stay. So `Uniform` needs no counting of its
own: it replaces a score by its rank within its layer, and equal fractions of each layer have equal ranks.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Vector = Float[Tensor, "units"]


@dataclass(frozen=True)
class Global:
    """All units compete: scores as they are."""

    def __call__(self, scores: Vector, layer: Int[Tensor, "units"]) -> Vector:
        """The scores."""
        return scores


@dataclass(frozen=True)
class Uniform:
    """The same fraction of every layer stays: a score becomes its rank within its layer, over the layer's size."""

    def __call__(self, scores: Vector, layer: Int[Tensor, "units"]) -> Vector:
        """(rank + 1/2) / size, in (0, 1); ties rank by position, the earlier one higher."""
        order = torch.argsort(scores, descending=True, stable=True)
        order = order[torch.argsort(layer[order], stable=True)]  # by layer, within it from the best down
        sizes = torch.bincount(layer)
        starts = sizes.cumsum(0) - sizes
        place = torch.arange(scores.numel(), device=scores.device) - starts[layer[order]]
        rank = torch.empty(scores.numel(), dtype=torch.float64, device=scores.device)
        rank[order] = 1 - (place.double() + 0.5) / sizes[layer[order]]
        return torch.where(scores == -torch.inf, scores.double(), rank)


Allocation = Global | Uniform
