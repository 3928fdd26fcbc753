"""Where runs are run: in processes of this machine, or on a Ray cluster.

An engine takes a function that does one piece of work and the pieces, and gives each piece back with what the function
returned, as they end. It knows neither runs nor tables. While nothing ends it gives None from time to time, so that
whoever waits can look around; when nobody waits any more, work in hand is stopped:

    with closing(engine.each(work, pieces)) as ended:
        for piece, said in filter(None, ended):
            ...
"""

import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
PAUSE = 0.5
"""Seconds between two looks."""
RETRIES = 3
"""How often a piece of work is taken up again whose worker died."""

Work = Callable[[T, Callable[[], bool]], R]
"""Does a piece of work; asks its second argument from time to time whether to leave it."""


class Engine(Protocol):
    """Does pieces of work somewhere, several at a time."""

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """Every piece as it ends, with what `work` returned, or why its worker was lost; None now and then."""
        ...


@dataclass(frozen=True)
class Local:
    """In this process, which is to be no more than a caller of others.

    Args:
        workers: Pieces at a time.
    """

    workers: int = 1

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """As `Engine` says; an exception of `work` comes out here."""
        stop = threading.Event()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                waiting = {pool.submit(work, piece, stop.is_set): piece for piece in pieces}
                while waiting:
                    ended, _ = wait(waiting, PAUSE, FIRST_COMPLETED)
                    yield from ((waiting.pop(each), each.result()) for each in ended)
                    if not ended:
                        yield None
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Ray:
    """On a Ray cluster, a piece a task; a piece whose worker is killed is taken up again by another.

    Workers need what `work` imports, and share nothing but the files that it reads and writes.

    Args:
        address: Of a cluster that is there; without it one is started on this machine, for as long as it is needed.
        cpus: What a piece needs.
        gpus: The same; a part of one lets others share it.
        workers: Pieces at a time where the cluster is started; elsewhere the cluster decides.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    workers: int = 1

    def __post_init__(self):
        if find_spec("ray") is None:
            raise ValueError("The engine ray needs Ray: `pip install ray`; --engine local does without.")

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """As `Engine` says.

        Raises:
            ConnectionError: there is no cluster at that address.
            ValueError: no machine of the cluster has what one piece needs.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read where the cluster is started: nothing is sent anywhere
        import ray  # pyright: ignore[reportMissingImports] - an extra
        from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]

        own = {"num_cpus": self.cpus * self.workers, "include_dashboard": False} if self.address is None else {}
        ray.init(self.address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        try:
            self._check([node["Resources"] for node in ray.nodes() if node["Alive"]])
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)(_unasked)
            waiting: dict[Any, T] = {task.remote(work, piece): piece for piece in pieces}
            while waiting:
                ended, _ = ray.wait(list(waiting), timeout=PAUSE)
                for each in ended:
                    try:
                        said = ray.get(each)
                    except RayTaskError:  # of `work` itself
                        raise
                    except RayError as error:
                        said = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
                    yield waiting.pop(each), said
                if not ended:
                    yield None
        finally:
            ray.shutdown()  # which ends the workers

    def _check(self, machines: Sequence[Mapping[str, float]]) -> None:
        """A piece is done on one machine, however many there are."""
        have = [(machine.get("CPU", 0.0), machine.get("GPU", 0.0)) for machine in machines]
        if not any(cpus >= self.cpus and gpus >= self.gpus for cpus, gpus in have):
            there = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sorted(set(have)))
            raise ValueError(
                f"A run asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs of one machine, and those of the cluster "
                f"have {there}, so none could ever start: ask for fewer with --cpus-per-run and --gpus-per-run."
            )


def _unasked(work: Work[T, R], piece: T) -> R:
    """On a worker, which is stopped by ending it."""
    return work(piece, lambda: False)
