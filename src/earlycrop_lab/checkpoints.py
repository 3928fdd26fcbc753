"""An interrupted run resumes from its last checkpoint, and no two processes work on the same run.

    with Checkpoints(folder, of=repr(description)) as checkpoints:
        ...
        first = checkpoints.restore(pruner=pruner, model=model, optimizer=optimizer)  # in this order
        for epoch in range(first, epochs):
            ...
            checkpoints.save(epoch + 1)
    checkpoints.discard()

A part is whatever has a `state_dict` and a `load_state_dict`. The states of the random generators are kept beside them.
This file knows nothing about tasks.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from earlycrop import load_state, save_state
from earlycrop.distributed import ALONE, Ranks
from earlycrop.files import sweep
from earlycrop_lab.measure.memory import process_peak_bytes

try:
    import fcntl
except ImportError:  # not a Unix: there is no lock to keep a second process out
    fcntl = None

CHECKPOINT, ATTEMPTS = "checkpoint.safetensors", "attempts.json"
STARTS_OVER = "--again starts over."
BEAT = 1.0
"""Seconds between two notes of how much work would be lost if the process died at that moment."""


class Part(Protocol):
    """Something whose state can be saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain containers, numbers and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore a state that `state_dict` returned."""
        ...


class Occupied(ValueError):
    """Another process is at work in the folder."""


class Forgetful:
    """Keeps nothing: for a task that is run without a folder."""

    def file(self, name: str) -> None:
        """None: there is no file of that name."""

    def restore(self, **parts: Part) -> int:
        """Start from the beginning: 0 epochs are done."""
        return 0

    def save(self, done: int, now: bool = False) -> None:
        """Do nothing."""


class Followed:
    """The checkpoints of the other ranks of a run: they resume where rank 0 does, and write nothing themselves."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    def file(self, name: str) -> None:
        """None: there is no file of that name."""

    def restore(self, **parts: Part) -> int:
        """Take the parts to where rank 0's checkpoint is; the number of epochs done."""
        done, saved = self.ranks.first((None, None))
        if saved is not None:
            _go_on(parts, saved, self.ranks.rank)
        return done or 0

    def save(self, done: int, now: bool = False) -> None:
        """Send rank 0 the state that only this rank has, if rank 0 makes a checkpoint."""
        if self.ranks.first(False):
            self.ranks.gather(_random())


