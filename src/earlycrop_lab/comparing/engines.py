"""Where runs execute: in processes of this machine, or on a Ray cluster.

An engine takes a function and the pieces of work to call it on, and yields each piece with the function's return value
as it ends. It knows neither runs nor tables. While nothing ends it yields None from time to time, so that the caller
can do something else; when the caller closes the generator, work in progress is stopped:

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
"""Seconds between two checks for ended work."""
RETRIES = 3
"""How often a piece of work is tried again after its worker died."""

Work = Callable[[T, Callable[[], bool]], R]
"""Does a piece of work; calls its second argument from time to time to learn whether to stop."""


class Engine(Protocol):
    """Does pieces of work somewhere, several at a time."""

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """Yield each piece as it ends, with what `work` returned or why its worker was lost; None from time to time."""
        ...


@dataclass(frozen=True)
class Local:
    """In threads of this process, for work that is done by other processes.

    Args:
        workers: The number of pieces at a time.
    """

    workers: int = 1

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """See `Engine`; an exception of `work` is raised here."""
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
    """On a Ray cluster, one task per piece; a piece whose worker is killed is done again by another worker.

    Workers need what `work` imports, and share nothing but the files that it reads and writes.

    Args:
        address: Address of an existing cluster; without it one is started on this machine for as long as needed.
        cpus: CPUs that a piece needs.
        gpus: GPUs that a piece needs; a fraction lets several pieces share one.
        workers: The number of pieces at a time on a cluster started here; an existing cluster decides itself.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    workers: int = 1

    def __post_init__(self):
        if find_spec("ray") is None:
            raise ValueError("The engine ray needs Ray: `pip install ray`; --engine local works without it.")

    def each(self, work: Work[T, R], pieces: Sequence[T]) -> Generator[tuple[T, R | str] | None, None, None]:
        """See `Engine`.

        Raises:
            ConnectionError: There is no cluster at that address.
            ValueError: No machine of the cluster has the CPUs and GPUs that one piece needs.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when the cluster is started: nothing is sent anywhere
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
                    except RayTaskError:  # an exception of `work` itself
                        raise
                    except RayError as error:
                        said = f"its worker was lost {RETRIES + 1} times ({type(error).__name__})"
                    yield waiting.pop(each), said
                if not ended:
                    yield None
        finally:
            ray.shutdown()  # also ends the workers

    def _check(self, machines: Sequence[Mapping[str, float]]) -> None:
        """Check that one machine of the cluster has what a piece needs: a piece cannot span machines."""
        have = [(machine.get("CPU", 0.0), machine.get("GPU", 0.0)) for machine in machines]
        if not any(cpus >= self.cpus and gpus >= self.gpus for cpus, gpus in have):
            there = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in sorted(set(have)))
            raise ValueError(
                f"A run asks for {self.cpus:g} CPUs and {self.gpus:g} GPUs of one machine, and those of the cluster "
                f"have {there}, so none could ever start: ask for fewer with --cpus-per-run and --gpus-per-run."
            )


def _unasked(work: Work[T, R], piece: T) -> R:
    """Do a piece on a worker, which is stopped by killing it, not by asking."""
    return work(piece, lambda: False)
