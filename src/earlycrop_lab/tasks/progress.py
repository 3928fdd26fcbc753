"""What a task tells whoever watches it train."""

from typing import Protocol

from earlycrop import Report
from earlycrop_lab.measure.record import Epoch


class Progress(Protocol):
    """Somebody who watches; every method may do nothing."""

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Training starts, or goes on: that many epochs of that many steps, of which some epochs are done."""

    def step(self) -> None:
        """A training step was done."""

    def cut(self, report: Report) -> None:
        """The pruner pruned."""

    def epoch(self, done: Epoch) -> None:
        """An epoch was finished and evaluated."""


class Silent:
    """Watches and says nothing."""

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def cut(self, report: Report) -> None:
        """Nothing."""

    def epoch(self, done: Epoch) -> None:
        """Nothing."""
