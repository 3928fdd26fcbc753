"""Classes of coupled channels: what a model's channels are, which of them may leave, and where they live."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from earlycrop.structure.caches import Cache
from earlycrop.structure.gates import Classes, Gate
from earlycrop.structure.layers import Layer
from earlycrop.structure.layout import Layout
from earlycrop.structure.renumbering import LEFT, STAYS, Renumbering
from earlycrop.structure.trace import Program
from earlycrop.structure.walk import Site
from earlycrop.structure.work import Deferred, Work


@dataclass(frozen=True)
class Member:
    """The entries along one dimension of a parameter or buffer that belong to a class.

    Attributes:
        tensor: The name of the parameter or buffer.
        dim: The dimension.
        index: The positions along it.
    """

    tensor: str
    dim: int
    index: Int[Tensor, "_"]


@dataclass(frozen=True)
class ChannelClass:
    """Channels that can only leave together, and every place where they live.

    Attributes:
        members: The places.
    """

    members: tuple[Member, ...]


@dataclass(frozen=True)
class Frozen:
    """A dimension with channels that cannot leave, their number, and the reason.

    Attributes:
        where: The tensor and its dimension.
        reason: Why they cannot leave.
        channels: Their number; 0 if it is not known.
    """

    where: str
    reason: str
    channels: int

    def __str__(self) -> str:
        channels = f" ({self.channels} channels)" if self.channels else ""
        return f"{self.where}{channels}: {self.reason}"


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The exported graph in which a structure was found, and the classes of the values in it.

    A cut makes the graph stale, since the sizes in it are literal numbers.

    Attributes:
        program: The graph.
        nodes: For each node, by name, the classes along each dimension of its value.
        arguments: For a node with an integer argument that counts classes (the groups of a convolution), these classes.
        positions: For each slice of channels, the classes of what is sliced, and where the slice starts and stops.
        statistics: For each node that takes a statistic for a norm that is written out, its dimensions of channels.
        split: Whether channels are split by positions or by guessed sizes: a single trial cut might then succeed by
            accident.
        ways: The graphs of other calls of the model, for the trial.
    """

    program: Program
    nodes: dict[str, tuple[Classes | None, ...]]
    arguments: dict[str, Classes]
    positions: dict[str, tuple[Classes, int, int]]
    split: bool
    statistics: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ways: tuple["ChannelGraph", ...] = ()

    def renumbered(self, number: Renumbering) -> "ChannelGraph":
        """The same graph with the classes renumbered; none of them may have left."""
        return replace(
            self,
            nodes={name: number.dims(dims) for name, dims in self.nodes.items()},
            arguments={name: number(classes) for name, classes in self.arguments.items()},
            positions={name: (number(one), start, stop) for name, (one, start, stop) in self.positions.items()},
            ways=tuple(way.renumbered(number) for way in self.ways),
        )


