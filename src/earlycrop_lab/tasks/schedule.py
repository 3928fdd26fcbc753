"""The learning rate of a run; the method decides when a new schedule begins.

Until the cut the rate is constant, because the detectors need that; then One-Cycle covers what remains of the budget.
Dense training and methods that prune before training use One-Cycle from the first step. Methods that train in full
before they prune have one cycle for each training (`course`).
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

import earlycrop
from earlycrop.timing import AfterTraining, Rewinding, TickTock

MOMENTA = ("betas", "momentum")
"""The options that One-Cycle changes besides the learning rate."""

TICK, TOCK = 0.01, 0.1
"""The rate of a Tick and the peak of a Tock as fractions of training's peak: 1e-3 and 1e-2 over 0.1 in the original."""


@dataclass(frozen=True)
class Shape:
    """The shape of the learning rate over a number of steps.

    Args:
        kind: `constant`; `one_cycle`, from 1/25 of the peak up to it and down to nearly zero; `halving`, a third of the
            steps each at the peak, half of it and a quarter of it; `triangle`, from a tenth of the peak up to it and
            back.
        steps: Steps of the whole shape.
        peak: The highest rate.
        begin: The step of the shape at which to begin.
    """

    kind: Literal["constant", "one_cycle", "halving", "triangle"]
    steps: int
    peak: float
    begin: int = 0


def course(
    pruner: earlycrop.Pruner, epoch: int, cut: bool, steps_per_epoch: int, peak: float, epochs: int
) -> Shape | None:
    """The shape that begins with this epoch; None if the last one continues.

    Args:
        pruner: The pruner, after its check of this epoch.
        epoch: The number of epochs done.
        cut: Whether the pruner has just pruned.
        steps_per_epoch: Optimizer steps of an epoch.
        peak: The peak learning rate of training.
        epochs: All epochs of the run.
    """
    budget = pruner.epochs
    assert budget is not None

    def one_cycle(length: float, begin: float = 0) -> Shape:
        return Shape("one_cycle", round(length * steps_per_epoch), peak, round(begin * steps_per_epoch))

    match timing := pruner.method.timing:
        case AfterTraining() | Rewinding() if epoch == 0:
            return one_cycle(budget)
        case AfterTraining() if cut:
            return one_cycle(epochs - epoch)
        case Rewinding() if cut:
            return one_cycle(budget, begin=timing.to)
        case TickTock():
            for name, start, length in timing.stretches(budget, len(pruner.targets)):
                if start == epoch:
                    steps = round(length * steps_per_epoch)
                    return {
                        "dense": one_cycle(length),
                        "tick": Shape("constant", steps, TICK * peak),
                        "tock": Shape("triangle", steps, TOCK * peak),
                        "tune": Shape("triangle", steps, TOCK * peak),
                    }[name]
        case _ if pruner.done and (cut or epoch == 0):
            return one_cycle(epochs - epoch)
    return None


class AbstractSchedule(ABC):
    """Sets an optimizer's learning rate; its state can be saved and restored."""

    @abstractmethod
    def enter(self, pruner: earlycrop.Pruner, epoch: int, cut: bool, steps_per_epoch: int, epochs: int) -> None:
        """Begin an epoch; the arguments are those of `course`."""

    @abstractmethod
    def step(self) -> None:
        """Set the rate of the next step; called after each step of the optimizer."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position; load the optimizer's own state, which includes its rates, after this."""


