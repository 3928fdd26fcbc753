"""How a task reports its progress."""

from typing import Protocol

from earlycrop import Check, Report
from earlycrop.logs import Log, Logs
from earlycrop.logs.log import Figures


class Progress(Log, Protocol):
    """A log that also follows training step by step; every method may do nothing.

    The pruner reports its looks and cuts, the session the epochs: their figures are the fields of
    `measure.record.Epoch` but its number.
    """

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Training begins or resumes: `epochs` epochs of `steps` steps each, of which `done` epochs are done."""

    def step(self) -> None:
        """A training step is done."""


class Silent(Progress):
    """An observer that does nothing."""


class Watched(Silent):
    """One observer of the steps, and logs beside it, which are opened when training begins.

    Args:
        progress: Receives everything, the steps too.
        open_logs: Opens the logs, of a training of which so many epochs are done.
    """

    def __init__(self, progress: Progress, open_logs: "OpenLogs") -> None:
        self._progress, self._open = progress, open_logs
        self._logs = Logs()

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Begin, and open the logs."""
        self._progress.begin(epochs, steps, done)
        self._logs = Logs(*self._open(done))

    def step(self) -> None:
        """A training step is done."""
        self._progress.step()

    def check(self, look: Check) -> None:
        """The detector has looked."""
        self._progress.check(look)
        self._logs.check(look)

    def cut(self, report: Report) -> None:
        """The pruner has pruned."""
        self._progress.cut(report)
        self._logs.cut(report)

    def epoch(self, epoch: float, figures: Figures) -> None:
        """An epoch is finished and evaluated."""
        self._progress.epoch(epoch, figures)
        self._logs.epoch(epoch, figures)


class OpenLogs(Protocol):
    """Opens the logs of a run when its training begins or resumes."""

    def __call__(self, done: int) -> list[Log]:
        """The logs, of a training of which `done` epochs are done."""
        ...
