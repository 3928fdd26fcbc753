"""The rate of the drift settles: weights still move, but no longer faster or slower than before (ours)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, Observed
from earlycrop.timing.lazy_regime import Drift


@dataclass(frozen=True)
class RateSettled(AbstractDetector):
    """|rate(t) / rate(t−1) − 1| < tolerance, rate(t) = r(t) − r(t−1), r(t) = ‖θ(t) − θ(0)‖ / ‖θ(0)‖ (ours).

    Args:
        tolerance: How closely the rates of two consecutive looks must agree.
        agreements: How many such agreements in a row it takes.

    Raises:
        ValueError: an option is out of range.
    """

    tolerance: float = 0.1
    agreements: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.agreements < 1:
            raise ValueError(f"`agreements` counts agreements in a row, at least 1; found {self.agreements}.")

    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The drift of the prunable weights."""
        return Drift(lambda: observed.parameters("prunable"))

    def signal(self, curve: Sequence[float]) -> list[float]:
        """|rate(t) / rate(t−1) − 1| at each look, the largest of the last `agreements`; nan while there are fewer.

        Args:
            curve: r(t) at each look.

        >>> [round(value, 2) for value in RateSettled().signal([1.0, 1.5, 1.95])]
        [nan, 0.5, 0.1]
        """
        rates = [after - before for before, after in pairwise([0.0, *curve])]
        changes = [abs(now / before - 1) if before else math.inf for before, now in pairwise(rates)]
        last = [changes[max(0, t - self.agreements + 1) : t + 1] for t in range(len(changes))]
        return [math.nan, *(max(some) if len(some) == self.agreements else math.nan for some in last)][: len(rates)]

    def threshold(self, sparsity: float) -> float:
        """The tolerance: the signal must fall below it."""
        return self.tolerance
