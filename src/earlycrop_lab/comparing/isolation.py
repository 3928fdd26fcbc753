"""A run in its own process, so that its memory is measured alone and no cache is warm from the run before it.

The process ends with its caller, however the caller ends: it reads its standard input, on which nothing is ever
written, and exits at once when that closes. The interrupted run resumes from its last checkpoint next time.
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

from earlycrop.files import replacing
from earlycrop.logs.log import Figures
from earlycrop_lab.checkpoints import Occupied
from earlycrop_lab.measure.emissions import COUNTRY
from earlycrop_lab.measure.hardware import find_device
from earlycrop_lab.runs import FAILURE, failure, folder_name, run
from earlycrop_lab.tasks import described
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.progress import Silent

PROGRESS = "progress.json"
OCCUPIED = 75
"""Exit code of a process that found another at work in its folder."""
PAUSE = 0.2
"""Seconds between two checks, and between two notes of progress."""
LAST_WORDS = 4000
"""Bytes of a process's last output that are kept if it died without reporting why."""


@dataclass(frozen=True)
class Isolated:
    """Runs a description in a fresh process, which leaves everything in the run's folder.

    Args:
        out: Where the folders of runs are.
        root: The folder of the data sets.
        device: The device to train on; `auto` is decided by the process, on the machine where it runs.
        country: ISO code of the country whose electricity mix counts.
        pue: Power usage effectiveness of the site.
        checkpoint_every: The least number of seconds between two checkpoints.
        threads: The number of threads of the process.
        patience: Seconds to wait for another process in the run's folder, which may be about to exit because its own
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
        """Run it, and return None, or the reason why there is no result.

        Args:
            description: What to run.
            stopped: Called from time to time to learn whether to stop; the run resumes from its last checkpoint next
                time.
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
                process_group=0,  # Ctrl+C reaches only the caller, which decides
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
            if code and not (folder / FAILURE).exists():  # it could not report the failure itself
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
                fail(folder, f"its process {how}", said.read().decode(errors="replace"))
        return failure(folder) if code else None


def threaded(threads: int) -> dict[str, str]:
    """The environment variables of a process with that many threads, which sleep while they wait."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def fail(folder: Path, error: str, trace: str) -> None:
    """Record a failure in a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FAILURE) as file:
        file.write((json.dumps({"error": error, "traceback": trace}, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Note:
    """The progress of a run.

    Args:
        epoch: Epochs done, with the fraction of the current one.
        epochs: All epochs of the run.
        first: Epochs that were done when this process started.
        seconds: Seconds since this process started.
    """

    epoch: float
    epochs: int
    first: int
    seconds: float


def progress(folder: Path) -> Note | None:
    """The last note of the process at work in a run's folder; None if there is none or it has not begun to train."""
    with suppress(OSError, ValueError, TypeError):
        return Note(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    return None


class Beacon(Silent):
    """Watches a run train, and keeps a note of its progress in its folder.

    Args:
        folder: The run's folder.
        since: When its process was started, in seconds of `time.time()`.
    """

    def __init__(self, folder: Path, since: float):
        self._path, self._since, self._file, self._last = folder / PROGRESS, since, -1, 0.0

    def begin(self, epochs: int, steps: int, done: int) -> None:
        """Write the first note."""
        self._epochs, self._steps, self._first = epochs, steps, done
        self._done = float(done)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self._write()

    def step(self) -> None:
        """Write a new note, if the last is old."""
        self._done += 1 / self._steps
        if time.time() - self._last > PAUSE:
            self._write()

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Write a new note."""
        self._done = float(epoch)
        self._write()

    def end(self) -> None:
        """Remove the note: the process is no longer at work."""
        if self._file >= 0:
            os.close(self._file)
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        # one short write in place, so that a reader never finds half a note
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
    """Execute the order of an `Isolated` and return the exit code."""
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
        except Exception as error:  # whatever it is, the other runs go on, and the table reports it
            kind = (
                "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            )  # whose messages suffice
            fail(folder, kind + " ".join(str(error).split()), traceback.format_exc())
            return 1
        finally:
            beacon.end()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
