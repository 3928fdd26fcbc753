"""The progress of training, live: a bar that fits the terminal, or one plain line per epoch in a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from earlycrop.logs.log import Figures
from earlycrop_lab.measure.record import Epoch
from earlycrop_lab.reporting.columns import shown
from earlycrop_lab.reporting.summary import what_left
from earlycrop_lab.tasks.description import Metric
from earlycrop_lab.tasks.progress import Silent


class Display(Silent):
    """Prints one line per epoch and, in a terminal, a progress bar below.

    Use it as the `progress` of a run, within `with display.live():`.

    Args:
        console: Where to print.
        title: Printed when training begins.
        metric: The task's main metric.
    """

    def __init__(self, console: Console, title: str, metric: Metric):
        self.console, self.title, self.metric = console, title, metric
        self.terminal = console.is_terminal
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            expand=True,
            disable=not self.terminal,
        )
        self.epochs = 0
        self.task: Any = None

    @contextmanager
    def live(self) -> Iterator["Display"]:
        """Show the bar within the block; afterwards the bar disappears and the lines stay."""
        with self.bar:
            yield self

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Print the title and the headings of the columns."""
        self.epochs = epochs
        now = f"{min(done + 1, epochs)}/{epochs}"
        self.task = self.bar.add_task("", total=epochs * steps, completed=done * steps, epoch=now)
        self._line(f"\n{self.title}", wrap=True)
        if done:
            self._line(f"was cut off and goes on: {done} of {epochs} epochs are done", wrap=True)
        self._line(f"test: {self.metric.label}, {self.metric.better} is better", wrap=True)
        self._line(f"{'epoch':>9}  {'phase':6}  {'loss':>7}  {'train':>7}  {'test':>7}  {'rate':>7}  {'seconds':>7}")

    def step(self) -> None:
        """Advance the bar by one step."""
        if self.terminal:
            self.bar.advance(self.task)

    def cut(self, report: Any) -> None:
        """Print what was removed."""
        self._line(what_left(report.as_dict()), wrap=True)

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Print the epoch's line."""
        done = Epoch(epoch=int(epoch), **figures)  # type: ignore[arg-type] # what a session reports
        self._line(
            f"{done.epoch:4}/{self.epochs:<4}  {done.phase:6}  {done.loss:7.4f}  {shown(self.metric, done.train):>7}  "
            f"{shown(self.metric, done.test):>7}  {done.learning_rate:7.1e}  {done.seconds:7.1f}"
        )
        self.bar.update(self.task, epoch=f"{min(done.epoch + 1, self.epochs)}/{self.epochs}")

    def _line(self, text: str, wrap: bool = False) -> None:
        # a log gets the whole line; a terminal too narrow for the columns shows the beginning of the line
        self.console.print(
            text,
            markup=False,
            highlight=False,
            soft_wrap=not self.terminal,
            no_wrap=self.terminal and not wrap,
            overflow="ellipsis" if not wrap else None,
        )
