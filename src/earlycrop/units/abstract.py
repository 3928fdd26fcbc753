"""What may leave: what a pruner asks of units, whether weights or channels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.allocation import Sharing
from earlycrop.budget import Budget
from earlycrop.counting import Counts
from earlycrop.counting.costs import AbstractCost
from earlycrop.distributed import grouped
from earlycrop.evaluation.rehearsal import Rehearsal
from earlycrop.evaluation.undisturbed import without_search
from earlycrop.parts import PartCount
from earlycrop.reach import Reach
from earlycrop.structure import ChannelClass, Frozen, Layer, Verification
from earlycrop.structure.duplicates import duplicate
from earlycrop.structure.surgery import unharmed
from earlycrop.structure.trace import Call, Inputs, Program, noted
from earlycrop.units.coordinates import Entries, GateCoordinates, WeightCoordinates
from earlycrop.vector import Vector

if TYPE_CHECKING:
    from earlycrop.units.weights import WeightUnits


class LayerUnits(NamedTuple):
    """The units of one layer, as a plan lists them.

    Attributes:
        index: Their numbers among all units.
        spaces: Layers with a number in common are coupled.
        frozen: Why its other units cannot leave, if there are any.
    """

    index: Tensor | slice
    spaces: tuple[int, ...] = ()
    frozen: str | None = None


@dataclass(frozen=True)
class AbstractUnitKind(ABC):
    """Which units of a model may leave; `of` finds them.

    Attributes:
        noun: What reports call the units.
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
        ways: Sequence[Call] = (),
    ) -> "AbstractUnits":
        """The units of a model.

        Args:
            model: The network.
            example_inputs: What the model takes, as for `trace`.
            optimizer: Its state is cut or masked with the units.
            ignore: Names of modules or parameters to keep whole.
            coupled: Tuples of layers whose channels leave together, by position.
            ways: Calls of the model beside that of the example inputs, as the loss makes them.

        Raises:
            EarlyCropError: the model has no such units, or cannot be traced.
        """


