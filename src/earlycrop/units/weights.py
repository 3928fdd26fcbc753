"""Single weights: they leave by being set to zero, and stay zero whatever the optimizer does."""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from copy import copy as shallow
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.allocation import Global, Sharing
from earlycrop.bits import as_integers
from earlycrop.budget import Budget, check_masks, check_scores, choose_weights, shares_of
from earlycrop.counting import Counts, flops, size_of
from earlycrop.counting.costs import AbstractCost
from earlycrop.counting.sizes import Sizes, counted
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation.inputs import reads_its_inputs
from earlycrop.parts import PartCount
from earlycrop.reach import Reach
from earlycrop.stepping import at_steps
from earlycrop.structure import Frozen, Structure, cut, ignoring, layers_in, trace
from earlycrop.structure.surgery import rebind, select
from earlycrop.structure.trace import Call, Inputs, as_inputs, inputs_for
from earlycrop.units.abstract import AbstractUnitKind, AbstractUnits, LayerUnits
from earlycrop.units.coordinates import WeightCoordinates
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Weights(AbstractUnitKind):
    """The weights of every convolution, linear and recurrent layer, one by one; biases and norms stay.

    Args:
        embeddings: Whether the weights of embeddings may leave too. For scores on data, a row that no scoring batch
            looks up is worth nothing.
    """

    embeddings: bool = False

    noun: ClassVar = "weights"
    whole_channels: ClassVar = False

    def of(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | None,
        ignore: tuple[str, ...],
        coupled: tuple[tuple[str, ...], ...] = (),
        ways: Sequence[Call] = (),
    ) -> "WeightUnits":
        """The prunable weights of a model, see `AbstractUnitKind.of`.

        Args:
            model: The network.
            example_inputs: What the model takes, as for `trace`.
            optimizer: Its state is masked with the weights.
            ignore: Names of modules or parameters to keep whole.
            coupled: Must be empty.
            ways: Other calls of the model, for a harvest.

        Raises:
            EarlyCropError: `coupled` is not empty, or the model has no prunable weight.
        """
        if coupled:
            raise EarlyCropError("`coupled` is for channels, but this method removes single weights: leave it out.")
        units = WeightUnits(model, example_inputs, optimizer, ignore, self)
        units.ways = tuple(ways)
        return units


