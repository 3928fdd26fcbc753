"""Rounds: train in full, remove weights, go back to an early epoch, and train again."""

from dataclasses import dataclass
from typing import ClassVar

from earlycrop.timing.abstract import AbstractPruningSchedule


@dataclass(frozen=True)
class Rewinding(AbstractPruningSchedule):
    """Iterative pruning with rewinding (Frankle et al., 2020): each cut comes at the end of a training.

    After a cut all weights that are left, norms, biases and buffers are as they were after `to` epochs, the optimizer's
    state is cleared, and the learning rate continues from there. Rewinding to 0 is iterative magnitude pruning.

    Args:
        to: Rewind to the weights after this many epochs.

    Raises:
        ValueError: `to` is negative.
    """

    to: float = 1.0

    weights_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.to < 0:
            raise ValueError(f"`to` counts epochs and cannot be negative; found {self.to}.")

    @property
    def rewinds_to(self) -> float:
        """The epoch `to`."""
        return self.to

    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The end of each training but the last.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.

        Raises:
            ValueError: the budget ends before the epoch to rewind to.

        >>> Rewinding(to=1).moments(10, 3), Rewinding(to=1).total(10, 3)
        ([10, 19, 28], 37)
        """
        self._check(epochs)
        return [epochs + n * (epochs - self.to) for n in range(cuts)]

    def total(self, epochs: float, cuts: int) -> float:
        """The first training in full, the others from the epoch `to` on.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.

        Raises:
            ValueError: the budget ends before the epoch to rewind to.
        """
        self._check(epochs)
        return epochs + cuts * (epochs - self.to)

    def _check(self, epochs: float) -> None:
        if epochs <= self.to:
            raise ValueError(
                f"A training of {epochs:g} epochs cannot be rewound to epoch {self.to:g}: train for longer."
            )
