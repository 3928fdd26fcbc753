"""The instruments of one run, in one hand, beside its training loop."""

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
"""Which step of a phase is watched for its memory: by then the optimizer has its state."""


class Meters:
    """Time and memory of a run's training steps, by phase.

        meters = Meters(model, optimizer, device)
        for x, y in batches:
            with meters.step("dense", x, y):
                ...  # forward, backward, optimizer

    The third step of a phase is a step like any other, but watched for its memory and therefore not timed.

    Args:
        model: What is trained.
        optimizer: Of its parameters.
        device: Where.
        beside: What else lives from step to step.
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
        """Measure the training step within."""
        self.taken += 1
        self.count[phase] += 1
        if self.count[phase] == WATCHED:
            with self._watched(phase, batch):
                yield
        else:
            with self.clock.step(phase):
                yield

    def forget(self, phase: str) -> None:
        """The network is another one from here on: what a step of that phase takes is measured again."""
        self.count.pop(phase, None)
        self.clock.forget(phase)

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far."""
        measured = {"peak_bytes": self.peak_bytes, "cuda_bytes": self.cuda_bytes, "count": dict(self.count)}
        return {"clock": self.clock.state_dict(), "taken": self.taken, **measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from that; what was measured before in this process is forgotten."""
        self.clock.load_state_dict(state["clock"])
        self.peak_bytes, self.cuda_bytes = dict(state["peak_bytes"]), dict(state["cuda_bytes"])
        self.count, self.taken = defaultdict(int, state["count"]), state["taken"]

    @contextmanager
    def _watched(self, phase: str, batch: tuple[Tensor, ...]) -> Iterator[None]:
        cuda = self.clock.cuda
        if cuda:
            gc.collect()
            torch.cuda.empty_cache()  # what the dense phase left behind is not the sparse phase's
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with LiveBytes([*held_by(self.model, self.optimizer), *self.beside(), *batch]) as live:
            yield
        self.peak_bytes[phase] = live.peak
        if cuda:
            torch.cuda.synchronize()
            self.cuda_bytes[phase] = torch.cuda.max_memory_allocated()
