"""When to prune: what every timing answers, and what a detector adds to it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

Reason = Literal["init", "epoch", "trigger", "static", "cap", "round"]
"""Why a method cut: before training, at its epoch, by its rule, because nothing moved, at the cap, or as one of several
rounds."""


@dataclass(frozen=True)
class Phase:
    """What a method asks of training between two checks, besides what the loop does anyway.

    Args:
        name: For whoever sets the learning rate.
        penalty: λ of the penalty λ Σ|γ| over the scales γ of all norms, whose gradient each backward pass adds.
        frozen: Whether convolutions and linear layers are frozen.
        gated: Whether batch norms compute φ (x̂ + β/γ) with φ = γ, so that one number opens and closes a channel.
    """

    name: Literal["", "tick", "tock"] = ""
    penalty: float = 0.0
    frozen: bool = False
    gated: bool = False


class AbstractInstrument(ABC):
    """Measures the network at each look, and remembers what it needs for the next."""

    @abstractmethod
    def read(self, epoch: float) -> float | None:
        """The measurement now; None while there is nothing to compare with.

        Args:
            epoch: Epochs finished.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""


@runtime_checkable
class Observed(Protocol):
    """What an instrument may look at."""

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The present parameters by name: the prunable weights, or all."""
        ...

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        ...

    def kernel(self, samples: int, most: int | None = None) -> Tensor:
        """The empirical neural tangent kernel now, on the first samples of the scoring set.

        Args:
            samples: How many samples.
            most: If there are more outputs than this, that many are taken, spread evenly.
        """
        ...


@dataclass(frozen=True)
class Now:
    """What is known when a timing decides whether to prune.

    Attributes:
        epoch: Epochs finished.
        epochs: The training budget in epochs, None if not given.
        curve: What the instrument has seen so far.
        sparsity: The requested sparsity.
        done: How many cuts there have been.
        cuts: How many cuts there will be in all.
    """

    epoch: float
    epochs: float | None = None
    curve: Sequence[float] = ()
    sparsity: float = 0.0
    done: int = 0
    cuts: int = 1


class AbstractTiming(ABC):
    """Decides when to prune, from the epoch, the training budget and what an instrument saw.

    Attributes:
        needs_budget: Whether its moments follow from the number of epochs of one training.
        needs_data: Whether it needs a loss and a scoring set, whatever the score needs.
        weights_only: Whether it is only for single weights, not for whole channels.
    """

    needs_budget: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    weights_only: ClassVar[bool] = False

    @abstractmethod
    def reason(self, now: Now) -> Reason | None:
        """The reason to prune now, or None if the moment has not come; called only while `now.done < now.cuts`."""

    @property
    def detector(self) -> "AbstractDetector | None":
        """The timing itself, if it watches training to find its moment; None otherwise."""
        return None

    @property
    def rewinds_to(self) -> float | None:
        """The epoch to whose weights each cut rewinds; None if the weights that are left stay as they are."""
        return None

    def cuts(self, steps: int) -> int:
        """The number of cuts of a method with that many steps; by default one cut, which takes all of them."""
        return 1

    def latest(self, epochs: float | None) -> float:
        """The epoch at which a single cut comes at the latest; infinity if it may never come."""
        return 0.0

    def total(self, epochs: float, cuts: int) -> float:
        """The total number of training epochs.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.
        """
        return epochs

    def phase(self, epoch: float, epochs: float | None, cuts: int) -> Phase:
        """What the method asks of training from this epoch on.

        Args:
            epoch: Epochs finished.
            epochs: The training budget in epochs, None if not given.
            cuts: How often the method cuts.
        """
        return Phase()


class AbstractPruningSchedule(AbstractTiming):
    """A timing whose moments follow from the budget of one training, one cut at each."""

    needs_budget: ClassVar[bool] = True

    @abstractmethod
    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The epochs at which units leave, counted over all trainings.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.
        """

    @abstractmethod
    def total(self, epochs: float, cuts: int) -> float:
        """The total number of training epochs.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.
        """

    def cuts(self, steps: int) -> int:
        """One cut for each step."""
        return steps

    def reason(self, now: Now) -> Reason | None:
        """`round`, once the next of its moments has come."""
        assert now.epochs is not None  # `needs_budget`
        return "round" if now.epoch >= self.moments(now.epochs, now.cuts)[now.done] - 1e-9 else None


@dataclass(frozen=True)
class AbstractDetector(AbstractTiming):
    """A timing that watches training: it looks every `interval` epochs and prunes by its own rule, or at the cap.

    Args:
        interval: Epochs between two looks; may be a fraction.
        min_epochs: The rule cannot fire before this epoch.
        max_epochs: The cap: at this epoch it prunes in any case; default: a quarter of the budget.

    Raises:
        ValueError: `interval` is not positive.
    """

    _: KW_ONLY  # so that a rule's own options come first
    interval: float = 1.0
    min_epochs: float = 1.0
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError(f"`interval` is the number of epochs between two looks; found {self.interval}.")

    @property
    def detector(self) -> "AbstractDetector":
        """The timing itself."""
        return self

    @abstractmethod
    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The instrument by which this rule sees the network; created before training."""

    @abstractmethod
    def signal(self, curve: Sequence[float]) -> list[float]:
        """The quantity that must become small, at each look; nan while it is not defined.

        Args:
            curve: What the instrument saw at each look.
        """

    @abstractmethod
    def threshold(self, sparsity: float) -> float:
        """The signal must fall below this, for the requested sparsity."""

    def ready(self, curve: Sequence[float], sparsity: float) -> bool:
        """Whether the moment had come at the last look: the signal is below the threshold.

        Args:
            curve: What the instrument saw at each look.
            sparsity: The requested sparsity.
        """
        return bool(curve) and self.signal(curve)[-1] < self.threshold(sparsity)

    def due(self, epoch: float, last: float | None) -> bool:
        """Whether an interval has ended since the last look; intervals are counted from epoch 0.

        Args:
            epoch: Epochs finished.
            last: The epoch of the last look, None before the first.
        """
        return math.floor(epoch / self.interval + 1e-9) > math.floor((last or 0) / self.interval + 1e-9)

    def latest(self, epochs: float | None) -> float:
        """The cap."""
        return self.cap(epochs)

    def cap(self, epochs: float | None) -> float:
        """The epoch at which it prunes in any case: `max_epochs`, or a quarter of the budget `epochs`."""
        if self.max_epochs is not None:
            return self.max_epochs
        return math.inf if epochs is None else max(epochs / 4, self.min_epochs)

    def reason(self, now: Now) -> Reason | None:
        """`trigger` by the rule, `cap` at the cap, else None."""
        if now.epoch >= self.min_epochs and self.ready(now.curve, now.sparsity):
            return "trigger"
        return "cap" if now.epoch >= self.cap(now.epochs) - 1e-9 else None
