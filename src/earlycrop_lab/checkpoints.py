"""A run that is cut off goes on from its last checkpoint, and no two processes work on the same run.

    with Checkpoints(folder, of=repr(description)) as checkpoints:
        ...
        first = checkpoints.restore(pruner=pruner, model=model, optimizer=optimizer)  # in this order
        for epoch in range(first, epochs):
            ...
            checkpoints.save(epoch + 1)
    checkpoints.discard()

A part is whatever has a `state_dict` and a `load_state_dict`. The states of the random generators are kept beside them.
Nothing of a task is known here.
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
except ImportError:  # not a Unix: nothing keeps two processes apart
    fcntl = None

CHECKPOINT, ATTEMPTS = "checkpoint.safetensors", "attempts.json"
STARTS_OVER = "--again starts over."
BEAT = 1.0
"""Seconds between two notes of how much work would be lost if the process died now."""


class Part(Protocol):
    """Something that can be kept and gone on with."""

    def state_dict(self) -> dict[str, Any]:
        """Plain containers, numbers and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from there."""
        ...


class Occupied(ValueError):
    """Another process works in the folder."""


class Forgetful:
    """Keeps nothing: for a task that is run without a folder."""

    def restore(self, **parts: Part) -> int:
        """From the beginning."""
        return 0

    def save(self, done: int, now: bool = False) -> None:
        """Nothing."""


class Followed:
    """On the other ranks of a run that several processes train: goes on as rank 0 does, and keeps nothing itself."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    def restore(self, **parts: Part) -> int:
        """To where rank 0's checkpoint is."""
        done, saved = self.ranks.first((None, None))
        if saved is not None:
            _go_on(parts, saved, self.ranks.rank)
        return done or 0

    def save(self, done: int, now: bool = False) -> None:
        """Tell rank 0 what only this one knows, if it makes a checkpoint."""
        if self.ranks.first(False):
            self.ranks.gather(_random())


class Checkpoints:
    """The checkpoint of a run in its folder, and the lock on that folder.

    Attributes:
        done: Epochs that the checkpoint holds; None while there is none.
        about: What was known where the run began: the `about` of its first attempt.
        attempts: Processes that worked on the run, this one included.
        lost_seconds: Work of earlier processes that their last checkpoint did not hold, and setting up again.
        saving_seconds: Writing checkpoints.
        process_bytes: The most memory that any of these processes had when it wrote a checkpoint.

    Args:
        folder: The run's folder; made if need be, and removed again if nothing was put there.
        of: What the run is, in words; the checkpoint of something else is refused.
        about: Anything worth knowing of the circumstances.
        restart: Forget a checkpoint that is there.
        every: At least so many seconds between two checkpoints.
        ranks: The processes that train together, of which this is the first; the others have `Followed`.

    Raises:
        Occupied: another process is at work in the folder.
        ValueError: the checkpoint there is damaged, or of another run.
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
            self.discard()  # it would fail again: nothing worth counting
        self._lock.__exit__(None, None, None)

    def restore(self, **parts: Part) -> int:
        """Take these parts to where the run was cut off, in this order, and keep them from now on.

        Returns:
            How many epochs are done: 0 where there is no checkpoint.

        Raises:
            ValueError: the checkpoint does not fit the parts; these may be half restored.
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
            self.lost_seconds += time.perf_counter() - self._mark  # setting up, which the first attempt had done
            self._mark = time.perf_counter()
        self._note = os.open(self.folder / ATTEMPTS, os.O_WRONLY | os.O_CREAT, 0o666)
        self._beat()
        self._heart.start()
        return self.done or 0

    def save(self, done: int, now: bool = False) -> None:
        """Keep all parts as they are.

        Args:
            done: Epochs that are done.
            now: However short the time since the last checkpoint.

        Raises:
            OSError: it cannot be written; the checkpoint before it is as it was.
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
            error.strerror = f"{error.strerror}; the checkpoint before it is whole, the same command goes on from there"
            raise
        self.done, self._saves = done, self._saves + 1
        self._mark = self._last = time.perf_counter()
        self.saving_seconds += self._last - start
        self._beat()

    def discard(self) -> None:
        """The run has its result, or starts over."""
        for name in (ATTEMPTS, CHECKPOINT):  # the checkpoint last: while it is there, the rest is tidied up next time
            (self.folder / name).unlink(missing_ok=True)
        sweep(self.folder / CHECKPOINT)
        self.done = None

    def _look(self) -> None:
        """What earlier attempts have left."""
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
        with suppress(OSError, ValueError, KeyError, TypeError):  # only a count depends on it
            note = json.loads((self.folder / ATTEMPTS).read_text())
            attempts, lost_seconds, saves = note["attempts"], note["lost_seconds"], note["saves"]
            self.attempts = attempts + 1
            if saves == self._saves:  # else the process died between a checkpoint and its note
                self.lost_seconds = lost_seconds

    def _beats(self) -> None:
        while not self._stop.wait(BEAT):
            self._beat()

    def _beat(self) -> None:
        """Note what would be lost: in one short write, in place, so that no half of it is ever there."""
        lost = self.lost_seconds + time.perf_counter() - self._mark
        text = json.dumps({"attempts": self.attempts, "lost_seconds": round(lost, 3), "saves": self._saves})
        with suppress(OSError):  # a full disk: only a count depends on it
            os.pwrite(self._note, f"{text:<126}\n".encode(), 0)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Work in a folder of which this process has the lock, which dies with it; removed again if nothing is in it.

    Raises:
        Occupied: another process is at work there.
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
            with suppress(OSError):  # not empty: what is there stays
                folder.rmdir()
    finally:
        os.close(descriptor)


def _go_on(parts: dict[str, Part], saved: dict[str, Any], rank: int) -> None:
    """Take the parts and the random generators to where they were."""
    for name, part in parts.items():
        part.load_state_dict(saved["parts"][name])
    if rank < len(saved["random"]):  # there may have been fewer
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
