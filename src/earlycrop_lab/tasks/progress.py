"""How a task reports its progress."""

from typing import Protocol

from earlycrop import Report
from earlycrop_lab.measure.record import Epoch


class Progress(Protocol):
    """An observer of training; every method may do nothing."""

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Training begins or resumes: `epochs` epochs of `steps` steps each, of which `done` epochs are done."""

    def step(self) -> None:
        """A training step is done."""

    def cut(self, report: Report) -> None:
        """The pruner has pruned."""

    def epoch(self, done: Epoch) -> None:
        """An epoch is finished and evaluated."""


class Silent:
    """An observer that does nothing."""

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""

    def cut(self, report: Report) -> None:
        """Do nothing."""

    def epoch(self, done: Epoch) -> None:
        """Do nothing."""
