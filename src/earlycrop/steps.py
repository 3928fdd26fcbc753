"""In how many steps: the cumulative sparsities on the way to the target. Scores are recomputed before each step.

Steps are given by their number, or by a bound on what one layer may lose before scores are recomputed (`most`).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from earlycrop.allocation import places


@dataclass(frozen=True)
class OneShot:
    """All units leave at once, by one scoring."""

    most: ClassVar[None] = None

    def towards(self, sparsity: float) -> list[float]:
        """The requested sparsity, in one step.

        >>> OneShot().towards(0.9)
        [0.9]
        """
        return [sparsity]


@dataclass(frozen=True)
class Halving:
    """ρᵢ = ρ − (ρ − s) / 2ⁱ for i = 0…n, then ρ: each step halves what is left to remove.

    The start s is 1/2, or ρ/2 if ρ is not above 1/2 (SNIP-it: Verdenius et al., 2020; CroPit: Rachwan et al., 2022).

    Args:
        n: The number of halvings; there are n + 2 steps.

    Raises:
        ValueError: `n` is negative.
    """

    n: int = 5

    most: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError(f"`n` counts halvings and cannot be negative; found {self.n}.")

    def towards(self, sparsity: float) -> list[float]:
        """The n + 2 sparsities.

        >>> [round(step, 4) for step in Halving(5).towards(0.98)]
        [0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]
        """
        start = 0.5 if sparsity > 0.5 else sparsity / 2
        return [*(sparsity - (sparsity - start) * 0.5**i for i in range(self.n + 1)), sparsity]


@dataclass(frozen=True)
class Exponential:
    """Density (1 − ρ)^(k/n) after step k = 1…n: each step keeps the same part of what is left (Tanaka et al., 2020).

    Args:
        n: The number of steps.

    Raises:
        ValueError: `n` is below 1.
    """

    n: int = 100

    most: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"`n` counts steps and must be at least 1; found {self.n}.")

    def towards(self, sparsity: float) -> list[float]:
        """The n sparsities.

        >>> [round(step, 3) for step in Exponential(4).towards(0.9375)]
        [0.5, 0.75, 0.875, 0.938]
        """
        return [*(1 - (1 - sparsity) ** (k / self.n) for k in range(1, self.n)), sparsity]


@dataclass(frozen=True)
class Remaining:
    """A fixed part of what is left leaves in each step, and less in the last one (Frankle and Carbin, 2019).

    Args:
        part: The part of what is left that leaves in one step, in (0, 1).

    Raises:
        ValueError: `part` is not between 0 and 1.
    """

    part: float = 0.2

    most: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.part < 1:
            raise ValueError(f"`part` is the part of what is left that leaves, between 0 and 1; found {self.part}.")

    def towards(self, sparsity: float) -> list[float]:
        """1 − (1 − part)^k as long as that is below the sparsity, then the sparsity.

        >>> [round(step, 3) for step in Remaining(0.2).towards(0.5)], len(Remaining(0.2).towards(0.98))
        ([0.2, 0.36, 0.488, 0.5], 18)
        """
        steps = []
        while (step := 1 - (1 - self.part) ** (len(steps) + 1)) < sparsity - 1e-12:
            steps.append(step)
        return [*steps, sparsity]


@dataclass(frozen=True)
class Bounded:
    """As many steps as it takes for no layer to lose more than a part of its units between two scorings.

    A step ends as soon as one layer has lost the part `most` of its units, because the scores of all other layers were
    computed with that layer whole. A score is a first-order statement about the network as it is; the bound limits how
    far it is trusted.

    Args:
        most: The part of its units that a layer may lose in one step, in (0, 1); one unit may always leave.

    Raises:
        ValueError: `most` is not between 0 and 1.
    """

    most: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.most < 1:
            raise ValueError(f"`most` is the part of a layer that may leave in one step, in (0, 1); found {self.most}.")

    def towards(self, sparsity: float) -> list[float]:
        """The requested sparsity only: the bound divides the way to it.

        >>> Bounded(0.5).towards(0.9)
        [0.9]
        """
        return [sparsity]


def partway(
    keep: Bool[Tensor, "units"], scores: Float[Tensor, "units"], layer: Int[Tensor, "units"], most: float
) -> Bool[Tensor, "units"]:
    """The first step towards `keep`: units leave from the lowest score up until one layer has lost its bound.

    Args:
        keep: True for each unit that stays in the end.
        scores: The higher leaves later.
        layer: For each unit the number of its layer.
        most: The part of its units that a layer may lose; one unit may always leave.

    >>> keep, layer = torch.tensor([False, False, False, True, False, True]), torch.tensor([0, 0, 0, 0, 1, 1])
    >>> partway(keep, torch.tensor([1.0, 3.0, 4.0, 9.0, 2.0, 9.0]), layer, 0.5)  # layer 1 is at its bound first
    tensor([False,  True,  True,  True, False,  True])
    """
    gone = (~keep).nonzero().flatten()
    gone = gone[torch.argsort(scores[gone], stable=True)]
    allowed = (torch.bincount(layer).double() * most).floor().long().clamp_min(1)
    lost = places(-scores[gone], layer[gone]) + 1
    full = (lost >= allowed[layer[gone]]).nonzero().flatten()
    first = gone[: int(full[0]) + 1] if full.numel() else gone
    return torch.ones_like(keep).index_fill_(0, first, False)


Steps = OneShot | Halving | Exponential | Remaining | Bounded
