"""Turns the labels of a finished walk into classes of channels, step by step."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from earlycrop.structure.gates import Classes, Gate, find_gates
from earlycrop.structure.labels import Axis
from earlycrop.structure.layers import layers_of
from earlycrop.structure.layout import Layout
from earlycrop.structure.products import Products
from earlycrop.structure.structure import ChannelGraph, Frozen, Structure
from earlycrop.structure.walk import OUTPUT, Walk, tensors_of
from earlycrop.structure.work import Deferred, stored_in, work_of

Key = TypeVar("Key")

ELSEWHERE = "only another call than that of the example inputs (in training, with the loss) creates these channels"


class Builder:
    """Reads the classes off a finished walk.

    Labels that were found equal share a root, and each root whose channels may leave becomes a class.

    Args:
        walk: The walk through the whole graph.
        ignored: Says for the name of a tensor whether the user keeps it whole.
        examples: The number of examples in the traced batch.
        beside: Walks through the graphs of other calls, on the same labels.
    """

    def __init__(self, walk: Walk, ignored: Callable[[str], bool], examples: int, beside: Sequence[Walk] = ()) -> None:
        self.walk, self.examples, self.beside = walk, examples, beside
        self.products = Products(walk.model, walk.program)
        self.layers = layers_of(walk.model, self.products)
        self._freeze_ignored(ignored)
        self.root = walk.labels.components()
        self.stuck = torch.zeros(walk.labels.count, dtype=torch.bool)  # roots that cannot leave
        self.reasons: dict[int, str] = {}
        self._freeze_forbidden()
        self._freeze_what_nothing_creates()
        self.number, self.count = self._numbered()
        self._known: dict[int, Classes | None] = {}

    @property
    def guessed(self) -> tuple[str, ...]:
        """The names of the modules' integers that may be sizes."""
        return tuple(sorted({name for _, name, _ in self.walk.guesses}))

    def build(self, guessed: Callable[[str], bool]) -> Structure:
        """The structure, on the assumption that some sizes in the model's code are integers of its modules.

        Args:
            guessed: Says for the name of a module's integer whether the code is assumed to take a size from it.
        """
        guesses = self._guesses(guessed)
        attributes = {**guesses, **self._own_attributes(), **self.walk.attributes}
        frozen, outputs = self._held
        gates, creating_gates = self._gates
        return Structure(
            count=self.count,
            tensors=self._tensors,
            creators=self._creators,
            gates=gates,
            creating_gates=creating_gates,
            attributes=self._where_any(attributes),
            frozen=frozen,
            layers=self.layers,
            outputs=outputs,
            macs=tuple((name, uses / self.examples) for name, uses in self._macs),
            names=self.walk.names,
            caches=tuple({c.where: c for walk in (self.walk, *self.beside) for c in walk.program.caches}.values()),
            graph=self._graph(bool(guesses)),
            deferred=self._work,
        )

    # What cannot leave ------------------------------------------------------------------------------

    def _freeze_ignored(self, ignored: Callable[[str], bool]) -> None:
        """Freeze what the user keeps whole; before labels are joined, so that all equal labels are frozen too."""
        for name, dims in self.walk.tensors.items():
            if ignored(name):
                for labels in dims:
                    self.walk.labels.freeze(labels, "kept by `ignore`")

    def _freeze_forbidden(self) -> None:
        """Freeze what some operator forbade during the walk."""
        for labels, reason in self.walk.labels.prohibitions():
            self._freeze(self.root[labels], reason)

    def _freeze_what_nothing_creates(self) -> None:
        """Freeze dimensions that are a single class, and channels that no layer's parameter creates."""
        created, elsewhere = self._created([self.walk]), self._created(self.beside)
        for name, dims in self.walk.tensors.items():
            for dim, labels in enumerate(dims):
                if labels is not None:
                    roots = self.root[labels]
                    if bool((roots == roots[0]).all()):  # without this class the dimension would be empty
                        self._freeze(roots[:1], f"all channels of {name} dim {dim} are coupled into one")
                    self._freeze(roots[~created[roots] & elsewhere[roots]], ELSEWHERE)
                    self._freeze(roots[~created[roots]], "no parameter of a layer creates these channels")

    def _created(self, walks: Iterable[Walk]) -> Tensor:
        """The roots of the channels that parameters of layers create in these walks."""
        created = torch.zeros_like(self.stuck)
        for one in (created for walk in walks for created in walk.created):
            for name, dim in one.sites:
                if (labels := self.walk.tensors[name][dim]) is not None:
                    created[self.root[labels]] = True
        return created

    def _freeze(self, roots: Tensor, reason: str) -> None:
        """Mark these roots as unable to leave; the first of several reasons counts."""
        for one in roots[~self.stuck[roots]].unique().tolist():
            self.reasons.setdefault(one, reason)
        self.stuck[roots] = True

    # From labels to classes -------------------------------------------------------------------------

    def _numbered(self) -> tuple[Tensor, int]:
        """The number of each root's class, or -1, and the number of classes."""
        removable = torch.zeros_like(self.stuck)
        for dims in self.walk.tensors.values():
            for labels in dims:
                if labels is not None:
                    removable[self.root[labels]] = True
        removable &= ~self.stuck
        count = int(removable.sum())
        number = torch.full((self.walk.labels.count,), -1)
        number[removable] = torch.arange(count)
        return number, count

    def _classes(self, labels: Tensor | None) -> Classes | None:
        """The class of each label, or None where nothing can leave."""
        if labels is None or bool(self.stuck[self.root[labels]].all()):
            return None
        return self.number[self.root[labels]]

    def _along(self, labels: Tensor | Axis | None) -> Classes | None:
        """The same, also along one axis of a grid; None if another axis of the grid is the one that may shrink."""
        if isinstance(labels, Axis):
            labels = labels.along()
            if bool((self.root[labels] == self.root[labels[0]]).all()):
                return None
            return self._classes(labels)
        if id(labels) not in self._known:  # many values pass the same labels on
            self._known[id(labels)] = self._classes(labels)
        return self._known[id(labels)]

    def _where_any(self, every: dict[Key, Tensor]) -> dict[Key, Classes]:
        """The classes of each entry, without the entries in which nothing can leave."""
        return {key: found for key, labels in every.items() if (found := self._classes(labels)) is not None}

    # Parts of the structure -------------------------------------------------------------------------

    @cached_property
    def _tensors(self) -> dict[str, Layout]:
        return {
            name: Layout(tuple(tensor.shape), tuple(self._classes(labels) for labels in self.walk.tensors[name]))
            for name, tensor in tensors_of(self.walk.model)
        }

    @property
    def _macs(self) -> Iterator[tuple[str, float]]:
        """Uses of each weight's entries, of a computed one those of the parameters that it is made of."""
        for weight, uses in self.walk.macs:
            if isinstance(weight, str):
                yield weight, uses
            else:
                yield from ((name, uses * part) for name, part in self.products.entries(weight))

    @cached_property
    def _work(self) -> Deferred:
        program, nodes, stored = self.walk.program, self._graphs[0].nodes, stored_in(self.walk.model)
        return Deferred(partial(work_of, program, stored, nodes, self.examples))

    @cached_property
    def _creators(self) -> tuple[tuple[str, int], ...]:
        parameters = {name for name, _ in self.walk.model.named_parameters()}
        sites = dict.fromkeys(site for created in self.walk.created for site in created.sites)
        return tuple((name, dim) for name, dim in sites if name in parameters)

    @cached_property
    def _gates(self) -> tuple[tuple[Gate, ...], tuple[Gate, ...]]:
        return find_gates(self.walk, self._classes)

    @cached_property
    def _held(self) -> tuple[tuple[Frozen, ...], frozenset[str]]:
        """Which channels of layers and other creators cannot leave, and which weights write the network's outputs."""
        frozen, outputs = [], set()
        for name, dim in dict.fromkeys([*((layer.weight, layer.dim) for layer in self.layers), *self._creators]):
            labels = self.walk.tensors[name][dim]
            if labels is None or not bool(self.stuck[self.root[labels]].any()):
                continue
            held = self.root[labels][self.stuck[self.root[labels]]]
            why = self.reasons[int(held[0])]
            if why == OUTPUT:
                outputs.add(name)
            else:
                frozen.append(Frozen(f"{name} dim {dim}", why, held.numel()))
        named = " ".join(one.reason for one in frozen)
        frozen += [Frozen(where, why, 0) for where, why in self.walk.unruled.items() if where not in named]
        return tuple(frozen), frozenset(outputs)

    def _guesses(self, guessed: Callable[[str], bool]) -> dict[tuple[str, str, int | None], Tensor]:
        """The modules' integers that are assumed to be the size of something that shrinks."""

        def shrinks(labels: Tensor) -> bool:
            found = self._classes(labels)
            return found is not None and len(found.unique()) > 1

        return {
            key: shrinking[0]
            for key, sizes in self.walk.guesses.items()
            if guessed(key[1]) and (shrinking := [labels for labels in sizes if shrinks(labels)])
        }

    def _own_attributes(self) -> dict[tuple[str, str, int | None], Tensor]:
        """The integers in which a layer keeps its weight's sizes, even if its own forward does not use the weight."""
        found = {}
        reads = {"out_features": "in_features", "out_channels": "in_channels"}
        for layer in self.layers:
            if layer.width is None:
                continue
            module, dims = self.walk.modules[layer.name], self.walk.tensors[layer.weight]
            for name, labels in ((layer.width, dims[layer.dim]), (reads.get(layer.width, ""), dims[1 - layer.dim])):
                if labels is not None and getattr(module, name, None) == labels.numel():
                    found[layer.name, name, None] = labels
        return found

    def _graph(self, any_guess: bool) -> ChannelGraph:
        first, *ways = [replace(graph, split=graph.split or any_guess) for graph in self._graphs]
        return replace(first, ways=tuple(ways))

    @cached_property
    def _graphs(self) -> list[ChannelGraph]:
        return [self._graph_of(walk) for walk in (self.walk, *self.beside)]

    def _graph_of(self, walk: Walk) -> ChannelGraph:
        return ChannelGraph(
            program=walk.program,
            nodes={
                node.name: tuple(self._along(labels) for labels in dims)
                for node, dims in walk.values.items()
                if isinstance(dims, list)
            },
            arguments=self._where_any(walk.arguments),
            positions={
                key: (found, start, stop)
                for key, (labels, start, stop) in walk.positions.items()
                if (found := self._classes(labels)) is not None
            },
            split=bool(walk.positions or walk.grids),
            statistics={node.name: tuple(one.over) for node, one in walk.statistics.items()},
        )