class Schedule(AbstractSchedule):
    """The optimizer's own rate until a shape begins; `course` decides the shapes.

    Args:
        optimizer: The optimizer whose rate is set.
        peak: The highest rate.
        main: The kind of shape used in One-Cycle's place.
    """

    def __init__(
        self, optimizer: Optimizer, peak: float, main: Literal["one_cycle", "halving", "constant"] = "one_cycle"
    ):
        self.optimizer, self.peak, self.main = optimizer, peak, main
        self.shape: Shape | None = None
        self._taken = 0
        self._cycle: OneCycleLR | None = None
        self._momenta = [{key: group[key] for key in MOMENTA if key in group} for group in optimizer.param_groups]

    def enter(self, pruner: earlycrop.Pruner, epoch: int, cut: bool, steps_per_epoch: int, epochs: int) -> None:
        """Begin an epoch, and with it a shape if `course` says so."""
        shape = course(pruner, epoch, cut, steps_per_epoch, self.peak, epochs)
        self.begin(replace(shape, kind=self.main) if shape is not None and shape.kind == "one_cycle" else shape)

    def begin(self, shape: Shape | None) -> None:
        """Begin a shape; None changes nothing."""
        if shape is None:
            return
        self.shape, self._taken, self._cycle = shape, shape.begin, None
        if shape.kind == "one_cycle":
            for group in self.optimizer.param_groups:  # OneCycleLR requires these unless it starts at step 0
                group |= {"initial_lr": shape.peak / 25, "max_lr": shape.peak, "min_lr": shape.peak / 25e4}
                group |= {"max_momentum": 0.95, "base_momentum": 0.85}
            last = shape.begin - 1
            self._cycle = OneCycleLR(self.optimizer, shape.peak, total_steps=shape.steps, last_epoch=last)
            return
        for group, momenta in zip(self.optimizer.param_groups, self._momenta, strict=True):
            group |= {**momenta, "lr": self._rate()}

    def step(self) -> None:
        """Set the rate of the next step."""
        self._taken += 1
        if self._cycle is not None:
            self._cycle.step()
        elif self.shape is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()

    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule."""
        cycle = None if self._cycle is None else self._cycle.state_dict()
        return {"shape": None if self.shape is None else asdict(self.shape), "taken": self._taken, "cycle": cycle}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position; load the optimizer's own state, which includes its rates, after this."""
        if state["shape"] is not None:
            self.begin(Shape(**state["shape"]))
        self._taken = state["taken"]
        if self._cycle is not None:
            self._cycle.load_state_dict(state["cycle"])

    def _rate(self) -> float:
        assert self.shape is not None
        if self.shape.kind == "constant":
            return self.shape.peak
        if self.shape.kind == "halving":
            return self.shape.peak * 0.5 ** min(3 * self._taken // max(self.shape.steps, 1), 2)
        half = max(self.shape.steps / 2, 1)
        return self.shape.peak * (1 - 0.9 * min(abs(self._taken - half) / half, 1))


class Plateau(AbstractSchedule):
    """The peak rate, multiplied by `factor` after each epoch whose validation metric does not improve on the best.

    It begins where One-Cycle would (`course`), at the peak and without a best value. Until the cut the rate is
    constant; so it is, at the shape's own peak, in a Tick and a Tock.

    Args:
        optimizer: The optimizer whose rate is set.
        peak: The highest rate.
        factor: The factor by which the rate falls.
    """

    def __init__(self, optimizer: Optimizer, peak: float, factor: float = 0.25):
        self.optimizer, self.peak, self.factor = optimizer, peak, factor
        self._falls, self._best = False, inf

    def enter(self, pruner: earlycrop.Pruner, epoch: int, cut: bool, steps_per_epoch: int, epochs: int) -> None:
        """Begin an epoch, and return to the peak if `course` begins a shape."""
        if shape := course(pruner, epoch, cut, steps_per_epoch, self.peak, epochs):
            self._falls, self._best = shape.kind == "one_cycle", inf
            for group in self.optimizer.param_groups:
                group["lr"] = shape.peak

    def step(self) -> None:
        """Do nothing: the rate is constant within an epoch."""

    def see(self, figure: float) -> None:
        """End an epoch with this metric on the validation split; lower is better."""
        if self._falls and not figure < self._best:
            for group in self.optimizer.param_groups:
                group["lr"] *= self.factor
        self._best = min(self._best, figure)

    def state_dict(self) -> dict[str, Any]:
        """Whether the rate falls, and the best metric so far; the rate itself is in the optimizer's state."""
        return {"falls": self._falls, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that state."""
        self._falls, self._best = state["falls"], state["best"]
