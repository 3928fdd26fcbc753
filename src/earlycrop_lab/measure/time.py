"""Seconds of a run by phase, and milliseconds of a training step."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop_lab.measure.evaluating import evaluating

WARM = 5
"""Steps at the start of each phase and process that do not count: caches fill, kernels are chosen."""


@dataclass(frozen=True)
class StepTime:
    """The time of a training step, as medians over warm steps.

    Args:
        milliseconds: Wall-clock time (CUDA: the device's time).
        cpu_milliseconds: CPU time of all threads of this process, which excludes others' work on a shared machine.
        steps: The number of warm steps in the medians.
    """

    milliseconds: float
    cpu_milliseconds: float
    steps: int


def inference(model: nn.Module, images: Tensor, seconds: float = 1.0) -> float:
    """Median milliseconds of a forward pass in eval mode on these images, over at least five passes after a first one.

    Args:
        model: The network; its training flag is restored.
        images: A batch, on the model's device.
        seconds: How long to go on after five passes, in seconds since the start.
    """
    clock, start = Clock(images.device, warm=1), time.perf_counter()
    with evaluating(model):
        while time.perf_counter() - start < seconds or len(clock._warm["forward"]) < 5:
            with clock.step("forward"):
                model(images)
    measured = clock.steps("forward")
    assert measured is not None
    return measured.milliseconds


class Clock:
    """The time of each phase and of its steps.

    `with clock.phase(name)` adds its wall-clock seconds to `seconds[name]`; `with clock.step(name)` times one training
    step (forward, backward, optimizer), on CUDA by events, which do not make the device wait.

    >>> clock = Clock()
    >>> with clock.phase("dense"):
    ...     for _ in range(8):
    ...         with clock.step("dense"):
    ...             pass
    >>> clock.steps("dense").steps  # 8 without the WARM first ones
    3
    >>> clock.seconds["dense"] > 0
    True

    Args:
        device: The device of the steps.
        warm: Steps at the start of each phase that do not count.
    """

    def __init__(self, device: torch.device | str = "cpu", warm: int = WARM):
        self.cuda = torch.device(device).type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        self._warm: dict[str, list] = defaultdict(list)
        self._cold: dict[str, int] = defaultdict(lambda: warm)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to `seconds[name]`."""
        start = time.perf_counter()
        try:
            yield
            if self.cuda:
                torch.cuda.synchronize()  # work that is still queued belongs to the phase that queued it
        finally:
            self.seconds[name] += time.perf_counter() - start

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the time of the block as one training step of a phase."""
        worked = time.process_time()
        if self.cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            took = (start, end)
        else:
            began = time.perf_counter()
            yield
            took = 1000 * (time.perf_counter() - began)
        if self._cold[name]:
            self._cold[name] -= 1
        else:
            self._warm[name].append((took, 1000 * (time.process_time() - worked)))

    def steps(self, name: str) -> StepTime | None:
        """The time of a step of that phase; None if it has had no warm step."""
        noted = self._milliseconds(name)
        if not noted:
            return None
        took, worked = zip(*noted, strict=True)
        return StepTime(median(took), median(worked), len(noted))

    def forget(self, name: str) -> None:
        """Discard the steps of a phase, but keep its seconds."""
        self._warm.pop(name, None)
        self._cold.pop(name, None)

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far."""
        return {"seconds": dict(self.seconds), "steps": {name: self._milliseconds(name) for name in list(self._warm)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that; what this process has measured so far is discarded."""
        self.seconds = defaultdict(float, state["seconds"])
        self._warm = defaultdict(list, state["steps"])

    def _milliseconds(self, name: str) -> list[tuple[float, float]]:
        """Wall-clock and CPU milliseconds of the warm steps of a phase; CUDA's events are read once."""
        if self.cuda and any(isinstance(took, tuple) for took, _ in self._warm[name]):
            torch.cuda.synchronize()
            self._warm[name] = [
                (took[0].elapsed_time(took[1]) if isinstance(took, tuple) else took, worked)
                for took, worked in self._warm[name]
            ]
        return self._warm[name]
