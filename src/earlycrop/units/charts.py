"""From one vector to the model's parameters: weights as they are, or gates that scale them.

A gate c = 1 on the output of a layer is linear in the parameters that make that output (filter and bias,
or scale and shift of the norm behind it): c scales them. So derivatives with respect to gates are sums of
θ ∘ (derivatives with respect to θ), and no module has to be touched.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from earlycrop.structure import Structure

Vector = Float[Tensor, "units"]


@dataclass(frozen=True, eq=False)
class WeightChart:
    """The vector of all entries of some parameters; entries that have left are zero and have no slope.

    Args:
        model: Where the values are.
        names: The parameters.
        alive: Which entries have not left; None if all.
    """

    model: nn.Module
    names: tuple[str, ...]
    alive: Bool[Tensor, "units"] | None = None

    @property
    def values(self) -> Vector:
        """θ, flat."""
        return self.total([parameter.detach() for parameter in self.parameters(self.model)])

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The parameters, in the model that is given."""
        return [model.get_parameter(name) for name in self.names]

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """The flat vector in the parameters' shapes."""
        parameters = self.parameters(model)
        parts = (direction if self.alive is None else direction * self.alive).split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    def pull(self, model: nn.Module, slopes: Sequence[Tensor]) -> Vector:
        """The slopes, flat."""
        return self.total(slopes)

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """Per unit the sum of its entries; a weight has one."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        return flat if self.alive is None else flat * self.alive


@dataclass(frozen=True, eq=False)
class GateChart:
    """One gate of value 1 per class, which scales the class's entries in the dimensions `sites`.

    Args:
        structure: The classes.
        sites: Parameter dimensions that a gate scales.
        like: A tensor of the vector's type and device.
    """

    structure: Structure
    sites: tuple[tuple[str, int], ...]
    like: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that gates scale."""
        return tuple(dict.fromkeys(name for name, _ in self._used()))

    @property
    def values(self) -> Vector:
        """Ones."""
        return torch.ones(len(self.structure), dtype=self.like.dtype, device=self.like.device)

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The parameters, in the model that is given."""
        return [model.get_parameter(name) for name in self.names]

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """θ ∘ (the gates' move, along the channels)."""
        moves = {name: torch.zeros_like(p) for name, p in zip(self.names, self.parameters(model), strict=True)}
        for name, dim in self._used():
            parameter = model.get_parameter(name).detach()
            padded = torch.cat([direction, direction.new_zeros(1)])  # class -1 has no gate
            per_index = padded[self._classes(name, dim).to(direction.device)].to(parameter)
            moves[name] += parameter * per_index.view([-1 if d == dim else 1 for d in range(parameter.ndim)])
        return list(moves.values())

    def pull(self, model: nn.Module, slopes: Sequence[Tensor]) -> Vector:
        """Σ θ ∘ slope over the entries that each gate scales."""
        return self.total([p.detach() * s for p, s in zip(self.parameters(model), slopes, strict=True)])

    def total(self, tensors: Sequence[Tensor]) -> Vector:
        """Per class the sum over the entries that its gate scales, given one tensor per name."""
        by_name = dict(zip(self.names, tensors, strict=True))
        first = tensors[0] if tensors else self.like
        total = torch.zeros(len(self.structure) + 1, dtype=first.dtype, device=first.device)
        for name, dim in self._used():
            classes = self._classes(name, dim)
            per_index = by_name[name].movedim(dim, 0).reshape(classes.numel(), -1).sum(1)
            total.index_add_(0, torch.where(classes < 0, len(self.structure), classes).to(first.device), per_index)
        return total[:-1]

    def _used(self) -> Iterable[tuple[str, int]]:
        return (site for site in self.sites if self.structure.tensors[site[0]].classes[site[1]] is not None)

    def _classes(self, name: str, dim: int) -> Tensor:
        classes = self.structure.tensors[name].classes[dim]
        assert classes is not None
        return classes
