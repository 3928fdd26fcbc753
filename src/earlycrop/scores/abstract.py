"""What a score may use: the loss as a function of its units, or the network that they belong to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.evaluation import Coordinates, Evaluation, MeanLoss, Rows
from earlycrop.structure.trace import Inputs
from earlycrop.vector import Vector


class AbstractScore(ABC):
    """What a unit is worth, and what that takes to compute.

    Attributes:
        needs_data: Whether it needs a loss and a scoring set.
        needs_gates: Whether it needs gates on which the loss depends, where the units are channels.
        needs_norms: Whether it needs norms with a scale, after channels that can leave; a network without any is
            refused.
        channels_only: Whether it is undefined for single weights.
    """

    needs_data: ClassVar[bool] = False
    needs_gates: ClassVar[bool] = False
    needs_norms: ClassVar[bool] = False
    channels_only: ClassVar[bool] = False

    @abstractmethod
    def worth(self, of: "Network") -> Vector:
        """One number per unit; the highest stay."""

    def gather(self, of: "Network") -> "AbstractGathering | None":
        """Start watching training, for a score that is gathered from its steps; None for all others."""
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
        """The score of this network."""
        return self(of)


class AbstractGathering(ABC):
    """Watches gradients while training goes on, and sums up what it sees of each unit."""

    @property
    @abstractmethod
    def total(self) -> Vector | None:
        """One number per unit; None before anything was seen."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was seen and start over."""

    @abstractmethod
    def close(self) -> None:
        """Stop watching and remove all hooks."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network and its units, for scores that look at it.

    Attributes:
        model: The network.
        example_inputs: What it takes.
        loss: Returns the mean loss over the scoring set.
        weights: All prunable weights as one vector.
        coordinates: The vector of the units: the weights, or the gates of channels.
        made_of: Which entries of which parameters each unit is made of.
        scales: The scales of the norms that each channel goes through; only meaningful for channels.
        readers: Which entries of which weights read each channel; only meaningful for channels.
        seed: The seed of random numbers.
        gathered: What a score's gathering has seen so far.
    """

    model: nn.Module
    example_inputs: Inputs
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
        """The names of the parameters."""
        ...

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """For each unit the sum over its entries of `tensors`, one shaped like each parameter."""
        ...