class WeightUnits(AbstractUnits):
    """The prunable weights of a model and which of them are left.

    Masked weights stay exactly zero: their gradient is set to zero as soon as it is accumulated, so clipping, momentum
    and Adam's moments never see it, their optimizer state is zeroed when they leave, and they are set to zero again
    after each optimizer step. The forward pass is the model's own.

    Attributes:
        keep: For each prunable weight whether it is left.
        optimizers: Whose state is masked with the model.
        copies: Models of the same parameters (averages) that are masked with it.
        left: After a harvest, which channel classes of the dense network are left; None before.
        ways: Calls of the model beside that of the example inputs, for the harvest.

    Raises:
        EarlyCropError: the model has no prunable weight.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: object,
        optimizer: Optimizer | None,
        ignore: tuple[str, ...] = (),
        kind: Weights = Weights(),
    ) -> None:
        self.model, self.kind = model, kind
        self.optimizers = () if optimizer is None else (optimizer,)
        self._given = as_inputs(example_inputs), next(model.parameters(), torch.empty(0)).dtype
        self.ignore, self.embeddings = ignore, kind.embeddings
        self.copies: tuple[nn.Module, ...] = ()
        self.left: Tensor | None = None
        self.ways: tuple[Call, ...] = ()
        titles: dict[str, str] = {}  # a recurrent layer has several weights, and each is reported by itself
        ignored = ignoring(model, ignore)
        self.layers = layers_in(model, self.example_inputs)
        for layer in counted(self.layers, kind.embeddings):
            for name in layer.weights:
                if not ignored(name):
                    titles.setdefault(name, name if layer.others else layer.name)
        if not titles:
            raise EarlyCropError(
                f"{type(model).__name__} has no convolution, linear or recurrent layer whose weights could leave"
                f"{' outside `ignore`' if ignore else ''}."
            )
        self.titles = tuple(titles.values())
        self.names = tuple(titles)
        self.sizes = [parameter.numel() for parameter in self._parameters()]
        whole = torch.ones((), dtype=torch.bool, device=self._parameters()[0].device)
        self.keep = whole.expand(sum(self.sizes))  # takes no memory while nothing has left
        self.frozen: tuple[Frozen, ...] = ()
        self.reach = Reach(
            self.keep.numel(), sum(parameter.numel() for parameter in model.parameters()), chosen=bool(ignore)
        )
        self._flops = flops(model, self.example_inputs)
        self._handles: list[Any] = []
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def example_inputs(self) -> Inputs:
        """The given inputs, moved to the model's present device and precision."""
        return inputs_for(self.model, *self._given)

    @property
    def coordinates(self) -> WeightCoordinates:
        """All prunable weights as one vector; here the units, what they are made of, and the weights are the same."""
        alive = None if bool(self.keep.all()) else self.keep.to(self._parameters()[0].device)
        return WeightCoordinates(self.model, self.names, alive)

    made_of = scales = readers = weights = coordinates

    def per_class(self, scores: Vector) -> Vector:
        """The scores, unchanged: every weight is a unit."""
        return scores

    def choose(self, budget: Budget, scores: Vector, allocation: Sharing) -> Bool[Tensor, "weights"]:
        """True for each weight that stays; their number is exact."""
        alive = self.keep.to(scores.device)
        scores = torch.where(alive, scores, 0.0)
        check_scores(scores)  # before an allocation turns them into ranks
        if not isinstance(
            allocation, Global
        ):  # `Global` does not need `layer`, which takes twice the memory of the weights
            ranked = torch.where(alive, scores, -torch.inf)
            shared = allocation(ranked, self.layer.to(scores.device), lambda _: torch.ones_like(scores))
            scores = torch.where(alive, shared, 0.0)
        first = self.first(torch.where(alive, scores, -torch.inf))
        if not budget.parts:
            return choose_weights(budget, scores, alive, self.sizes, self._whole, first)
        check_masks(budget)
        keep = alive.clone()
        for share in shares_of(self.model, budget, self._whole):
            layers = [name in share.cost.parameters for name in self.names]
            sizes = [size for size, mine in zip(self.sizes, layers, strict=True) if mine]
            if not sizes and not share.named:  # a rest of what never leaves
                continue
            mine = torch.tensor(layers).repeat_interleave(torch.tensor(self.sizes)).to(alive.device)
            inside = budget.within(share.sparsity, share.cost), scores[mine], alive[mine], sizes, self._whole
            keep[mine] = choose_weights(*inside, None if first is None else first[mine])
        return keep

    def part_counts(self, budget: Budget) -> tuple[PartCount, ...]:
        """What each part of a budget cost without masks and costs now."""
        gone = dict(zip(self.names, (int((~part).sum()) for part in self.keep.split(self.sizes)), strict=True))
        found = []
        for share in shares_of(self.model, budget, self._whole):
            masked = sum(gone.get(name, 0) for name in share.cost.parameters)
            found.append(share.counted(self._whole, share.cost.of(self._whole) - masked * share.cost.per_weight))
        return tuple(found)

    def first(self, scores: Vector) -> Bool[Tensor, "weights"] | None:
        """The best entry under each norm by which a weight is divided: without any it would be divided by zero."""
        norms = self._norms()
        if not norms:
            return None
        best = torch.zeros_like(scores, dtype=torch.bool)
        parts = dict(zip(self.names, zip(scores.split(self.sizes), best.split(self.sizes), strict=True), strict=True))
        for name, places in norms.items():
            score, chosen = parts[name]
            places = places.to(score.device)
            chosen[places.gather(1, score[places].argmax(1, keepdim=True))] = True
        return best

    def _norms(self) -> dict[str, Tensor]:
        """Of each weight that is divided by norms of its parameter the places of its entries, a row for each norm."""
        found = {}
        for layer in self.layers:
            if layer.scaled is not None and layer.weight in self.names:
                shape = self.model.get_parameter(layer.weight).shape
                places = torch.arange(shape.numel()).view(shape).movedim(layer.scaled, tuple(range(len(layer.scaled))))
                found[layer.weight] = places.reshape(math.prod(shape[dim] for dim in layer.scaled), -1)
        return found

    @property
    def alive(self) -> Bool[Tensor, "weights"]:
        """True for each weight that is left."""
        return self.keep.cpu()

    @property
    def layer(self) -> Int[Tensor, "weights"]:
        """For each weight the number of its layer."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    def places(self, before: Bool[Tensor, "weights"]) -> Int[Tensor, "weights"]:
        """For each weight its own number: weights that have left keep their entries in the vector."""
        return torch.arange(self.keep.numel())

    def adopt(self, optimizers: tuple[Optimizer, ...], carry: bool) -> None:
        """Masks reach their state in any case; only a cut of channels may do without it."""
        self.optimizers = optimizers
        if self._held:
            self.hold()

    def keep_only(self, keep: Bool[Tensor, "weights"]) -> None:
        """Set all others to zero, with their optimizer state."""
        keep = keep.to(self.keep.device) & self.keep
        self._check_norms(keep)
        self.keep = keep
        for parameter, gone in self._gone():
            rebind(parameter, parameter.data.clone().masked_fill_(gone, 0))  # a clone keeps the memory format
            for state in (one.state.get(parameter, {}) for one in self.optimizers):
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = value.clone().masked_fill_(gone, 0)
        for name, keep in self.masks().items():
            for twin in (copy.get_parameter(name) for copy in self.copies):
                rebind(twin, twin.data.clone().masked_fill_(~keep.to(twin.device), 0))
        self.hold()

    def _check_norms(self, keep: Bool[Tensor, "weights"]) -> None:
        parts = dict(zip(self.names, keep.cpu().split(self.sizes), strict=True))
        for name, places in self._norms().items():
            empty = ~parts[name][places].any(1)
            if bool(empty.any()):
                raise EarlyCropError(
                    f"{int(empty.sum())} of {len(empty)} rows of `{name}` would keep no weight, and the layer divides "
                    f"each row by its norm. Remove less, use another allocation, or keep it whole with `ignore=`."
                )

    def reap(self, structure: Structure, keep: Bool[Tensor, "classes"]) -> None:
        """Cut the channel classes outside `keep`; the masks follow.

        Args:
            structure: The classes of the masked network.
            keep: True for each class that stays.
        """
        masks, held = self.masks(), bool(self._handles)
        self.release()
        cut(structure, self.model, keep, *self.optimizers)
        for copy in self.copies:
            cut(structure, copy, keep)
        kept = [select(masks[name], structure.index(name, keep)).reshape(-1) for name in self.names]
        self.sizes = [one.numel() for one in kept]
        self.keep = torch.cat(kept).to(self.keep.device)
        self.left, self._flops = keep, flops(self.model, self.example_inputs)
        if held:
            self.hold()

    def on(self, model: nn.Module) -> "WeightUnits":
        """The same weights of a copy of the model, without an optimizer."""
        units = shallow(self)
        units.model, units.optimizers, units.copies, units._handles, units._held = model, (), (), [], []
        return units

    def masks(self) -> dict[str, Tensor]:
        """By parameter name, which of its entries are left."""
        shapes = zip(self.names, self._parameters(), self.keep.cpu().split(self.sizes), strict=True)
        return {name: keep.view(parameter.shape) for name, parameter, keep in shapes}

    def held(self) -> Iterator[Tensor]:
        """The masks, in the two forms that are kept: a boolean for each weight, and a bit mask for each weight."""
        yield self.keep
        yield from (bits for _, bits in self._held)

    def hold(self) -> None:
        """Keep masked weights at zero from now on, through gradients and optimizer steps."""
        self.release()
        for parameter, gone in self._gone():
            bits = torch.zeros_like(as_integers(parameter)).masked_fill_(~gone, -1)
            self._held.append((parameter, bits))
        for parameter, bits in self._held:
            if (parameter.is_floating_point() or parameter.is_complex()) and not parameter.is_inference():
                flag = parameter.requires_grad  # a parameter that is frozen now may be unfrozen later
                self._handles.append(parameter.requires_grad_(True).register_post_accumulate_grad_hook(_masking(bits)))
                parameter.requires_grad_(flag)
        self._handles.append(at_steps(self, _masking_steps()))

    @torch.no_grad()
    def zero(self) -> None:
        """Set masked weights to zero, in place."""
        for parameter, bits in self._held:
            _mask(parameter, bits)

    @torch.no_grad()
    def forget(self, optimizer: Optimizer) -> None:
        """Set an optimizer's state of masked weights to zero, in place."""
        for parameter, bits in self._held:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == parameter.dtype:
                    _mask(value, bits)

    def counts(self, cost: AbstractCost | None = None) -> Counts:
        """The counts of what is left: masked weights count as gone, but save no FLOPs; and a cost, if it is another."""
        prunable, params = size_of(self.model, self.embeddings, self.layers)
        gone, other = int((~self.keep).sum()), None
        if cost is not None and cost.key == "other":
            other = cost.of(self._whole) - gone * cost.per_weight
        return Counts(prunable - gone, params - gone, 0, self._flops, other)

    def widths(self) -> list[tuple[str, int]]:
        """For each layer (for each weight of a recurrent one) its name and the number of weights that are left."""
        kept = [int(part.sum()) for part in self.keep.split(self.sizes)]
        return list(zip(self.titles, kept, strict=True))

    def by_layer(self) -> list[LayerUnits]:
        """For each layer its stretch of the vector."""
        stops = list(accumulate(self.sizes))
        return [LayerUnits(slice(stop - size, stop)) for size, stop in zip(self.sizes, stops, strict=True)]

    @property
    def masked(self) -> "WeightUnits":
        """The units themselves: weights that left are zeros in the model."""
        return self

    def collapsed(self) -> list[str]:
        """Layers that keep no weight, and a line if the output no longer depends on the input; empty if all is well."""
        empty = [f"{name} keeps no weight" for name, width in self.widths() if width == 0]
        if not reads_its_inputs(self.model, self.example_inputs):
            empty.append("the output no longer depends on the input")
        return empty

    def state_dict(self) -> dict[str, Any]:
        """The masks, and which channel classes a harvest left."""
        return {"keep": self.keep.cpu(), "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Mask the model as the saved one was; the caller then loads the weights.

        What was harvested is cut first. Masks that the saved one did not have are released.

        Raises:
            EarlyCropError: the state is of another network, or it was harvested and this model is not dense.
        """
        keep, left = state["keep"].cpu(), state.get("left")
        if left is not None:
            structure = trace(self.model, self.example_inputs, self.ignore, ways=self.ways)
            if left.shape != (len(structure),) or self.left is not None:
                raise EarlyCropError(
                    f"This state harvested a dense model with {left.numel()} classes of channels; the model here has "
                    f"{len(structure)}{' after a harvest' if self.left is not None else ''}. Build the dense network "
                    f"again and load the state into that."
                )
            self.reap(structure, left)
        if keep.shape != self.keep.shape:
            raise EarlyCropError(
                f"This state masks {keep.numel()} weights, but the model has {self.keep.numel()}: build the network "
                f"that was saved."
            )
        if not torch.equal(keep, self.keep.cpu()):
            self.release()
            self.keep = torch.ones_like(self.keep)
        if not bool(keep.all()):
            self.keep_only(keep)

    def release(self) -> None:
        """Undo `hold`: masked weights may become nonzero again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._held = [], []

    @property
    def _whole(self) -> Sizes:
        return Sizes(self.model, embeddings=self.embeddings, layers=self.layers)

    def _parameters(self) -> list[nn.Parameter]:
        return [self.model.get_parameter(name) for name in self.names]

    def snapshot(self) -> Callable[[], None]:
        """A function that restores what is left now (the caller restores the model)."""
        keep, held = self.keep, bool(self._handles)
        shape = self.sizes, self.left, self._flops

        def restore() -> None:
            self.keep = keep
            self.sizes, self.left, self._flops = shape
            self.hold() if held else self.release()

        return restore

    def _gone(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for parameter, keep in zip(self._parameters(), self.keep.split(self.sizes), strict=True):
            yield parameter, ~keep.view_as(parameter).to(parameter.device)


def _masking_steps() -> Callable[[WeightUnits, Optimizer], None]:
    """A hook for every optimizer in this process: after a step of one that has masked weights they are zero again.

    It does not matter whether the pruner was given that optimizer, or whether another one wraps it. What such an
    optimizer remembers of masked weights from before the cut is set to zero at its first step.
    """
    met: weakref.WeakSet[Optimizer] = weakref.WeakSet()
    others: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    def hook(here: WeightUnits, optimizer: Optimizer) -> None:
        if optimizer in others:
            return
        if optimizer not in met:
            ours = {id(parameter) for parameter, _ in here._held}
            if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
                others.add(optimizer)
                return
            met.add(optimizer)
            here.forget(optimizer)
        here.zero()

    return hook


def _mask(tensor: Tensor, bits: Tensor) -> None:
    """Clear, in place, all bits of the entries that left, and none of the others.

    Several times faster than filling by a boolean mask, and exact where a product is not: infinity times zero is nan.
    """
    integers = as_integers(tensor)
    integers.bitwise_and_(bits.to(integers))


def _masking(bits: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is not None:
            _mask(parameter.grad, bits)

    return hook
