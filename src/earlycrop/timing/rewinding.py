"""Rounds: train in full, let weights leave, go back to an early moment, and train again."""

from dataclasses import dataclass
from typing import ClassVar

from earlycrop.timing.abstract import AbstractPruningSchedule


@dataclass(frozen=True)
class Rewinding(AbstractPruningSchedule):
    """Iterative pruning with rewinding (Frankle et al., 2020): each cut comes at the end of a training.

    After it everything that is left, and norms, biases and buffers, is as it was after `to` epochs, the optimizer has
    forgotten its state, and the learning rate goes on from there. Rewinding to 0 is iterative magnitude pruning.

    Args:
        to: Epochs after which the weights are kept to be rewound to.
    """

    to: float = 1.0

    weights_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.to < 0:
            raise ValueError(f"`to` counts epochs; found {self.to}.")

    @property
    def rewinds_to(self) -> float:
        """`to`."""
        return self.to

    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The end of each training but the last.

        >>> Rewinding(to=1).moments(10, 3), Rewinding(to=1).total(10, 3)
        ([10, 19, 28], 37)
        """
        self._check(epochs)
        return [epochs + n * (epochs - self.to) for n in range(cuts)]

    def total(self, epochs: float, cuts: int) -> float:
        """The first training whole, the others from the rewound moment on."""
        self._check(epochs)
        return epochs + cuts * (epochs - self.to)

    def _check(self, epochs: float) -> None:
        if epochs <= self.to:
            raise ValueError(
                f"A training of {epochs:g} epochs cannot be rewound to epoch {self.to:g}: train for longer."
            )
