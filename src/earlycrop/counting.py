"""What a network holds and costs: prunable weights, parameters, nodes, FLOPs; before a cut and after."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from earlycrop.structure import Layer, Structure, layers_of
from earlycrop.structure.trace import as_inputs, examples_in, weightless

Target = Literal["weight", "node", "params", "flops"]


@dataclass(frozen=True)
class Counts:
    """Sizes of a network.

    Attributes:
        prunable: Weights of convolution, linear and recurrent layers, and of embeddings where they are to count.
        params: All parameters.
        nodes: Output channels (hidden units) of the same layers, except those that make the network's output.
        flops: Floating-point operations of one forward pass for one example, 2 for a multiply-add.
    """

    prunable: int
    params: int
    nodes: int
    flops: float

    def of(self, target: Target) -> float:
        """The count that a target speaks of."""
        return (
            self.prunable if target == "weight" else {"node": self.nodes, "params": self.params}.get(target, self.flops)
        )


class Counter:
    """Counts what a cut would leave, from shapes alone.

    Only convolution, linear and matrix products with a parameter count as FLOPs.

    Args:
        structure: The classes.
        model: Whose they are.
        embeddings: Whether weights and columns of embeddings count as prunable weights and nodes.
    """

    def __init__(self, structure: Structure, model: nn.Module, embeddings: bool = False) -> None:
        self.structure = structure
        self.layers = counted(structure.layers, embeddings)
        self.weights = {name for layer in self.layers for name in layer.weights}
        self.parameters = {name for name, _ in model.named_parameters()}

    def __call__(self, keep: Bool[Tensor, "classes"] | None = None, target: Target | None = None) -> Counts:
        """The counts if only these classes stay; with a target, only that count is sure to be right."""
        if keep is None:
            keep = torch.ones(len(self.structure), dtype=torch.bool)
        stays = torch.cat([keep, torch.tensor([True])])
        needed = self.parameters if target in (None, "params") else self.weights if target != "node" else set()
        if target in (None, "flops"):
            needed = needed | {name for name, _ in self.structure.products}
        sizes = {name: self._size(name, stays) for name in needed}
        return Counts(
            prunable=sum(sizes.get(name, 0) for name in self.weights),
            params=sum(sizes.get(name, 0) for name in self.parameters),
            nodes=self._nodes(stays) if target in (None, "node") else 0,
            flops=sum(2 * uses * sizes.get(name, 0) for name, uses in self.structure.products),
        )

    def _size(self, name: str, stays: Tensor) -> int:
        layout, size = self.structure.tensors[name], 1
        for whole, classes in zip(layout.shape, layout.classes, strict=True):
            size *= whole if classes is None else int(stays[classes].sum())
        return size

    def _nodes(self, stays: Tensor) -> int:
        attributes, nodes = self.structure.attributes, 0
        for layer in self.layers:
            if layer.weight in self.structure.outputs:
                continue
            found = attributes.get((layer.name, layer.width, None))
            nodes += layer.channels if found is None else int(stays[found].sum())
        return nodes


def counted(layers: Iterable[Layer], embeddings: bool) -> tuple[Layer, ...]:
    """Those whose weights are prunable: embeddings only if they are to count."""
    return tuple(layer for layer in layers if embeddings or not layer.table)


def flops(model: nn.Module, example_inputs: object) -> float:
    """Floating-point operations of one forward pass for one example, as PyTorch's own counter sees them.

    Counted on a copy without data; nan where the model needs data to run.
    """
    inputs = pytree.tree_map_only(Tensor, lambda t: t.detach().to("meta"), as_inputs(example_inputs))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            weightless(model)(*inputs)
    except Exception:  # a count is no reason to fail
        return float("nan")
    return counter.get_total_flops() / examples_in(inputs)


def size_of(model: nn.Module, embeddings: bool = False) -> tuple[int, int]:
    """(prunable weights, all parameters) of a model."""
    weights = {name for layer in counted(layers_of(model), embeddings) for name in layer.weights}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sum(sizes[name] for name in weights), sum(sizes.values())
