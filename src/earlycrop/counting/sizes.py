"""The sizes of a network, as it is or as a choice of channels would leave it: everything that a cost may depend on."""

from collections.abc import Iterable
from copy import copy

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from earlycrop.errors import BudgetError
from earlycrop.structure import Layer, Layout, Structure, layers_of
from earlycrop.structure.gates import Classes
from earlycrop.structure.work import Work


class Sizes:
    """The sizes of a network's layers and parameters, each computed on demand, from shapes alone.

    Args:
        model: The network.
        structure: Its classes of channels; None if it was not traced: then only shapes are known.
        embeddings: Whether embeddings are among the layers that count.
        layers: The network's layers, where there is no structure to know them; those that are modules by default.

    Attributes:
        layers: The layers that count: all that multiply activations.
        weights: The names of their weights.
        parameters: The names of all parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure | None = None,
        embeddings: bool = False,
        layers: tuple[Layer, ...] | None = None,
    ) -> None:
        self._structure = structure
        found = layers if structure is None else structure.layers
        self.layers = counted(layers_of(model) if found is None else found, embeddings)
        self.weights = frozenset(name for layer in self.layers for name in layer.weights)
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self.parameters = frozenset(self._shapes)
        self._stays: Tensor | None = None
        self._entries: dict[str, int] = {}
        self._kept: dict[int, int] = {}

    def keeping(self, keep: Bool[Tensor, "classes"]) -> "Sizes":
        """The sizes if only these classes stay."""
        smaller = copy(self)
        smaller._stays, smaller._entries, smaller._kept = torch.cat([keep, torch.tensor([True])]), {}, {}
        return smaller

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        if self._structure is None:
            return self._shapes[name]
        layout, stays = self._structure.tensors[name], self._stays
        if stays is None:
            return layout.shape
        dims = zip(layout.shape, layout.classes, strict=True)
        return tuple(size if classes is None else int(stays[classes].sum()) for size, classes in dims)

    def entries(self, name: str) -> int:
        """The number of entries of a parameter."""
        if name not in self._entries:
            size = 1
            for one in self.shape(name):
                size *= one
            self._entries[name] = size
        return self._entries[name]

    def left(self, layout: Layout) -> tuple[int, ...]:
        """The shape of an activation, of which `work` has the layout."""
        if self._stays is None:
            return layout.shape
        return tuple(
            size if classes is None else self._count(classes)
            for size, classes in zip(layout.shape, layout.classes, strict=True)
        )

    def _count(self, classes: Classes) -> int:
        if id(classes) not in self._kept:  # the layouts of a network share them
            assert self._stays is not None
            self._kept[id(classes)] = int(self._stays[classes].sum())
        return self._kept[id(classes)]

    def width(self, layer: Layer) -> int:
        """A layer's output channels, or hidden units."""
        if layer.width is None:
            return layer.channels_in(self.shape(layer.weight))
        found = self._traced.attributes.get((layer.name, layer.width, None))
        if found is None:
            return layer.channels
        return found.numel() if self._stays is None else int(self._stays[found].sum())

    @property
    def uses(self) -> tuple[tuple[str, float], ...]:
        """The multiply-adds: pairs of a weight's name and how often each of its entries is used for one example."""
        return self._traced.macs

    @property
    def work(self) -> Work:
        """What a call with the example inputs does, operator by operator, and what it keeps in memory."""
        return self._traced.work

    @property
    def spaces(self) -> Int[Tensor, "classes"]:
        """For each class the number of its space."""
        return self._traced.spaces()

    @property
    def outputs(self) -> frozenset[str]:
        """The names of the weights whose output channels are outputs of the network."""
        return self._traced.outputs

    @property
    def _traced(self) -> Structure:
        if self._structure is None:
            raise BudgetError(
                "This cost needs the network's graph, which methods for single weights do not trace: let the cost "
                "depend only on the shapes of parameters, or use a method for channels (those whose name ends in -s)."
            )
        return self._structure


def counted(layers: Iterable[Layer], embeddings: bool) -> tuple[Layer, ...]:
    """The layers whose weights count as prunable.

    Args:
        layers: All layers of a network that multiply activations.
        embeddings: Whether embeddings, whose entries are looked up and not multiplied, count too.
    """
    return tuple(layer for layer in layers if embeddings or not layer.table)
