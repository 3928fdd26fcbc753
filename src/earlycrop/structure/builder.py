"""From the labels of a finished walk to the classes of channels, step by step."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from earlycrop.structure.gates import Classes, Gate, find_gates
from earlycrop.structure.labels import Axis
from earlycrop.structure.layers import layers_of
from earlycrop.structure.products import Products
from earlycrop.structure.structure import ChannelGraph, Frozen, Layout, Structure
from earlycrop.structure.walk import OUTPUT, Walk, tensors_of

Key = TypeVar("Key")


class Builder:
    """Reads the classes off a finished walk.

    Labels that were found equal share a root, and each root whose channels may leave becomes a class.

    Args:
        walk: The walk through the whole graph.
        ignored: Whether the user keeps this tensor whole.
        examples: How many examples the traced batch has.
    """

    def __init__(self, walk: Walk, ignored: Callable[[str], bool], examples: int) -> None:
        self.walk, self.examples = walk, examples
        self.products = Products(walk.model, walk.program)
        self.layers = layers_of(walk.model, self.products)
        self._freeze_ignored(ignored)
        self.root = walk.labels.components()
        self.stuck = torch.zeros(walk.labels.count, dtype=torch.bool)  # of roots: cannot leave
        self.reasons: dict[int, str] = {}
        self._freeze_forbidden()
        self._freeze_what_nothing_creates()
        self.number, self.count = self._numbered()

    def build(self, guessed: Callable[[str], bool]) -> Structure:
        """The structure, in which some sizes in the model's code are taken for integers of its modules.

        Args:
            guessed: Whether an integer of a module, by its name, is taken for the size of what its code splits.
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
            graph=self._graph(bool(guesses)),
        )

    # What cannot leave ------------------------------------------------------------------------------

    def _freeze_ignored(self, ignored: Callable[[str], bool]) -> None:
        """Forbid what the user keeps whole; before labels are joined, so that it holds for all that are equal."""
        for name, dims in self.walk.tensors.items():
            if ignored(name):
                for labels in dims:
                    self.walk.labels.freeze(labels, "kept by `ignore`")

    def _freeze_forbidden(self) -> None:
        """What some operator forbade on the way."""
        for labels, reason in self.walk.labels.prohibitions():
            self._freeze(self.root[labels], reason)

    def _freeze_what_nothing_creates(self) -> None:
        """Dimensions that are a single class, and channels that no layer's parameter creates."""
        created = torch.zeros_like(self.stuck)
        for one in self.walk.created:
            for name, dim in one.sites:
                if (labels := self.walk.tensors[name][dim]) is not None:
                    created[self.root[labels]] = True
        for name, dims in self.walk.tensors.items():
            for dim, labels in enumerate(dims):
                if labels is not None:
                    roots = self.root[labels]
                    if bool((roots == roots[0]).all()):
                        self._freeze(roots[:1], f"all channels of {name} dim {dim} are coupled into one")
                    self._freeze(roots[~created[roots]], "no parameter of a layer creates these channels")

    def _freeze(self, roots: Tensor, reason: str) -> None:
        """These roots cannot leave; of several reasons the first counts."""
        for one in roots[~self.stuck[roots]].unique().tolist():
            self.reasons.setdefault(one, reason)
        self.stuck[roots] = True

    # From labels to classes -------------------------------------------------------------------------

    def _numbered(self) -> tuple[Tensor, int]:
        """For each root the number of its class, or -1; and how many there are."""
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
        """The same along one axis of a grid; None where another axis of it may shrink and this one cannot."""
        if isinstance(labels, Axis):
            labels = labels.along()
            if bool((self.root[labels] == self.root[labels[0]]).all()):
                return None
        return self._classes(labels)

    def _where_any(self, every: dict[Key, Tensor]) -> dict[Key, Classes]:
        """The classes of each of these, without those in which nothing can leave."""
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
    def _creators(self) -> tuple[tuple[str, int], ...]:
        parameters = {name for name, _ in self.walk.model.named_parameters()}
        sites = dict.fromkeys(site for created in self.walk.created for site in created.sites)
        return tuple((name, dim) for name, dim in sites if name in parameters)

    @cached_property
    def _gates(self) -> tuple[tuple[Gate, ...], tuple[Gate, ...]]:
        return find_gates(self.walk, self._classes)

    @cached_property
    def _held(self) -> tuple[tuple[Frozen, ...], frozenset[str]]:
        """What cannot leave of the layers and of all that creates, and which of it are the network's outputs."""
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
        """The integers of modules that are taken for the size of something that shrinks."""

        def shrinks(labels: Tensor) -> bool:
            found = self._classes(labels)
            return found is not None and len(found.unique()) > 1

        return {
            key: shrinking[0]
            for key, sizes in self.walk.guesses.items()
            if guessed(key[1]) and (shrinking := [labels for labels in sizes if shrinks(labels)])
        }

    def _own_attributes(self) -> dict[tuple[str, str, int | None], Tensor]:
        """The integers in which a layer keeps its weight's sizes, also where it does not use the weight itself."""
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
        walk = self.walk
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
            split=bool(walk.positions or walk.grids or any_guess),
        )
