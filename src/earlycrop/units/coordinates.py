"""From one vector to what the network computes with: the weights themselves, or gates that multiply activations.

Coordinates name the *leaves* to differentiate with respect to (the parameters themselves, or factors of value one), and
put them, or other tensors like them, in place while the model computes. Derivatives are then autograd's own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlycrop.evaluation.coordinates import Coordinates, Rows, Slopes
from earlycrop.hessian_products import AutodiffMode
from earlycrop.structure import Gate, Structure
from earlycrop.vector import Vector


@dataclass(frozen=True, eq=False)
class WeightCoordinates(Coordinates):
    """The vector of all entries of some parameters; entries that have left are zero and have no slope.

    Args:
        model: The network that holds the values.
        names: The names of the parameters.
        alive: True for each entry that has not left; None: all.
    """

    model: nn.Module
    names: tuple[str, ...]
    alive: Bool[Tensor, "units"] | None = None

    autodiff_modes: ClassVar[tuple[AutodiffMode, ...]] = ("reverse_over_forward", "double_backward")

    @property
    def values(self) -> Vector:
        """θ: all entries of the parameters as one vector; those that have left are zero."""
        return self.total([parameter.detach() for parameter in self.leaves(self.model)])

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """The parameters of the given model, or the tensors that are in their place there."""
        return [_tensor(model, name) for name in self.names]

    @contextmanager
    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Within the context the model computes with these tensors in place of the parameters."""
        with swapped(model, dict(zip(self.names, tensors, strict=True))):
            yield

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """The direction, divided into tensors of the parameters' shapes and precision."""
        leaves = self.leaves(model)
        return [
            part.view_as(leaf).to(leaf.dtype)
            for part, leaf in zip(self._alive(direction).split([p.numel() for p in leaves]), leaves, strict=True)
        ]

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """Σ share · slopes as one vector; the slopes by each leaf are added in place, without a second copy of all."""
        leaves = self.leaves(model)
        total = torch.zeros(
            sum(leaf.numel() for leaf in leaves), dtype=_at_least_float32(leaves[0]), device=leaves[0].device
        )
        places = total.split([leaf.numel() for leaf in leaves])
        for parts, share in slopes:
            for place, part in zip(places, parts, strict=True):
                if part is not None:
                    place.add_(part.reshape(-1), alpha=share)
            del parts  # free them before the next batch is processed
        return total if self.alive is None else total.mul_(self.alive)

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """The sum over each unit's entries: a weight has a single one, so this flattens the tensors."""
        return self._alive(torch.cat([tensor.reshape(-1) for tensor in tensors]))

    def _alive(self, vector: Vector) -> Vector:
        return vector if self.alive is None else vector * self.alive


