"""What a score may ask for: the loss as a function of its units, or the network that they belong to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.evaluation import Coordinates, Evaluation, MeanLoss, Rows
from earlycrop.vector import Vector


class AbstractScore(ABC):
    """What a unit is worth, and what has to be there before that can be computed.

    Attributes:
        needs_data: A loss and a scoring set.
        needs_gates: Gates of which the loss depends, where the units are channels.
        needs_norms: Norms with a scale, behind channels that can leave.
        channels_only: It is not defined for single weights.
    """

    needs_data: ClassVar[bool] = False
    needs_gates: ClassVar[bool] = False
    needs_norms: ClassVar[bool] = False
    channels_only: ClassVar[bool] = False

    @abstractmethod
    def worth(self, of: "Network") -> Vector:
        """One number per unit; the highest stay."""

    def gather(self, of: "Network") -> "AbstractGathering | None":
        """Watch training's own steps from now on, for a score that is gathered from them; None for all others."""
        return None


class AbstractLossScore(AbstractScore):
    """A score of the loss: it sees an `Evaluation` and never asks what its units are."""

    needs_data: ClassVar[bool] = True
    needs_gates: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, at: Evaluation) -> Vector:
        """One number per unit; the highest stay."""

    def worth(self, of: "Network") -> Vector:
        """The score at the units' present values."""
        return self(Evaluation(of.loss(), of.coordinates))


class AbstractNetworkScore(AbstractScore):
    """A score of the network: it needs to know which parameters a unit is made of, or the model itself."""

    @abstractmethod
    def __call__(self, of: "Network") -> Vector:
        """One number per unit; the highest stay."""

    def worth(self, of: "Network") -> Vector:
        """The score itself."""
        return self(of)


class AbstractGathering(ABC):
    """Something that watches gradients while training goes on."""

    @property
    @abstractmethod
    def total(self) -> Vector | None:
        """One number per unit; None before anything was seen."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was seen and begin again."""

    @abstractmethod
    def close(self) -> None:
        """Watch no longer."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What was seen."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from that."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network and its units, for scores that look at it.

    Attributes:
        model: The network.
        example_inputs: What it takes.
        loss: Gives the mean loss over the scoring set.
        weights: All prunable weights as one vector.
        coordinates: The vector of the units: weights, or gates where they sit.
        made_of: Which entries of which parameters each unit is made of.
        scales: The scales of the norms that units go through; of single weights there are none.
        readers: Which entries of which weights read each unit; of single weights there are none.
        seed: Where random numbers start.
        gathered: What a score's gathering has seen.
    """

    model: nn.Module
    example_inputs: tuple[object, ...]
    loss: Callable[[], MeanLoss]
    weights: Coordinates
    coordinates: Coordinates
    made_of: "Entries"
    scales: "Entries"
    readers: "Entries"
    seed: int = 0
    gathered: Vector | None = None


@runtime_checkable
class Entries(Rows, Protocol):
    """Which entries of which parameters each unit is made of."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        ...

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """Per unit the sum over its entries of tensors shaped like the parameters."""
        ...
