"""How the budget is shared between layers.

Each way maps scores to scores, and the highest over all layers then stay. So `Uniform` need not count anything: it
replaces each score by its relative rank within its layer, and equal fractions of all layers have equal ranks. One more
way, widths taken from another scoring, is in `widths.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from earlycrop.errors import nearest
from earlycrop.names import Target
from earlycrop.vector import Vector

Prices = Callable[[Target | None], Vector]
"""Computes for each unit how much its leaving saves of a cost; of the budget's if none is named."""


@dataclass(frozen=True)
class Global:
    """All units compete with each other: scores are compared as they are."""

    def __call__(self, scores: Vector, layer: Int[Tensor, "units"], prices: Prices) -> Vector:
        """The scores, unchanged.

        Args:
            scores: The higher stays.
            layer: Makes no difference.
            prices: Makes no difference.
        """
        return scores


@dataclass(frozen=True)
class PerCost:
    """All units compete by their worth for the price: a budget is a knapsack.

    CroP's scores have equal sums in all layers. So scores that are computed again after each step level the widths n_l
    of a chain, whatever the budget counts. Scores per weight level n_l (n_{l−1} + n_{l+1}), the weights beside the
    channels of a layer, and scores per FLOP the FLOPs. Equal widths spend most of a budget of FLOPs on early layers,
    whose maps are large, and leave far fewer weights than it could pay for. Single weights all have one price.

    A budget of one cost spends freely on all others: one of weights leaves early layers wide, whose large maps take
    many FLOPs. With several costs the price is their geometric mean, whatever the budget counts.

    Args:
        of: The costs that make the price; none: what the budget counts.

    Raises:
        ValueError: no cost has such a name.
    """

    of: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        for name in self.of:
            if name not in get_args(Target):
                known = get_args(Target)
                raise ValueError(
                    f"No cost is called {name!r}. Did you mean {nearest(name, known)!r}? There are {', '.join(known)}."
                )

    def __repr__(self) -> str:
        # saved states compare it: without costs as before there were any
        return f"PerCost({self.of or ''})"

    def __call__(self, scores: Vector, layer: Int[Tensor, "units"], prices: Prices) -> Vector:
        """s / p for scores s and prices p, the geometric mean of the costs'; s · p below zero: the dear leave first.

        Args:
            scores: The higher stays.
            layer: Makes no difference.
            prices: Computes for each unit what its leaving saves.
        """
        each = [prices(name) for name in self.of or (None,)]
        price = (torch.stack(each).prod(0) ** (1 / len(each))).to(scores.device)
        return torch.where(scores < 0, scores * price, scores / price)


@dataclass(frozen=True)
class Uniform:
    """The same fraction of every layer stays: a score becomes its rank within its layer, over the layer's size."""

    def __call__(self, scores: Vector, layer: Int[Tensor, "units"], prices: Prices) -> Vector:
        """1 − (place + 1/2) / size, in (0, 1), where place 0 is the layer's best; ties go to the earlier unit.

        Args:
            scores: The higher stays; −∞ for what has left, which stays −∞.
            layer: For each unit the number of its layer.
            prices: Makes no difference.
        """
        sizes = torch.bincount(layer)
        rank = 1 - (places(scores, layer).double() + 0.5) / sizes[layer]
        return torch.where(scores == -torch.inf, scores.double(), rank)


Sharing = Global | PerCost | Uniform


def within(scores: Vector, layer: Int[Tensor, "units"], widths: Int[Tensor, "layers"]) -> Bool[Tensor, "units"]:
    """True for the best `widths[l]` units of each layer l; ties go to the earlier unit.

    Args:
        scores: The higher stays.
        layer: For each unit the number of its layer.
        widths: For each layer how many units stay.

    >>> within(torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, 1]))
    tensor([False,  True,  True,  True, False])
    """
    return places(scores, layer) < widths.to(scores.device)[layer]


def places(scores: Vector, layer: Int[Tensor, "units"]) -> Int[Tensor, "units"]:
    """The place of each unit in its layer, the best at 0; ties go to the earlier unit.

    Args:
        scores: The higher is the better.
        layer: For each unit the number of its layer.

    >>> places(torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 1, 1]))
    tensor([2, 0, 1, 0, 1])
    """
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(layer[order], stable=True)]  # by layer, and within each from the best down
    sizes = torch.bincount(layer)
    place = torch.empty_like(order)
    place[order] = torch.arange(scores.numel(), device=scores.device) - (sizes.cumsum(0) - sizes)[layer[order]]
    return place