class AbstractUnits(ABC):
    """The units of a model, and which of them are left.

    Scores see them as one vector (`coordinates`). `keep` has an entry for each unit of the dense network; scores,
    `alive`, `layer` and `choose` have one for each unit that has a score now (channels that have left have none).

    Attributes:
        kind: The kind of units.
        model: The network, which is cut or masked in place.
        optimizers: Whose state leaves with them; without any, optimizer state is left alone.
        copies: Models with the same parameter names (averages) that are cut or masked with the model.
        keep: For each unit of the dense network whether it is left.
        frozen: What cannot leave, and why.
        layers: Of the network as it was given.
        reach: What part of that network's parameters may leave.
    """

    kind: AbstractUnitKind
    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    copies: tuple[nn.Module, ...]
    keep: Bool[Tensor, "dense"]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    reach: Reach

    # What scores look at ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def example_inputs(self) -> Inputs:
        """The given inputs, moved to the model's present device and precision."""

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
        """The score of each unit, from the scores of the entries of the vector."""

    def check_gates(self, batch_statistics: bool) -> None:  # noqa: B027 - nothing to refuse where there are no gates
        """Refuse gates on which the loss does not depend, see `ChannelUnits`; weights have no gates."""

    def rehearse(  # noqa: B027 - masks change no shape
        self, rehearsal: Callable[["AbstractUnits"], Rehearsal], aside: bool
    ) -> None:
        """Freeze what a cut would keep from running, by trials; only channels can.

        Args:
            rehearsal: What must run before and after a cut.
            aside: Whether the loss runs parts of the model by themselves, which shows in no call of it.
        """

    # The choice ---------------------------------------------------------------------------------------

    @abstractmethod
    def choose(self, budget: Budget, scores: Vector, allocation: Sharing) -> Bool[Tensor, "units"]:
        """True for each unit that stays.

        Args:
            budget: How much is to leave.
            scores: The score of each unit; the higher stays.
            allocation: How layers share the budget.

        Raises:
            BudgetError: the target is out of reach.
            ScoreError: some score is nan or infinite.
        """

    @property
    @abstractmethod
    def alive(self) -> Bool[Tensor, "units"]:
        """True for each unit with a score that has not left."""

    @property
    @abstractmethod
    def layer(self) -> Int[Tensor, "units"]:
        """For each unit with a score the number of its layer."""

    @abstractmethod
    def places(self, before: Bool[Tensor, "dense"]) -> Int[Tensor, "units"]:
        """For each unit that has a score now, its place among those that had one when `keep` was `before`."""

    def first(self, scores: Vector) -> Bool[Tensor, "units"] | None:
        """True for units that stay whatever others are worth; None if there are none.

        Args:
            scores: The higher stays.
        """
        return None

    # The cut ------------------------------------------------------------------------------------------

    @abstractmethod
    def keep_only(self, keep: Bool[Tensor, "units"]) -> None:
        """Remove all units for which `keep` is false."""

    @abstractmethod
    def adopt(self, optimizers: tuple[Optimizer, ...], carry: bool) -> None:
        """Go with these optimizers from now on.

        Args:
            optimizers: All that hold parameters of the model.
            carry: Whether their state is carried through a cut, or left alone.
        """

    @abstractmethod
    def on(self, model: nn.Module) -> "AbstractUnits":
        """The same units of a copy of the model, without an optimizer and without copies."""

    @abstractmethod
    def snapshot(self) -> Callable[[], None]:
        """A function that restores what is left now (the caller restores the model)."""

    def proof(self) -> tuple[Callable[[], Verification] | None, str | None]:
        """A function that verifies a cut once it is made, or the reason why there is none; by default neither."""
        return None, None

    @contextmanager
    def all_or_nothing(self, *optimizers: Optimizer) -> Iterator[None]:
        """If anything fails, model, copies and units, and the state of these optimizers or their own, are as before."""
        restore = self.snapshot()
        try:
            with ExitStack() as stack:
                stack.enter_context(without_search())
                for copy in self.copies:
                    stack.enter_context(unharmed(copy))
                stack.enter_context(unharmed(self.model, *(optimizers or self.optimizers)))
                yield
        except BaseException:
            restore()
            raise

    @contextmanager
    def tried(self) -> Iterator["AbstractUnits"]:
        """Units that may leave in a trial: at the end of the context nothing has left.

        In a process group they are the units of a copy, because DistributedDataParallel loses a parameter that is cut,
        even if the cut is undone. Otherwise the model itself is cut and restored, so no copy has to fit into memory.
        """
        if grouped():
            yield self.on(duplicate(self.model))
            return
        with suppress(_Undone), self.all_or_nothing():
            yield self
            raise _Undone

    def operators(self) -> Program | None:
        """The operators that the model runs; None where it cannot be run without consequences."""
        return noted(self.model, self.example_inputs)

    def left_of(self) -> Callable[[str], Sequence[Int[Tensor, "_"] | None]]:
        """From now on: for each dimension of a parameter the indices that are left of it, None where all are."""
        return lambda name: [None] * self.model.get_parameter(name).ndim

    # What is left -------------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, cost: AbstractCost | None = None) -> Counts:
        """The counts of what is left of the network; and a cost, if it is none of these."""

    @abstractmethod
    def part_counts(self, budget: Budget) -> tuple[PartCount, ...]:
        """What each part of a budget costs in the dense network and now; empty if it has no parts."""

    @abstractmethod
    def widths(self) -> list[tuple[str, int]]:
        """For each layer its name and the number of units that are left."""

    @abstractmethod
    def by_layer(self) -> Sequence[LayerUnits]:
        """For each layer of `widths` its units, by their numbers in the dense network."""

    @property
    def classes(self) -> list[ChannelClass]:
        """Every class of coupled channels of the dense network; empty for weights, which leave one by one."""
        return []

    def collapsed(self) -> list[str]:
        """What no longer carries a signal; empty where every layer always keeps a unit."""
        return []

    def masks(self) -> dict[str, Tensor]:
        """By parameter name, which of its entries are left; empty where units are cut rather than masked."""
        return {}

    def held(self) -> Iterator[Tensor]:
        """Every tensor that is kept from step to step besides the model."""
        return iter(())

    @property
    def masked(self) -> "WeightUnits | None":
        """The units themselves, if what leaves stays in the model as zeros, which a harvest can cut; None otherwise."""
        return None

    # States -------------------------------------------------------------------------------------------

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Which units of the dense network are left, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remove from the dense model what had left when the state was saved.

        Raises:
            EarlyCropError: the state is of another network, or this model is not dense.
        """


class _Undone(Exception):
    """Raised to end a trial, so that all of it is undone."""
