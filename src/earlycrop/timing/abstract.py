"""When: what a timing is asked, and what a detector adds to it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

Reason = Literal["init", "epoch", "trigger", "static", "cap", "round"]


@dataclass(frozen=True)
class Phase:
    """What a method asks of training between two checks, beside what the loop does anyway.

    Args:
        name: For whoever sets the learning rate.
        penalty: λ of λ Σ|γ| over the scales γ of all norms, added to each backward pass.
        frozen: Convolutions and linear layers stand still.
        gated: Batch norms compute φ (x̂ + β/γ) with φ = γ, so that one number opens and closes a channel.
    """

    name: Literal["", "tick", "tock"] = ""
    penalty: float = 0.0
    frozen: bool = False
    gated: bool = False


class AbstractInstrument(ABC):
    """Something that looks at the network at each check and remembers what it must."""

    @abstractmethod
    def read(self, epoch: float) -> float | None:
        """What is seen now; None while there is nothing to compare with."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember that."""


@runtime_checkable
class Observed(Protocol):
    """What an instrument may look at."""

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The parameters as they are now, by name."""
        ...

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        ...

    def kernel(self, samples: int, most: int | None = None) -> Tensor:
        """The empirical neural tangent kernel now, on the first samples of the scoring set, of so many outputs."""
        ...


@dataclass(frozen=True)
class Now:
    """What is known when a timing is asked whether to prune.

    Attributes:
        epoch: Epochs finished.
        epochs: The whole budget, if known.
        curve: What the instrument has seen so far.
        sparsity: The requested sparsity.
        done: How many cuts there have been.
        cuts: How many there will be in all.
    """

    epoch: float
    epochs: float | None = None
    curve: Sequence[float] = ()
    sparsity: float = 0.0
    done: int = 0
    cuts: int = 1


class AbstractTiming(ABC):
    """When to prune, and what that takes.

    Attributes:
        needs_budget: The number of epochs of one training, from which its moments follow.
        needs_data: A loss and a scoring set, whatever the score needs.
        weights_only: Whole channels cannot leave at such moments.
    """

    needs_budget: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    weights_only: ClassVar[bool] = False

    @abstractmethod
    def reason(self, now: Now) -> Reason | None:
        """Why now, or None if not yet; asked only while `now.done < now.cuts`."""

    @property
    def detector(self) -> "AbstractDetector | None":
        """Itself, if it watches training to find its moment."""
        return None

    @property
    def rewinds_to(self) -> float | None:
        """The epoch to whose weights each cut goes back; None if what is left stays as it is."""
        return None

    def cuts(self, steps: int) -> int:
        """How often units leave, where the method has so many steps: once, in all of them, by default."""
        return 1

    def latest(self, epochs: float | None) -> float:
        """The epoch at which a single cut comes at the latest; infinity if it may never come."""
        return 0.0

    def total(self, epochs: float, cuts: int) -> float:
        """All epochs that are trained where the budget of one training is `epochs` and the method cuts so often."""
        return epochs

    def phase(self, epoch: float, epochs: float | None, cuts: int) -> Phase:
        """What is asked of training from this epoch on."""
        return Phase()


class AbstractPruningSchedule(AbstractTiming):
    """A timing that trains in full, prunes and goes on: its moments follow from the budget of one training."""

    needs_budget: ClassVar[bool] = True

    @abstractmethod
    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The epochs, counted over everything that is trained, at which units leave."""

    @abstractmethod
    def total(self, epochs: float, cuts: int) -> float:
        """All epochs that are trained."""

    def cuts(self, steps: int) -> int:
        """One at each step."""
        return steps

    def reason(self, now: Now) -> Reason | None:
        """At the next of its moments."""
        assert now.epochs is not None  # `needs_budget`
        return "round" if now.epoch >= self.moments(now.epochs, now.cuts)[now.done] - 1e-9 else None


@dataclass(frozen=True)
class AbstractDetector(AbstractTiming):
    """A timing that watches: it looks every `interval` epochs and prunes by its own rule, or at the cap.

    Args:
        interval: Epochs between two looks; may be a fraction.
        min_epochs: Not before.
        max_epochs: Then in any case; a quarter of the budget if not said.
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
        """This."""
        return self

    @abstractmethod
    def instrument(self, observed: Observed) -> AbstractInstrument:
        """What this rule looks through; made before training."""

    @abstractmethod
    def signal(self, curve: Sequence[float]) -> list[float]:
        """The quantity that must become small, at each look; nan where it is not defined yet."""

    @abstractmethod
    def threshold(self, sparsity: float) -> float:
        """Below this it is small."""

    def ready(self, curve: Sequence[float], sparsity: float) -> bool:
        """Whether the last look shows the moment."""
        return bool(curve) and self.signal(curve)[-1] < self.threshold(sparsity)

    def due(self, epoch: float, last: float | None) -> bool:
        """Whether an interval has ended since the last look; intervals are counted from epoch 0."""
        return math.floor(epoch / self.interval + 1e-9) > math.floor((last or 0) / self.interval + 1e-9)

    def latest(self, epochs: float | None) -> float:
        """The cap."""
        return self.cap(epochs)

    def cap(self, epochs: float | None) -> float:
        """The epoch at which it prunes in any case."""
        if self.max_epochs is not None:
            return self.max_epochs
        return math.inf if epochs is None else max(epochs / 4, self.min_epochs)

    def reason(self, now: Now) -> Reason | None:
        """The rule's moment, or the cap."""
        if now.epoch >= self.min_epochs and self.ready(now.curve, now.sparsity):
            return "trigger"
        return "cap" if now.epoch >= self.cap(now.epochs) - 1e-9 else None
