"""After training: the network is trained in full, units leave at once, and what is left is trained again."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractPruningSchedule


@dataclass(frozen=True)
class AfterTraining(AbstractPruningSchedule):
    """Prune after the whole budget, then retrain for a part of it (Li et al., 2017).

    Args:
        retrain: The part of the budget for which what is left is retrained.

    Raises:
        ValueError: `retrain` is negative.
    """

    retrain: float = 0.5

    def __post_init__(self) -> None:
        if self.retrain < 0:
            raise ValueError(f"`retrain` is a part of the budget and cannot be negative; found {self.retrain}.")

    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The end of training, for all cuts.

        >>> AfterTraining().moments(40, 1), AfterTraining().total(40, 1)
        ([40], 60.0)
        """
        return [epochs] * cuts

    def total(self, epochs: float, cuts: int) -> float:
        """The budget and the retraining."""
        return epochs * (1 + self.retrain)
