"""What may leave: what a pruner asks of units, whichever they are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.allocation import Global, Uniform
from earlycrop.budget import Budget
from earlycrop.costs import AbstractCost
from earlycrop.counting import Counts
from earlycrop.distributed import grouped
from earlycrop.reach import Reach
from earlycrop.structure import ChannelClass, Frozen, Layer, Verification
from earlycrop.structure.surgery import unharmed
from earlycrop.units.coordinates import Entries, GateCoordinates, WeightCoordinates
from earlycrop.vector import Vector

if TYPE_CHECKING:
    from earlycrop.units.weights import WeightUnits


class LayerUnits(NamedTuple):
    """The units of one layer, as a plan lists them.

    Attributes:
        index: Their numbers among all units.
        spaces: Layers with a number in common are coupled.
        frozen: Why its other units cannot leave, if there are such.
    """

    index: Tensor | slice
    spaces: tuple[int, ...] = ()
    frozen: str | None = None


@dataclass(frozen=True)
class AbstractUnitKind(ABC):
    """Which units of a model may leave; `of` finds them.

    Attributes:
        noun: What they are called in reports.
        whole_channels: Whether whole channels leave, and the network becomes smaller.
    """

    noun: ClassVar[Literal["weights", "channels"]]
    whole_channels: ClassVar[bool]

    @abstractmethod
    def of(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | None,
        ignore: tuple[str, ...],
        coupled: tuple[tuple[str, ...], ...] = (),
    ) -> "AbstractUnits":
        """The units of a model.

        Args:
            model: The network.
            example_inputs: What `model(*example_inputs)` takes.
            optimizer: Its state leaves with the units.
            ignore: Names of modules or parameters to keep whole.
            coupled: Tuples of layers whose channels leave together, by position.

        Raises:
            EarlyCropError: the model has no such units, or cannot be traced.
        """


class AbstractUnits(ABC):
    """The units of a model, and which of them are left.

    Scores see them as one vector (`coordinates`). `keep` has an entry for each unit of the dense network; scores and
    `alive`, `layer` and `choose` have one for each unit that has a score now (channels that left have none).

    Attributes:
        kind: Whose answer to "what may leave" this is.
        model: The network, which is cut or masked in place.
        optimizer: Whose state leaves with them; None leaves optimizer state alone.
        copies: Models with the same parameter names (averages) that are cut or masked with the model.
        keep: For each unit of the dense network whether it is left.
        frozen: What cannot leave, and why.
        layers: Of the network as it was given.
        reach: What part of that network's parameters may leave.
    """

    kind: AbstractUnitKind
    model: nn.Module
    optimizer: Optimizer | None
    copies: tuple[nn.Module, ...]
    keep: Bool[Tensor, "dense"]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    reach: Reach

    # What scores look at ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def example_inputs(self) -> tuple[object, ...]:
        """The inputs that were given, on the device and in the precision to which the model has moved since."""

    @property
    @abstractmethod
    def coordinates(self) -> WeightCoordinates | GateCoordinates:
        """The vector that scores see: the weights, or gates of value 1."""

    @property
    @abstractmethod
    def weights(self) -> WeightCoordinates:
        """All prunable weights as one vector."""

    @property
    @abstractmethod
    def made_of(self) -> WeightCoordinates | Entries:
        """The entries of parameters that create each unit."""

    @property
    @abstractmethod
    def scales(self) -> WeightCoordinates | Entries:
        """The scales of the norms that each unit goes through."""

    @property
    @abstractmethod
    def readers(self) -> WeightCoordinates | Entries:
        """The weights that read each unit."""

    @abstractmethod
    def per_class(self, scores: Vector) -> Float[Tensor, "units"]:
        """From a score for each entry of the vector to one for each unit."""

    def check_gates(self, batch_statistics: bool) -> None:  # noqa: B027 - nothing to refuse where there are no gates
        """Refuse gates that change no loss, see `ChannelUnits`; weights have none."""

    # The choice ---------------------------------------------------------------------------------------

    @abstractmethod
    def choose(self, budget: Budget, scores: Vector, allocation: Global | Uniform) -> Bool[Tensor, "units"]:
        """The units that stay."""

    @property
    @abstractmethod
    def alive(self) -> Bool[Tensor, "units"]:
        """Of the units that have a score, those that have not left."""

    @property
    @abstractmethod
    def layer(self) -> Int[Tensor, "units"]:
        """For each unit that has a score the number of its layer."""

    @abstractmethod
    def places(self, before: Bool[Tensor, "dense"]) -> Int[Tensor, "units"]:
        """For each unit that has a score now its place among those that had one when `keep` was `before`."""

    # The cut ------------------------------------------------------------------------------------------

    @abstractmethod
    def keep_only(self, keep: Bool[Tensor, "units"]) -> None:
        """All others leave."""

    @abstractmethod
    def adopt(self, optimizer: Optimizer | None, carry: bool) -> None:
        """Go with this optimizer from now on; `carry` its state through a cut, or leave that alone."""

    @abstractmethod
    def on(self, model: nn.Module) -> "AbstractUnits":
        """The same units of a copy of the model, without an optimizer and without copies."""

    @abstractmethod
    def snapshot(self) -> Callable[[], None]:
        """A function that goes back to what is left now (the model is put back by others)."""

    def proof(self) -> tuple[Callable[[], Verification] | None, str | None]:
        """What proves, after a cut, that the model computes the same; or why there is none. By default neither."""
        return None, None

    @contextmanager
    def all_or_nothing(self, optimizer: Optimizer | None = None) -> Iterator[None]:
        """If anything fails, model, copies and units, and the state of this optimizer or their own, are as before."""
        restore = self.snapshot()
        try:
            with ExitStack() as stack:
                for copy in self.copies:
                    stack.enter_context(unharmed(copy, None))
                stack.enter_context(unharmed(self.model, optimizer or self.optimizer))
                yield
        except BaseException:
            restore()
            raise

    @contextmanager
    def tried(self) -> Iterator["AbstractUnits"]:
        """Units that may leave for a trial: in the end nothing has left.

        In a process group they are those of a copy: DistributedDataParallel loses a parameter that is cut, even if
        that is undone. Elsewhere no copy of the model has to fit into memory.
        """
        if grouped():
            yield self.on(deepcopy(self.model))
            return
        with suppress(_Undone), self.all_or_nothing():
            yield self
            raise _Undone

    # What is left -------------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, cost: AbstractCost | None = None) -> Counts:
        """What is left of the network; and a cost, if it is none of the usual."""

    @abstractmethod
    def widths(self) -> list[tuple[str, int]]:
        """Per layer the units that are left."""

    @abstractmethod
    def by_layer(self) -> Sequence[LayerUnits]:
        """Per layer of `widths` its units, by their numbers in the dense network."""

    @property
    def classes(self) -> list[ChannelClass]:
        """Every class of coupled channels of the dense network; weights leave alone."""
        return []

    def collapsed(self) -> list[str]:
        """What no longer carries a signal; nothing where each layer keeps a unit."""
        return []

    def masks(self) -> dict[str, Tensor]:
        """By parameter name which of its entries are left; empty where what leaves is gone."""
        return {}

    def held(self) -> Iterator[Tensor]:
        """Every tensor that is kept beside the model from step to step."""
        return iter(())

    @property
    def masked(self) -> "WeightUnits | None":
        """Itself, if what leaves stays in the model as zeros, of which a harvest can cut whole channels."""
        return None

    # States -------------------------------------------------------------------------------------------

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Which units of the dense network are left."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let leave, of the dense model, what had left when that state was taken."""


class _Undone(Exception):
    """Ends a trial, so that all of it is put back."""