class Checkpoints:
    """The checkpoint of a run in its folder, and the lock on that folder.

    Attributes:
        done: Epochs that the checkpoint holds; None while there is none.
        about: The `about` of the run's first attempt.
        attempts: Processes that worked on the run, this one included.
        lost_seconds: Time lost to interruptions: work that no checkpoint held, and setting up again.
        saving_seconds: Time spent writing checkpoints.
        process_bytes: The largest peak memory of any of these processes when it wrote a checkpoint.

    Args:
        folder: The run's folder; created if necessary, and removed again if it stays empty.
        of: What the run is, in words; the checkpoint of another run is refused.
        about: The circumstances of the run, kept with its checkpoint.
        restart: Whether to delete an existing checkpoint.
        every: The least number of seconds between two checkpoints.
        ranks: The processes that train together, of which this is the first; the others use `Followed`.

    Raises:
        Occupied: Another process is at work in the folder.
        ValueError: The checkpoint in the folder is damaged, or belongs to another run.
    """

    def __init__(
        self,
        folder: Path,
        of: str,
        *,
        about: dict[str, Any] | None = None,
        restart: bool = False,
        every: float = 0.0,
        ranks: Ranks = ALONE,
    ):
        self.folder, self.of, self.about, self.every = folder, of, about or {}, every
        self.done: int | None = None
        self.attempts, self.lost_seconds, self.saving_seconds = 1, 0.0, 0.0
        self.process_bytes: int | None = None
        self.ranks = ranks
        self._restart, self._saves = restart, 0
        self._parts: dict[str, Part] = {}
        self._saved: dict[str, Any] | None = None
        self._mark = self._last = time.perf_counter()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beats, daemon=True)
        self._note = -1

    def __enter__(self) -> "Checkpoints":
        self._lock = alone(self.folder)
        self._lock.__enter__()
        try:
            if self._restart:
                self.discard()
            self._look()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._stop.set()
        if self._note >= 0:
            self._heart.join()
            self._beat()
            os.close(self._note)
        if self.done is None and kind is not None and issubclass(kind, Exception):
            self.discard()  # the run would fail again: this attempt is not worth counting
        self._lock.__exit__(None, None, None)

    def restore(self, **parts: Part) -> int:
        """Restore these parts from the checkpoint, in this order, and include them in every later one.

        Returns:
            The number of epochs done: 0 if there is no checkpoint.

        Raises:
            ValueError: The checkpoint does not fit the parts, which may now be half restored.
        """
        self._parts = parts
        self.ranks.first((self.done, self._saved))
        if self._saved is not None:
            try:
                _go_on(parts, self._saved, 0)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"The checkpoint in {self.folder} does not fit this version of the laboratory "
                    f"({type(error).__name__}: {error}). {STARTS_OVER}"
                ) from error
            self._saved = None
        if self.attempts > 1:
            self.lost_seconds += time.perf_counter() - self._mark  # setting up, which the first attempt did already
            self._mark = time.perf_counter()
        self._note = os.open(self.folder / ATTEMPTS, os.O_WRONLY | os.O_CREAT, 0o666)
        self._beat()
        self._heart.start()
        return self.done or 0

    def save(self, done: int, now: bool = False) -> None:
        """Write a checkpoint of all parts, unless the last one is more recent than `every`.

        Args:
            done: The number of epochs done.
            now: Whether to write it however recent the last checkpoint is.

        Raises:
            OSError: The checkpoint cannot be written; the one before it is unharmed.
        """
        start = time.perf_counter()
        if not self.ranks.first(now or start - self._last >= self.every):
            return
        self.process_bytes = max(self.process_bytes or 0, process_peak_bytes() or 0) or None
        state = {
            "of": self.of,
            "about": self.about,
            "done": done,
            "saves": self._saves + 1,
            "attempts": self.attempts,
            "lost_seconds": self.lost_seconds,
            "saving_seconds": self.saving_seconds,
            "process_bytes": self.process_bytes,
            "random": self.ranks.gather(_random()),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
        }
        try:
            save_state(state, self.folder / CHECKPOINT)
        except OSError as error:
            error.strerror = f"{error.strerror}; the checkpoint before it is whole, the same command resumes from there"
            raise
        self.done, self._saves = done, self._saves + 1
        self._mark = self._last = time.perf_counter()
        self.saving_seconds += self._last - start
        self._beat()

    def file(self, name: str) -> Path:
        """A file in the run's folder, which stays there when the checkpoint is deleted."""
        return self.folder / name

    def discard(self) -> None:
        """Delete the checkpoint: the run has its result, or starts over."""
        for name in (ATTEMPTS, CHECKPOINT):  # the checkpoint last: as long as it exists, the next run tidies up
            (self.folder / name).unlink(missing_ok=True)
        sweep(self.folder / CHECKPOINT)
        self.done = None

    def _look(self) -> None:
        """Read what earlier attempts have left."""
        if (path := self.folder / CHECKPOINT).exists():
            try:
                saved = load_state(path)
            except ValueError as error:
                raise ValueError(f"{error} {STARTS_OVER}") from error
            if saved["of"] != self.of:
                raise ValueError(f"{path} is of another run: {saved['of']}. Keep it elsewhere, or {STARTS_OVER}")
            self.done, self.about, self._saves = saved["done"], saved["about"], saved["saves"]
            self.attempts, self.lost_seconds = saved["attempts"] + 1, saved["lost_seconds"]
            self.saving_seconds, self.process_bytes = saved["saving_seconds"], saved["process_bytes"]
            self._saved = saved
        with suppress(OSError, ValueError, KeyError, TypeError):  # only counts depend on the note
            note = json.loads((self.folder / ATTEMPTS).read_text())
            attempts, lost_seconds, saves = note["attempts"], note["lost_seconds"], note["saves"]
            self.attempts = attempts + 1
            if saves == self._saves:  # otherwise the process died between a checkpoint and its note
                self.lost_seconds = lost_seconds

    def _beats(self) -> None:
        while not self._stop.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        """Note what would be lost, in one short write in place, so that a reader never finds half a note."""
        lost = self.lost_seconds + time.perf_counter() - self._mark
        text = json.dumps({"attempts": self.attempts, "lost_seconds": round(lost, 3), "saves": self._saves})
        with suppress(OSError):  # a full disk: only a count depends on it
            os.pwrite(self._note, f"{text:<126}\n".encode(), 0)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, which ends with the process; the folder is removed again if it stays empty.

    Raises:
        Occupied: Another process is at work in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Occupied(f"Another process is at work in {folder}: wait for its result, or stop it.") from None
            except OSError:  # a file system without locks
                pass
        try:
            yield
        finally:
            with suppress(OSError):  # not empty: the folder stays
                folder.rmdir()
    finally:
        os.close(descriptor)


def _go_on(parts: dict[str, Part], saved: dict[str, Any], rank: int) -> None:
    """Restore the parts and the random generators."""
    for name, part in parts.items():
        part.load_state_dict(saved["parts"][name])
    if rank < len(saved["random"]):  # the run may have had fewer ranks
        _set_random(saved["random"][rank])


def _random() -> dict[str, Any]:
    """The states of all global random generators."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the one that everybody shares
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys), *rest],
    }


def _set_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002 - the one that everybody shares
