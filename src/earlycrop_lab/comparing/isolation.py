"""A run in a process of its own, so that its memory is its own and nothing is warm from the run before it.

The process ends with whoever waits for it, however that ends: it reads its standard input, on which nothing is ever
written, and leaves at once when that closes. A run that is cut off so goes on from its last checkpoint next time.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from earlycrop import Report
from earlycrop.files import replacing
from earlycrop_lab.checkpoints import Occupied
from earlycrop_lab.measure.emissions import COUNTRY
from earlycrop_lab.measure.hardware import find_device
from earlycrop_lab.measure.record import Epoch
from earlycrop_lab.runs import FAILURE, failure, folder_name, run
from earlycrop_lab.tasks import described
from earlycrop_lab.tasks.description import Description

PROGRESS = "progress.json"
OCCUPIED = 75
"""Exit code of a process that found another at work in its folder."""
PAUSE = 0.2
"""Seconds between two looks."""
LAST_WORDS = 4000
"""Bytes of what a process said that are kept if it could not say why it ended."""


@dataclass(frozen=True)
class Isolated:
    """Runs a description in a fresh process; all that it leaves is in the run's folder.

    Args:
        out: Where the folders of runs are.
        root: Where data sets lie.
        device: Where to train; `auto` is decided by the process, where it runs.
        country: Whose electricity mix counts.
        pue: Power usage effectiveness of the site.
        checkpoint_every: At least so many seconds between two checkpoints.
        threads: Of the process.
        patience: Seconds to wait for another process in the run's folder, which may be on its way out because its own
            caller was killed.
    """

    out: Path
    root: str | None = None
    device: str = "auto"
    country: str = COUNTRY
    pue: float = 1.0
    checkpoint_every: float = 0.0
    threads: int = 1
    patience: float = 10.0

    def __call__(self, description: Description, stopped: Callable[[], bool]) -> str | None:
        """Why there is no result; None where there is one.

        Args:
            description: What to run.
            stopped: Asked from time to time whether to leave it; it goes on from its last checkpoint next time.
        """
        folder = self.out / folder_name(description)
        (folder / FAILURE).unlink(missing_ok=True)  # it is tried again
        order = {name: value for name, value in asdict(self).items() if name != "threads"}
        order |= {
            "out": str(self.out.absolute()),
            "task": description.task,
            "description": asdict(description),
            "since": time.time(),
        }
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "earlycrop_lab.comparing.isolation", json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threaded(self.threads)},
                process_group=0,  # Ctrl+C reaches the caller alone, who decides
            )
            assert process.stdin is not None
            with process.stdin:
                while (code := _wait(process)) is None:
                    if stopped():
                        break
            if code is None:
                process.wait()
                return "stopped"
            if code == OCCUPIED:
                return f"another process is at work in {folder}"
            if code and not (folder / FAILURE).exists():  # it could not say itself
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
                fail(folder, f"its process {how}", said.read().decode(errors="replace"))
        return failure(folder) if code else None


def threaded(threads: int) -> dict[str, str]:
    """The environment of a process with so many threads, which sleep while they wait."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def fail(folder: Path, error: str, trace: str) -> None:
    """Leave word of a failure in a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FAILURE) as file:
        file.write((json.dumps({"error": error, "traceback": trace}, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Note:
    """How far a run is.

    Args:
        epoch: Epochs that are done, with the part of the present one.
        epochs: Of so many.
        first: Epochs that were done when this process was started.
        seconds: Since then.
    """

    epoch: float
    epochs: int
    first: int
    seconds: float


def progress(folder: Path) -> Note | None:
    """How far the run in that folder is, as its process last said; None where none is at work or has trained yet."""
    with suppress(OSError, ValueError, TypeError):
        return Note(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    return None


class Beacon:
    """Watches a run train, and keeps a note of how far it is in its folder.

    Args:
        folder: The run's.
        since: When its process was started, in seconds of `time.time()`.
    """

    def __init__(self, folder: Path, since: float):
        self._path, self._since, self._file, self._last = folder / PROGRESS, since, -1, 0.0

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """The first note."""
        self._epochs, self._steps, self._first = epochs, steps, done
        self._done = float(done)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._write()

    def step(self) -> None:
        """Another one, if the last is old."""
        self._done += 1 / self._steps
        if time.time() - self._last > PAUSE:
            self._write()

    def cut(self, report: Report) -> None:
        """Nothing."""

    def epoch(self, done: Epoch) -> None:
        """Another one."""
        self._done = float(done.epoch)
        self._write()

    def end(self) -> None:
        """No process is at work any more."""
        if self._file >= 0:
            os.close(self._file)
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        # in one short write, in place, so that no half of it is ever there
        self._last = time.time()
        note = asdict(Note(round(self._done, 3), self._epochs, self._first, round(self._last - self._since, 3)))
        with suppress(OSError):  # a full disk: only a bar depends on it
            os.pwrite(self._file, f"{json.dumps(note):<126}\n".encode(), 0)


def _wait(process: subprocess.Popen) -> int | None:
    try:
        return process.wait(PAUSE)
    except subprocess.TimeoutExpired:
        return None


def _leave_with_the_caller() -> None:
    while os.read(0, 1):  # not through `sys.stdin`, whose lock would be held when the interpreter ends
        pass
    os._exit(130)


def main(order: dict[str, Any]) -> int:
    """Do what was ordered; the exit code."""
    threading.Thread(target=_leave_with_the_caller, daemon=True).start()
    description, out = described(order.pop("task"), order.pop("description")), Path(order.pop("out"))
    folder, device = out / folder_name(description), order.pop("device")
    beacon, began = Beacon(folder, order.pop("since")), time.monotonic()
    patience = order.pop("patience")
    while True:
        try:
            run(description, out, device=find_device(device), progress=beacon, **order)
            return 0
        except Occupied:
            if time.monotonic() - began > patience:
                return OCCUPIED
            time.sleep(PAUSE)
        except Exception as error:  # whatever it is, the other runs go on, and it is told in the table
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "  # the others say it
            fail(folder, kind + " ".join(str(error).split()), traceback.format_exc())
            return 1
        finally:
            beacon.end()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
