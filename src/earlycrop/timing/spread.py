"""Cuts spread over the first part of training, with training in between."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractPruningSchedule


@dataclass(frozen=True)
class Spread(AbstractPruningSchedule):
    """The cuts of a method come one after the other while training goes on; each is scored on what is left by then.

    Nothing is rewound and no epoch is added. Keep the learning rate constant until the last cut (`pruner.done`).

    Args:
        first: The part of the budget after which the first cut comes.
        last: The part of the budget after which the last cut comes.

    Raises:
        ValueError: not 0 ≤ first ≤ last < 1.
    """

    first: float = 0.1
    last: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last < 1:
            raise ValueError(
                f"`first` and `last` are parts of the budget, 0 ≤ first ≤ last < 1; found {self.first} and {self.last}."
            )

    def moments(self, epochs: float, cuts: int) -> list[float]:
        """Evenly spaced from the first cut to the last; a single cut comes at the last moment.

        >>> Spread(0.1, 0.4).moments(10, 4), Spread(0.1, 0.4).total(10, 4)
        ([1.0, 2.0, 3.0, 4.0], 10)
        """
        if cuts == 1:
            return [self.last * epochs]
        pace = (self.last - self.first) / (cuts - 1)
        return [round((self.first + k * pace) * epochs, 9) for k in range(cuts)]

    def total(self, epochs: float, cuts: int) -> float:
        """The budget: no epoch is added."""
        return epochs