@dataclass(frozen=True, eq=False)
class GateCoordinates(Coordinates):
    """The vector of gates, all one; each place where gates multiply has a leaf, with one factor for each channel.

    Args:
        gates: The places, and which entry of the vector multiplies each channel there.
        count: The length of the vector.
        like: A tensor with the precision and device of the vector.
    """

    gates: tuple[Gate, ...]
    count: int
    like: Tensor

    autodiff_modes: ClassVar[tuple[AutodiffMode, ...]] = (
        "double_backward",
    )  # tangents of the weights would be computed as zeros

    @property
    def values(self) -> Vector:
        """One for each gate."""
        return torch.ones(self.count, dtype=_at_least_float32(self.like), device=self.like.device)

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """For each place a factor of one for each channel, in the precision of the given model."""
        return [torch.ones(gate.classes.numel(), **_precision(model)) for gate in self.gates]

    @contextmanager
    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Within the context these factors multiply activations or parameters at their places."""
        with ExitStack() as stack:
            scaled: dict[str, Tensor] = {}
            for gate, factor in zip(self.gates, tensors, strict=True):
                if gate.side == "parameter":  # a parameter that is gated in two dimensions is scaled by both gates
                    before = scaled.get(gate.where)
                    scaled[gate.where] = _times(_tensor(model, gate.where) if before is None else before, gate, factor)
                elif gate.side == "output":
                    hook = model.get_submodule(gate.where).register_forward_hook(_on_output(gate, factor))
                    stack.callback(hook.remove)
                else:
                    module = model.get_submodule(gate.where)
                    stack.callback(module.register_forward_pre_hook(_on_input(gate, factor), with_kwargs=True).remove)
            stack.enter_context(swapped(model, scaled))
            yield

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """How the factors at each place move when the gates move in this direction."""
        padded = torch.cat([direction, direction.new_zeros(1)])  # class -1 has no gate
        return [padded[gate.classes.to(direction.device)].to(**_precision(model)) for gate in self.gates]

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """Σ share · slopes for each gate, summed over its places."""
        total = torch.zeros(self.count + 1, **_precision(model))
        numbers = [torch.where(gate.classes < 0, self.count, gate.classes).to(total.device) for gate in self.gates]
        for parts, share in slopes:
            for number, part in zip(numbers, parts, strict=True):
                if part is not None:
                    total.index_add_(0, number, part, alpha=share)
        return total[:-1]


@dataclass(frozen=True, eq=False)
class Entries(Rows):
    """Which entries of which parameters belong to each class, for sums over them.

    Args:
        structure: The classes.
        like: A tensor with the model's precision and device.
        sites: Pairs of a parameter's name and the dimension in which the classes live.
    """

    structure: Structure
    like: Tensor
    sites: tuple[tuple[str, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, each once."""
        return tuple(dict.fromkeys(name for name, _ in self.sites))

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """The parameters of the given model."""
        return [model.get_parameter(name) for name in self.names]

    @contextmanager
    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Nothing to do: the parameters are in their place already."""
        yield

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """For each class Σ share · θ ∘ slope over its entries."""
        parameters = [parameter.detach() for parameter in self.leaves(model)]
        total = self.like.new_zeros(len(self.structure), dtype=_at_least_float32(self.like))
        for parts, share in slopes:
            none = torch.zeros_like
            products = [p * (none(p) if part is None else part) for p, part in zip(parameters, parts, strict=True)]
            total.add_(self.total(products), alpha=share)
        return total

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """For each class the sum over its entries of `tensors`, one for each name."""
        by_name = dict(zip(self.names, tensors, strict=True))
        total = self.like.new_zeros(len(self.structure) + 1, dtype=_at_least_float32(self.like))
        for name, dim in self.sites:
            classes = self.structure.tensors[name].classes[dim]
            assert classes is not None
            per_index = by_name[name].movedim(dim, 0).reshape(classes.numel(), -1).sum(1, dtype=total.dtype)
            total.index_add_(0, torch.where(classes < 0, len(self.structure), classes).to(total.device), per_index)
        return total[:-1]


@contextmanager
def swapped(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within the context the model has these tensors in place of its own, under every name of a shared one.

    Args:
        model: The network.
        tensors: By the name of the parameter or buffer that each replaces.
    """
    new = {id(old): tensor for name, tensor in tensors.items() if (old := _tensor(model, name)) is not tensor}
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules() if new else ():
        own = vars(module)
        for held in (module._parameters, module._buffers):
            if any(id(tensor) in new for tensor in held.values()):
                before.append((held, dict(held)))  # type: ignore[arg-type]
                # a recurrent layer keeps its own lists of its parameters
                lists = ("_flat_weights", "_flat_weight_refs")
                before.append((own, {name: own[name] for name in lists if name in own}))
    try:
        for holder, values in before:
            for name, value in values.items():
                if isinstance(value, list):
                    holder[name] = [new.get(id(one), one) for one in value]
                else:
                    holder[name] = new.get(id(value), value)
        yield
    finally:
        for holder, values in before:
            holder.update(values)


def _tensor(model: nn.Module, name: str) -> Tensor:
    """The tensor that the model has under the name of a parameter or buffer now."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    found = (module._parameters if attribute in module._parameters else module._buffers)[attribute]
    assert found is not None
    return found


def _times(tensor: Tensor, gate: Gate, factor: Tensor) -> Tensor:
    return tensor * factor.to(tensor).view([-1 if dim == gate.dim % tensor.ndim else 1 for dim in range(tensor.ndim)])


def _on_output(gate: Gate, factor: Tensor) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return _scaled(output, gate, factor)

    return hook


def _on_input(gate: Gate, factor: Tensor) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _scaled((args, kwargs), gate, factor)

    return hook


def _scaled(value: Any, gate: Gate, factor: Tensor) -> Any:
    leaves, spec = pytree.tree_flatten(value)
    item = gate.item or 0
    leaves[item] = _times(leaves[item], gate, factor)
    return pytree.tree_unflatten(leaves, spec)


def _precision(model: nn.Module) -> dict[str, Any]:
    """The dtype and device for vectors that belong to this model."""
    like = next(model.parameters())
    return {"dtype": _at_least_float32(like), "device": like.device}


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32).to_real()