@dataclass(frozen=True)
class Structure:
    """All removable classes of a model's channels, found in its exported graph.

    Attributes:
        count: The number of classes.
        tensors: The layout of each parameter and buffer, by name.
        creators: Parameter dimensions (and biases) that create channels.
        gates: Where the classes' gates multiply: behind the norms that directly follow creators.
        creating_gates: The same, but on the creators themselves, before these norms.
        attributes: Maps module integers that count channels, as (module, attribute, position or None), to classes.
        frozen: What cannot leave, and why.
        layers: Every layer: whatever multiplies activations, and embeddings.
        outputs: Weights whose output channels are outputs of the network and so do not count in node sparsity.
        macs: Multiply-adds, as pairs (weight, times that each of its entries is used for one example).
        names: Maps every name of a tensor to its name in `tensors` (they differ where weights are tied).
        graph: The graph in which all this was found; None after a cut.
        caches: Attributes of modules that a cut empties.
        doubtful: Whether some parameter is used in no call that was traced, or a call could not be traced: what it
            reads is not known.
        deferred: What a call of the model does, and what it keeps in memory: see `work`.
    """

    count: int
    tensors: dict[str, Layout]
    creators: tuple[Site, ...]
    gates: tuple[Gate, ...]
    creating_gates: tuple[Gate, ...]
    attributes: dict[tuple[str, str, int | None], Classes]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    outputs: frozenset[str]
    macs: tuple[tuple[str, float], ...]
    names: dict[str, str]
    graph: ChannelGraph | None = field(default=None, repr=False, compare=False)
    caches: tuple[Cache, ...] = field(default=(), repr=False, compare=False)
    doubtful: bool = False
    deferred: Deferred = field(default_factory=Deferred, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    @property
    def work(self) -> Work:
        """What a call of the model with the example inputs does, and what it keeps in memory."""
        return self.deferred()

    @property
    def classes(self) -> list[ChannelClass]:
        """Every class with its members, in the order of its number."""
        members: list[list[Member]] = [[] for _ in range(self.count)]
        for name, dim, classes in self.dimensions():
            order = torch.argsort(classes, stable=True)
            numbers, sizes = torch.unique_consecutive(classes[order], return_counts=True)
            for number, index in zip(numbers.tolist(), order.split(sizes.tolist()), strict=True):
                if number >= 0:
                    members[number].append(Member(name, dim, index))
        return [ChannelClass(tuple(found)) for found in members]

    def dimensions(self) -> Iterator[tuple[str, int, Classes]]:
        """Every tensor dimension in which something may leave: name, dimension, class per index."""
        for name, layout in self.tensors.items():
            for dim, classes in enumerate(layout.classes):
                if classes is not None:
                    yield name, dim, classes

    def with_graph_of(self, found: "Structure") -> "Structure":
        """These classes with the graph of a new trace of the model, or unchanged if that trace finds other classes.

        The last class of a dimension can no longer leave, so a trace does not find it.
        """
        stays = torch.zeros(self.count + 1, dtype=torch.bool)
        for _, _, classes in self.dimensions():
            if bool((classes == classes[0]).all()):
                stays[classes[0]] = True
        stays[-1] = True
        number = torch.full((found.count + 1,), STAYS)  # for each class of `found`, its number here
        pairs = []
        for name, layout in self.tensors.items():
            for size, mine, theirs in zip(layout.shape, layout.classes, found.tensors[name].classes, strict=True):
                mine, theirs = (torch.full((size,), -1) if one is None else one for one in (mine, theirs))
                pairs.append((torch.where(stays[mine], -1, mine), theirs))
        for mine, theirs in pairs:
            number[theirs] = mine
        number[-1] = STAYS
        if found.graph is None or not all(torch.equal(number[theirs], mine) for mine, theirs in pairs):
            return self
        return replace(self, graph=found.graph.renumbered(Renumbering(number)))

    def after(self, keep: Bool[Tensor, "classes"]) -> "Structure":
        """The structure of the model after the classes outside `keep` have left; it has no graph."""
        return replace(self._renumbered(Renumbering.keeping(keep, LEFT)), count=int(keep.sum()), graph=None)

    def without(self, classes: Bool[Tensor, "classes"], reason: str) -> "Structure":
        """The same structure with these classes frozen too.

        Args:
            classes: True for each class that is to stay from now on.
            reason: Why, as `frozen` will report it.
        """
        number = Renumbering.keeping(~classes, STAYS)
        frozen = [
            Frozen(f"{name} dim {dim}", reason, int(stuck.sum()))
            for name, dim, old in self.dimensions()
            if (name, dim) in self.creators and bool((stuck := (old >= 0) & (number.table[old] < 0)).any())
        ]
        return replace(
            self._renumbered(number),
            count=int((~classes).sum()),
            graph=None if self.graph is None else self.graph.renumbered(number),
            frozen=(*self.frozen, *frozen),
        )

    def alone(self) -> "Structure":
        """The same structure without the graphs of other calls, which only a trial needs."""
        return self if self.graph is None else replace(self, graph=replace(self.graph, ways=()))

    def _renumbered(self, number: Renumbering) -> "Structure":
        """All but the graph with the classes renumbered; layers get the width that is left of them."""
        attributes = {key: number(classes) for key, classes in self.attributes.items()}
        widths = {(path, name): len(classes) for (path, name, _), classes in attributes.items()}
        tensors = {name: layout.renumbered(number) for name, layout in self.tensors.items()}

        def width(layer: Layer) -> int:
            if layer.width is None:
                return layer.channels_in(tensors[layer.weight].shape)
            return widths.get((layer.name, layer.width), layer.channels)

        return replace(
            self,
            tensors=tensors,
            gates=number.gates(self.gates),
            creating_gates=number.gates(self.creating_gates),
            attributes=attributes,
            layers=tuple(replace(layer, channels=width(layer)) for layer in self.layers),
            deferred=self.deferred.renumbered(number),
        )

    def removable(self) -> int:
        """The number of entries of parameters and buffers that leave if all classes do."""
        left = 0
        for layout in self.tensors.values():
            sizes = zip(layout.shape, layout.classes, strict=True)
            left += prod(layout.shape) - prod(n if one is None else int((one < 0).sum()) for n, one in sizes)
        return left

    def index(self, name: str, keep: Bool[Tensor, "classes"]) -> list[Int[Tensor, "_"] | None]:
        """For each dimension of a tensor, the indices that stay, or None where all stay.

        Args:
            name: The parameter or buffer.
            keep: True for each class that stays.
        """
        stays = torch.cat([keep, torch.tensor([True])])
        found: list[Tensor | None] = []
        for classes in self.tensors[name].classes:
            kept = None if classes is None else stays[classes]
            found.append(None if kept is None or bool(kept.all()) else kept.nonzero().flatten())
        return found

    def spaces(self) -> Int[Tensor, "classes"]:
        """For each class the number of its space: classes of one space live in the same tensor dimensions.

        The channels of a layer are one space, and so are those of a whole residual stream.
        """
        return self._spaces

    @cached_property
    def _spaces(self) -> Int[Tensor, "classes"]:
        key = torch.zeros(self.count + 1, dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        for _, _, classes in self.dimensions():
            # a hash of the set of dimensions; a class that occurs several times in one gets the same number each time
            key[classes] = key[classes] + torch.randint(2**62, (1,), generator=generator)
        return torch.unique(key[:-1], return_inverse=True)[1]
