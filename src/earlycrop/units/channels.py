"""Channels: classes that only leave together, and are then really cut."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from copy import copy as shallow
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.allocation import Sharing
from earlycrop.budget import Among, Budget, check_scores, choose_channels, shares_of
from earlycrop.counting import Counter, Counts
from earlycrop.counting.costs import COSTS, AbstractCost, Parameters
from earlycrop.counting.sizes import counted
from earlycrop.errors import EarlyCropError, OptimizerError
from earlycrop.evaluation.rehearsal import Rehearsal
from earlycrop.parts import PartCount, Parts
from earlycrop.reach import Reach
from earlycrop.stepping import at_steps
from earlycrop.structure import ChannelClass, Frozen, Gate, Layer, Structure, Verification, Verifier, cut, trace
from earlycrop.structure.attempts import some
from earlycrop.structure.duplicates import duplicate
from earlycrop.structure.gated_norms import norm_scales
from earlycrop.structure.held import holding
from earlycrop.structure.trace import Call, Inputs, as_inputs, inputs_for
from earlycrop.structure.trial import only
from earlycrop.units.abstract import AbstractUnitKind, AbstractUnits, LayerUnits
from earlycrop.units.coordinates import Entries, GateCoordinates, WeightCoordinates
from earlycrop.vector import Vector

UNSEEN = "read by something that runs with the loss, in no call that could be traced"


@dataclass(frozen=True)
class Channels(AbstractUnitKind):
    """Classes of coupled channels of every convolution, linear, recurrent and embedding layer.

    Args:
        gate: Where a class's gate sits: after the norm that directly follows a creator (`post_norm`), or on the
            creator's own output (`pre_norm`, as in the authors' code).
        reduce: One gate for all creators of a class (`shared`: their effects cancel or add up before the score is
            taken), or one for each creator, whose scores are summed (`sum_abs`) or of which the largest counts (`max`).
        embeddings: Whether weights and columns of embeddings count as prunable weights and nodes. They leave with their
            class in any case.

    Raises:
        ValueError: `gate` or `reduce` is something else.
    """

    gate: Literal["post_norm", "pre_norm"] = "post_norm"
    reduce: Literal["shared", "sum_abs", "max"] = "shared"
    embeddings: bool = False

    noun: ClassVar = "channels"
    whole_channels: ClassVar = True

    def __post_init__(self) -> None:
        if self.reduce not in ("shared", "sum_abs", "max"):
            raise ValueError(f"`reduce` is 'shared', 'sum_abs' or 'max'; found {self.reduce!r}.")
        if self.gate not in ("post_norm", "pre_norm"):
            raise ValueError(f"`gate` is 'post_norm' or 'pre_norm'; found {self.gate!r}.")

    def of(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | None,
        ignore: tuple[str, ...],
        coupled: tuple[tuple[str, ...], ...] = (),
        ways: Sequence[Call] = (),
    ) -> "ChannelUnits":
        """The channel classes of a model, found by tracing it, see `AbstractUnitKind.of`.

        Args:
            model: The network.
            example_inputs: What the model takes, as for `trace`.
            optimizer: Its state is cut with the channels.
            ignore: Names of modules or parameters to keep whole.
            coupled: Tuples of layers whose channels leave together, by position.
            ways: Other calls of the model, as the loss makes them.
        """
        return ChannelUnits(model, example_inputs, optimizer, ignore, coupled, self, ways)


class ChannelUnits(AbstractUnits):
    """The classes of channels of a model and which of them are left.

    Attributes:
        keep: For each class of the dense network whether it is left.
        structure: The classes that are left, in the model as it is now.
        optimizers: Whose state is cut with the model.
        copies: Models of the same parameters (averages) that are cut with it.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | None,
        ignore: tuple[str, ...] = (),
        coupled: tuple[tuple[str, ...], ...] = (),
        kind: Channels = Channels(),
        ways: Sequence[Call] = (),
    ) -> None:
        self.model, self.kind = model, kind
        self.optimizers = () if optimizer is None else (optimizer,)
        self.gate, self.reduce, self.embeddings = kind.gate, kind.reduce, kind.embeddings
        self._given = as_inputs(example_inputs), next(model.parameters(), torch.empty(0)).dtype
        self._rules, self._ways = (ignore, coupled), ways
        self.dense = self.structure = self._traced()
        self.copies: tuple[nn.Module, ...] = ()
        self._guard: Any = None
        self.keep = torch.ones(len(self.structure), dtype=torch.bool)
        self.layers = self.structure.layers
        self.frozen: tuple[Frozen, ...] = self.structure.frozen
        counter, none = Counter(self.structure, model), torch.zeros_like(self.keep)
        total = counter.price(Parameters())
        self.reach = Reach(
            int(total - counter.price(Parameters(), none)), int(total), holding(self.structure), bool(ignore)
        )

    @property
    def example_inputs(self) -> Inputs:
        """The given inputs, moved to the model's present device and precision."""
        return inputs_for(self.model, *self._given)

    @property
    def coordinates(self) -> GateCoordinates:
        """One gate of value 1 for each class that is left; or for each of its creators, if gates are not shared."""
        gates, count = self._gates, len(self.structure)
        if self.reduce != "shared":
            owners = self._owners()
            keys = [gate.classes * self._creators + gate.creator for gate in gates]
            places = zip(gates, keys, strict=True)
            numbers = [torch.where(gate.classes < 0, -1, torch.searchsorted(owners, key)) for gate, key in places]
            gates = tuple(replace(gate, classes=one) for gate, one in zip(gates, numbers, strict=True))
            count = owners.numel()
        return GateCoordinates(gates, count, self._like)

    def per_class(self, scores: Vector) -> Float[Tensor, "classes"]:
        """The score of each class: scores of gates that are not shared are reduced, others are returned unchanged."""
        if self.reduce == "shared" or scores.numel() != (owners := self._owners()).numel():
            return scores
        classes = (owners // self._creators).to(scores.device)
        how = "sum" if self.reduce == "sum_abs" else "amax"
        return scores.new_zeros(len(self.structure)).scatter_reduce(0, classes, scores.abs(), how)

    @property
    def made_of(self) -> Entries:
        """The filters and biases that create each class."""
        return self._entries(self.structure.creators)

    @property
    def scales(self) -> Entries:
        """The scales of the norms that each class goes through."""
        return self._entries((name, 0) for name in norm_scales(self.model) if name in self.structure.tensors)

    @property
    def readers(self) -> Entries:
        """The weights that read each class."""
        made, matrices = set(self.structure.creators), {n for n, p in self.model.named_parameters() if p.ndim > 1}
        return self._entries(
            (name, dim) for name, dim, _ in self.structure.dimensions() if name in matrices and (name, dim) not in made
        )

    @property
    def weights(self) -> WeightCoordinates:
        """All prunable weights that are left, as one vector."""
        names = (name for layer in counted(self.layers, self.embeddings) for name in layer.weights)
        return WeightCoordinates(self.model, tuple(dict.fromkeys(names)))

    def on(self, model: nn.Module) -> "ChannelUnits":
        """The same classes of a copy of the model, without an optimizer."""
        units = shallow(self)
        units.model, units.optimizers, units.copies = model, (), ()
        return units

    def check_gates(self, batch_statistics: bool) -> None:
        """Refuse gates that a norm with the batch's own statistics divides out again: the loss does not depend on them.

        Args:
            batch_statistics: Whether norms use the batch's statistics even if they have running ones.

        Raises:
            EarlyCropError: there is such a gate; names the layer and its norm.
        """
        for gate in self._gates:
            if gate.norm is None:
                continue
            if not batch_statistics and getattr(self.model.get_submodule(gate.norm), "running_mean", True) is not None:
                continue
            raise EarlyCropError(
                f"The gates of `{gate.where}` sit before `{gate.norm}`, which divides each channel by its own scale in "
                f"the batch: the loss does not depend on them, so their scores would be rounding noise. Use "
                f"`Channels(gate='post_norm')` with a norm that is a module; or let the norm track running statistics "
                f"and score with `bn_mode='running'` or 'calibrated'; or use a method that does not score by gates "
                f"(magnitude-s)."
            )

    def choose(self, budget: Budget, scores: Vector, allocation: Sharing) -> Bool[Tensor, "classes"]:
        """True for each class that stays: their cost is nearest to the target, a part of the dense network's cost."""
        check_scores(scores)  # before an allocation turns them into ranks
        dense, counter = (Counter(one, self.model, self.embeddings) for one in (self.dense, self.structure))
        spaces = self.dense.spaces()
        whole = spaces.bincount()[spaces][self.keep]

        def among(budget: Budget, classes: Tensor) -> Among:
            shared = allocation(
                scores.cpu(), self.layer, lambda name: counter.prices(COSTS[name] if name else budget.cost)
            )
            return Among(budget, shared, dense.price(budget.cost), classes)

        if not budget.parts:
            return choose_channels([among(budget, self.alive)], self.structure, counter, whole)
        owners = Parts(self.model, budget.parts).owners(self.structure)
        shares = [(share, owners == share.number) for share in shares_of(self.model, budget, dense.whole)]
        # a rest of layers that only write outputs has nothing to choose: its weights leave with what they read
        shares = [(share, mine) for share, mine in shares if share.named or bool(mine.any())]
        shares.sort(key=lambda pair: int(pair[1].int().argmax()))
        parts = [among(budget.within(share.sparsity, share.cost), mine) for share, mine in shares]
        return choose_channels(parts, self.structure, counter, whole)

    def part_counts(self, budget: Budget) -> tuple[PartCount, ...]:
        """What each part of a budget cost before any cut and costs now."""
        dense, now = (Counter(one, self.model, self.embeddings).whole for one in (self.dense, self.structure))
        return tuple(share.counted(dense, share.cost.of(now)) for share in shares_of(self.model, budget, dense))

    @property
    def alive(self) -> Bool[Tensor, "classes"]:
        """True for each class of the network as it is now; those that left are gone."""
        return torch.ones(len(self.structure), dtype=torch.bool)

    @property
    def layer(self) -> Int[Tensor, "classes"]:
        """For each class the number of its space, which stands for a layer: its classes live in the same dimensions."""
        return self.structure.spaces()

    def places(self, before: Bool[Tensor, "dense"]) -> Int[Tensor, "classes"]:
        """For each class its place among those that were left when `keep` was `before`."""
        return self.keep[before].nonzero().flatten()

    def adopt(self, optimizers: tuple[Optimizer, ...], carry: bool) -> None:
        """Their state is cut with the model, or left alone."""
        self.optimizers = optimizers if carry else ()

    def keep_only(self, keep: Bool[Tensor, "classes"]) -> None:
        """Remove all other classes from the model, the optimizer's state and the copies."""
        structure = self.structure
        self.structure = cut(structure, self.model, keep, *self.optimizers)
        for copy in self.copies:
            cut(structure, copy, keep)
        if not self.optimizers and self._guard is None:
            self._guard = at_steps(self, _refusing_steps(), before=True)
        left = self.keep.clone()
        left[self.keep] = keep.cpu()
        self.keep = left

    def retrace(self) -> None:
        """Restore the graph, which a cut discards, by tracing what is left, provided that the classes are the same."""
        self.structure = self.structure.with_graph_of(self._traced())

    def _traced(self) -> Structure:
        def now(values: Any) -> Any:
            return inputs_for(self.model, values, self._given[1])

        ways = [replace(way, args=now(way.args), kwargs=now(way.kwargs)) for way in self._ways]
        return trace(self.model, self.example_inputs, *self._rules, ways)

    def rehearse(self, rehearsal: Callable[[AbstractUnits], Rehearsal], aside: bool) -> None:
        """Where it is not known what some call or the loss reads, freeze what the loss needs: found by trial cuts."""
        structure = self.structure

        def passes(spaces: Sequence[int]) -> bool:
            keep, trial = some(structure, spaces, seed=0), self.on(duplicate(self.model))
            if bool(keep.all()):
                return True
            after = rehearsal(trial)
            trial.keep_only(keep)
            try:
                after.repeat()
            except EarlyCropError:
                return False
            return True

        if (structure.doubtful or aside) and not passes(structure.spaces().unique().tolist()):
            self.dense = self.structure = only(structure, passes, UNSEEN)
            self.keep, self.frozen = torch.ones(len(self.structure), dtype=torch.bool), self.structure.frozen

    def counts(self, cost: AbstractCost | None = None) -> Counts:
        """The counts of what is left, from shapes; and a cost, if it is none of these."""
        return Counter(self.structure, self.model, self.embeddings)(cost=cost)

    def widths(self) -> list[tuple[str, int]]:
        """For each layer its name and its number of output channels."""
        return [(layer.name, layer.channels) for layer in self.structure.layers]

    def by_layer(self) -> list[LayerUnits]:
        """For each layer its classes, the spaces that they live in, and why its other channels are frozen."""
        spaces = self.dense.spaces()
        return [self._in_layer(layer, spaces) for layer in self.layers]

    @property
    def classes(self) -> list[ChannelClass]:
        """Every class of the dense network."""
        return self.dense.classes

    def proof(self) -> tuple[Callable[[], Verification] | None, str | None]:
        """A function that compares what the cut leaves with the gated network, in float64; or why there is none."""
        if self.structure.graph is None:
            self.retrace()
        if self.structure.graph is None:
            return None, "the graph of what the last cut left couples channels differently, so nothing was compared"
        verifier, before = Verifier(self.structure, self.model, self.example_inputs), self.keep
        if verifier.blind is not None:
            return None, verifier.blind
        return lambda: verifier.compare(self.model, self.keep[before]), None

    def state_dict(self) -> dict[str, Any]:
        """Which classes of the dense network are left."""
        return {"keep": self.keep}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut a dense model as the saved one had been cut; the caller then loads the weights.

        Raises:
            EarlyCropError: the state is of another network, or this model is not dense.
        """
        keep = state["keep"]
        if keep.shape != self.keep.shape or not bool(self.keep.all()):
            raise EarlyCropError(
                f"This state keeps {int(keep.sum())} of {keep.numel()} classes of channels of a dense model; the "
                f"model here has {int(self.keep.sum())} of {self.keep.numel()}. Build the dense network again and "
                f"load the state into that."
            )
        if not bool(keep.all()):
            self.keep_only(keep)

    def snapshot(self) -> Callable[[], None]:
        """A function that restores what is left now (the caller restores the model)."""
        structure, keep = self.structure, self.keep

        def restore() -> None:
            self.structure, self.keep = structure, keep

        return restore

    def _in_layer(self, layer: Layer, spaces: Tensor) -> LayerUnits:
        found = self.dense.tensors[layer.weight].classes[layer.dim]
        inside = torch.tensor([], dtype=torch.int64) if found is None else found[found >= 0].unique()
        where = f"{layer.weight} dim {layer.dim}"
        why = next((str(one) for one in self.dense.frozen if one.where == where), None)
        if layer.weight in self.dense.outputs:
            why = "an output of the network"
        return LayerUnits(inside, tuple(spaces[inside].unique().tolist()), why)

    def _entries(self, sites: Iterable[tuple[str, int]]) -> Entries:
        tensors = self.structure.tensors
        among = tuple(site for site in sites if tensors[site[0]].classes[site[1]] is not None)
        return Entries(self.structure, self._like, among)

    @property
    def _gates(self) -> tuple[Gate, ...]:
        return self.structure.gates if self.gate == "post_norm" else self.structure.creating_gates

    def _owners(self) -> Int[Tensor, "gates"]:
        """Every pair of a class and one of its creators that has a gate, as one number, in the order of the classes."""
        pairs = [gate.classes[gate.classes >= 0] * self._creators + gate.creator for gate in self._gates]
        return torch.cat(pairs).unique() if pairs else torch.zeros(0, dtype=torch.int64)

    @property
    def _creators(self) -> int:
        return 1 + max((gate.creator for gate in self._gates), default=0)

    @property
    def _like(self) -> Tensor:
        return next(self.model.parameters())


def _refusing_steps() -> Callable[[ChannelUnits, Optimizer], None]:
    """A hook for every optimizer in this process: one that the pruner was not given has the old shapes in its state."""
    met: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    def hook(here: ChannelUnits, optimizer: Optimizer) -> None:
        if optimizer in met:
            return
        for name, parameter in here.model.named_parameters():
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
                    raise OptimizerError(
                        f"{type(optimizer).__name__} still has the state of the network before the cut: for `{name}`, "
                        f"of shape {tuple(parameter.shape)}, it remembers {tuple(value.shape)}. Give it to the pruner "
                        f"before the cut (`pruner.optimizer = optimizer`), or make a new optimizer after it."
                    )
        met.add(optimizer)

    return hook
