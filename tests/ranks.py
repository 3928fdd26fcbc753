"""Processes that train one model together on this machine, with gloo, for tests."""

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE = 120.0
"""Seconds after which a test gives up: far more than any test needs, and no test can hang the suite."""


class Gone(AssertionError):
    """The process ended without an answer."""


class Ensemble:
    """Ranks that wait for functions to run.

    Args:
        folder: Holds the file through which they find each other.
        size: The number of ranks.
        seconds: The process group's timeout.
    """

    def __init__(self, folder: Path, size: int = 2, seconds: float = 60.0) -> None:
        context = mp.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            arguments = (rank, size, str(folder / "store"), seconds, theirs)
            self.processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self.pipes.append(mine)
            self.processes[-1].start()
            theirs.close()

    def __enter__(self) -> "Ensemble":
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run `function(rank, *arguments)` on each rank."""
        for pipe in self.pipes:
            pipe.send((function, arguments))

    def answer(self, rank: int) -> Any:
        """What the function returned or raised on this rank; `Gone` if the rank ended."""
        pipe = self.pipes[rank]
        assert pipe.poll(PATIENCE), f"no answer from rank {rank} after {PATIENCE:g} seconds"
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            return Gone()

    def outcomes(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function on each rank; what it returned or raised there."""
        self.start(function, *arguments)
        return [self.answer(rank) for rank in range(len(self.pipes))]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function on each rank; what it returned there.

        Raises:
            AssertionError: it raised an error on some rank.
        """
        found = self.outcomes(function, *arguments)
        for rank, one in enumerate(found):
            if isinstance(one, BaseException):
                raise AssertionError(f"rank {rank}: {type(one).__name__}: {one}") from one
        return found


def _serve(rank: int, size: int, store: str, seconds: float, pipe: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
    )
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)  # PyTorch 2.14 uses it itself
    while True:
        function, arguments = pipe.recv()
        torch.manual_seed(0)
        try:
            pipe.send(function(rank, *arguments))
        except Exception as error:
            pipe.send(error)
