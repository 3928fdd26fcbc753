"""The progress of a comparison, live: bars that fit the terminal, or plain lines in a log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from earlycrop_lab.comparing.isolation import Note, progress
from earlycrop_lab.reporting.columns import shown
from earlycrop_lab.runs import Result, folder_name
from earlycrop_lab.tasks.description import Description


def duration(seconds: float) -> str:
    """A duration, rounded, in at most two units.

    >>> duration(7), duration(100), duration(3900), duration(200_000)
    ('7 s', '1 min 40 s', '1 h 05 min', '2 d 07 h')
    """
    seconds = round(seconds)
    for size, unit, part, less in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part:02} {less}"
    return f"{seconds} s"


class Dashboard:
    """Shows the progress of runs, from the note that each run's process keeps in the run's folder.

    Args:
        console: Where to print.
        todo: The runs to be done.
        out: Where their folders are.
        workers: The number of runs side by side.
    """

    def __init__(self, console: Console, todo: Sequence[Description], out: Path, workers: int = 1):
        self.console, self.out, self.workers = console, out, workers
        self.open = list(todo)
        self.count = len(todo)
        self.notes: dict[Description, Note] = {}
        self._stale = {run: note for run in todo if (note := progress(out / folder_name(run)))}
        self._tasks: dict[Description, TaskID] = {}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[far]}"),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_terminal,
        )
        self._all = self.bars.add_task("all runs", total=self.count, far=f"0 of {self.count}")

    @contextmanager
    def live(self) -> Iterator["Dashboard"]:
        """Show the bars within the block; afterwards the bars disappear and the lines stay."""
        with self.bars:
            yield self

    def look(self) -> None:
        """Read the notes of all runs and update the bars."""
        for run in self.open:
            note = progress(self.out / folder_name(run))
            if note is None or note == self._stale.get(run):  # left by a process that was killed
                continue
            if run not in self.notes:
                again = f", from epoch {note.first + 1} of {note.epochs}" if note.first else ""
                self._line(f"began {folder_name(run)}{again}")
                self._tasks[run] = self.bars.add_task(folder_name(run), total=note.epochs, far="")
            self.notes[run] = note
            self.bars.update(self._tasks[run], completed=note.epoch, far=f"epoch {note.epoch:.1f} of {note.epochs}")
        done = self.count - len(self.open)
        under_way = sum(note.epoch / note.epochs for run, note in self.notes.items() if run in self.open)
        self.bars.update(self._all, completed=done + under_way, far=f"{done} of {self.count}{self._left()}")

    def ended(self, run: Description, how: Result | str) -> None:
        """Print that a run has ended: with its result, or without one for the given reason."""
        self.open.remove(run)
        if run in self._tasks:
            self.bars.remove_task(self._tasks.pop(run))
        done = self.count - len(self.open)
        if isinstance(how, str):
            text = f"FAILED {folder_name(run)}: {how}"
        else:
            columns = how.columns
            text = (
                f"done {folder_name(run)}: {shown(how.description.metric, how.figure)} in {duration(columns.seconds)}"
            )
            if run in self.notes:
                self.notes[run] = replace(self.notes[run], epoch=float(self.notes[run].epochs))
        self._line(f"{text} ({done} of {self.count}{self._left()})")

    def seconds_left(self) -> float | None:
        """Estimate of how long the open runs will take, in seconds; None before any progress.

        An epoch is assumed to take the mean time of epochs of the same network on the same data or, if there are none,
        of all epochs.
        """
        paced = [(run, note.epoch - note.first, note.seconds) for run, note in self.notes.items()]
        seconds = 0.0
        for run in self.open:
            alike = [each for each in paced if _kind(each[0]) == _kind(run)] or paced
            epochs = sum(done for _, done, _ in alike)
            if not epochs:
                return None
            note = self.notes.get(run)
            still = note.epochs - note.epoch if note else run.total_epochs
            seconds += still * sum(took for _, _, took in alike) / epochs
        return seconds / min(self.workers, max(len(self.open), 1))

    def _left(self) -> str:
        left = self.seconds_left()
        return f", about {duration(left)} left" if left else ""

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _kind(run: Description) -> tuple:
    return (run.task, run.data, run.train_size, run.network, run.width)
