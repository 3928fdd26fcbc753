"""In how many steps: the cumulative sparsities on the way to the target. Scores are computed anew before each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OneShot:
    """All at once."""

    def towards(self, sparsity: float) -> list[float]:
        """The sparsity itself.

        >>> OneShot().towards(0.9)
        [0.9]
        """
        return [sparsity]


@dataclass(frozen=True)
class Halving:
    """ρᵢ = ρ − (ρ − s) / 2ⁱ for i = 0…n, then ρ: each step halves what is left to remove (SNIP-it, CroPit).

    The start s is 1/2, or ρ/2 where ρ is not above 1/2.

    Args:
        n: Halvings; there are n + 2 steps.
    """

    n: int = 5

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
    """Density (1 − ρ)^(k/n) after step k = 1…n: each step keeps the same part of what is left (SynFlow).

    Args:
        n: Steps.
    """

    n: int = 100

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
    """A fixed part of what is left leaves in each step, and in the last one less (Frankle and Carbin, 2019).

    Args:
        part: The part.
    """

    part: float = 0.2

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


Steps = OneShot | Halving | Exponential | Remaining
