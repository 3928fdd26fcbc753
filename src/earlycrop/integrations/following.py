"""What every framework's callback does with a pruner: ask it in time, name what it says, keep and restore its state."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from earlycrop.errors import EarlyCropError
from earlycrop.logs.log import figures_after, figures_of
from earlycrop.pruner import Pruner
from earlycrop.report import Report

WHOLE = 1e-6
"""How far from a whole number an epoch may be and still count as one."""


class Schedule:
    """Schedulers that wait for the cut: until then rates are the initial ones, at each cut the schedule begins.

    Only states are saved and loaded: the schedulers go on being stepped by whoever owns them.

    Args:
        schedulers: All that step the optimizers' rates.
        starts: Their states at the beginning, from a checkpoint; None: their present ones.
    """

    def __init__(self, schedulers: Sequence[Any], starts: Sequence[Any] | None = None) -> None:
        self._schedulers = tuple(schedulers)
        self.starts = [self._state(one) for one in schedulers] if starts is None else list(starts)

    def hold(self) -> None:
        """Put the schedulers back to their beginning, and the rates to the optimizer's own."""
        self._begin()
        for group in self._groups():
            group["lr"] = copy.deepcopy(group.get("initial_lr", group["lr"]))

    def start(self) -> None:
        """Begin the schedule now."""
        self._begin()
        for scheduler, start in zip(self._schedulers, self.starts, strict=True):
            for group, rate in zip(scheduler.optimizer.param_groups, start["rates"], strict=True):
                group["lr"] = rate

    def _begin(self) -> None:
        for scheduler, start in zip(self._schedulers, self.starts, strict=True):
            scheduler.load_state_dict(copy.deepcopy(start["state"]))

    def _groups(self) -> Iterator[dict[str, Any]]:
        for scheduler in self._schedulers:
            yield from scheduler.optimizer.param_groups

    def _state(self, scheduler: Any) -> dict[str, Any]:
        rates = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
        return {"state": copy.deepcopy(scheduler.state_dict()), "rates": rates}


class Follower:
    """A pruner in somebody else's loop.

    Args:
        pruner: The pruner, of the network that is trained.
        schedule_from_cut: Whether schedulers wait for the cut, see `Schedule`.

    Attributes:
        pruner: The pruner.
        schedule: The schedulers that wait; None if none do.
    """

    def __init__(self, pruner: Pruner, schedule_from_cut: bool) -> None:
        if not isinstance(pruner, Pruner):
            raise EarlyCropError(f"Give an earlycrop.Pruner, made from the model that is trained; found {pruner!r}.")
        self.pruner = pruner
        self.schedule: Schedule | None = None
        self._own, self._from_cut = pruner.copies, schedule_from_cut
        self._starts: list[Any] | None = None

    def adopt(self, copies: Sequence[nn.Module]) -> None:
        """Cut these with the network too, besides the copies that the pruner was given.

        Args:
            copies: Averages that the framework keeps.
        """
        if not self.pruner.done:
            self.pruner.copies = (*self._own, *copies)

    def begin(self, optimizers: Sequence[Any], schedulers: Sequence[Any]) -> None:
        """At the beginning of training, or of the rest of it: adopt the optimizers, and let schedulers wait.

        Args:
            optimizers: All that train the network.
            schedulers: All that step their rates.
        """
        self.pruner.optimizer = optimizers[0] if len(optimizers) == 1 else list(optimizers)
        if self._from_cut and not self.pruner.done:
            self.schedule = Schedule(schedulers, self._starts)
            self.wait()

    def wait(self) -> None:
        """Hold the schedulers, if they wait; call it after every step of theirs."""
        if self.schedule is not None and not self.pruner.pruned:
            self.schedule.hold()

    def check(self, epoch: float) -> tuple[Report | None, dict[str, float]]:
        """Ask the pruner; the report if it cut, and what is worth logging."""
        looks = len(self.pruner.curve)
        with ordinary_forward(self.pruner.model):
            report = self.pruner.check(epoch)
        numbers = {}
        for look in self.pruner.curve[looks:]:
            numbers |= figures_of(look)
        if report is not None:
            numbers |= figures_after(report)
            if self.schedule is not None:
                self.schedule.start()
        return report, numbers

    def progress(self, step: int, steps: int) -> float:
        """The epoch at a step, where data have no length: the pruner's epochs are equal parts of all steps.

        Args:
            step: Optimizer steps made.
            steps: All of them.
        """
        return (self.pruner.epochs or 0.0) * step / steps

    def due(self, step: int, steps: int, every: int | None, streams: bool) -> bool:
        """Whether to ask before the next step: after every so many, or where data have no length as an epoch begins.

        Args:
            step: Optimizer steps made.
            steps: All of them.
            every: How many steps lie between two questions; None: it is asked by epochs.
            streams: Whether data have no length.
        """
        if every is not None or not streams:
            return every is not None and step % every == 0
        before, now = (math.floor(self.progress(one, steps) + WHOLE) for one in (step - 1, step))
        return step == 0 or now > before

    # States -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides model and optimizer: plain containers and tensors."""
        return {
            "pruner": self.pruner.state_dict(),
            "copies": [dict(one.state_dict()) for one in self._own],
            "starts": self._starts if self.schedule is None else self.schedule.starts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut or mask the model as then, so that the states of model and optimizer fit.

        Raises:
            EarlyCropError: the model has been cut otherwise meanwhile, or the state is of another pruner.
        """
        if not _same(self.pruner.state_dict()["units"], state["pruner"]["units"]) or not self.pruner.pruned:
            self.pruner.load_state_dict(state["pruner"])
        for one, saved in zip(self._own, state["copies"], strict=False):
            one.load_state_dict(saved)
        self._starts = state["starts"]


def sized(data: Any) -> bool:
    """Whether it is known how many batches there are."""
    try:
        return len(data) >= 0
    except TypeError:
        return False


def whole(epoch: float) -> bool:
    """Whether an epoch has just ended."""
    return abs(epoch - round(epoch)) < WHOLE


def inside(model: nn.Module, network: nn.Module, what: str) -> str:
    """The name of the pruned network within the model that is trained; empty if it is that model.

    Args:
        model: The model that is trained.
        network: The network of the pruner.
        what: How the framework calls the model, for the error.

    Raises:
        EarlyCropError: it is no part of that model.
    """
    for name, module in model.named_modules():
        if module is network:
            return name
    raise EarlyCropError(
        f"The pruner's network, a {type(network).__name__}, is no part of the {what} that is trained, a "
        f"{type(model).__name__}. Make the pruner from the very object that is trained, or from a module inside it."
    )


@contextmanager
def ordinary_forward(model: nn.Module) -> Iterator[None]:
    """Within the context modules compute without accelerate's autocast, which it puts around `forward` of the instance.

    Args:
        model: The network.
    """
    wrapped = [
        (vars(one), vars(one)["forward"]) for one in model.modules() if {"forward", "_original_forward"} <= {*vars(one)}
    ]
    for own, _ in wrapped:
        before = own["_original_forward"]
        if getattr(before, "__func__", None) is type(before.__self__).forward:
            del own["forward"]
        else:
            own["forward"] = before
    try:
        yield
    finally:
        for own, forward in wrapped:
            own["forward"] = forward


def _same(a: Any, b: Any) -> bool:
    """Whether two states of units are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a.cpu(), b.cpu())
    return a is None and b is None
