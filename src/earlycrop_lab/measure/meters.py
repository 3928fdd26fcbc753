"""All instruments of one run, around its training loop."""

import gc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop_lab.measure.memory import LiveBytes, held_by
from earlycrop_lab.measure.time import Clock

WATCHED = 3
"""The step of a phase whose memory is measured: by then the optimizer has its state."""


class Meters:
    """Time and memory of a run's training steps, by phase.

        meters = Meters(model, optimizer, device)
        for x, y in batches:
            with meters.step("dense", x, y):
                ...  # forward, backward, optimizer

    The third step of a phase is a step like any other, but its memory is measured and it is therefore not timed.

    Args:
        model: The model being trained.
        optimizer: The optimizer of its parameters.
        device: The device of both.
        beside: Returns other tensors that live from step to step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        device: torch.device,
        beside: Callable[[], Iterable[Tensor]] = tuple,
    ):
        self.model, self.optimizer, self.beside = model, optimizer, beside
        self.clock = Clock(device)
        self.peak_bytes: dict[str, int] = {}
        self.cuda_bytes: dict[str, int] = {}
        self.count: dict[str, int] = defaultdict(int)
        self.taken = 0

    @contextmanager
    def step(self, phase: str, *batch: Tensor) -> Iterator[None]:
        """Measure the training step within the block."""
        self.taken += 1
        self.count[phase] += 1
        if self.count[phase] == WATCHED:
            with self._watched(phase, batch):
                yield
        else:
            with self.clock.step(phase):
                yield

    def forget(self, phase: str) -> None:
        """Discard the steps of a phase, whose network has changed, and measure them again."""
        self.count.pop(phase, None)
        self.clock.forget(phase)

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far."""
        measured = {"peak_bytes": self.peak_bytes, "cuda_bytes": self.cuda_bytes, "count": dict(self.count)}
        return {"clock": self.clock.state_dict(), "taken": self.taken, **measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that; what this process has measured so far is discarded."""
        self.clock.load_state_dict(state["clock"])
        self.peak_bytes, self.cuda_bytes = dict(state["peak_bytes"]), dict(state["cuda_bytes"])
        self.count, self.taken = defaultdict(int, state["count"]), state["taken"]

    @contextmanager
    def _watched(self, phase: str, batch: tuple[Tensor, ...]) -> Iterator[None]:
        cuda = self.clock.cuda
        if cuda:
            gc.collect()
            torch.cuda.empty_cache()  # memory cached in the dense phase must not count for the sparse one
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with LiveBytes([*held_by(self.model, self.optimizer), *self.beside(), *batch]) as live:
            yield
        self.peak_bytes[phase] = live.peak
        if cuda:
            torch.cuda.synchronize()
            self.cuda_bytes[phase] = torch.cuda.max_memory_allocated()
