"""Trial cuts: channels leave a copy without data, which then must do what the labels promise."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.duplicates import HOOKS, OWN
from earlycrop.structure.following import Promised, Promises, follow, operators
from earlycrop.structure.graph import shape_of
from earlycrop.structure.origins import origins
from earlycrop.structure.structure import ChannelGraph, Structure
from earlycrop.structure.surgery import remembered, remove
from earlycrop.structure.trace import Program

CONTAINERS = (dict, list, set)
"""What a model's code may fill."""


@dataclass(frozen=True, eq=False)
class Fault:
    """Where a cut copy does not do what the labels promise.

    Attributes:
        node: The operator of the dense graph; None if it is not known.
        blamed: The spaces whose channels it reads or makes, or that the numbers among its arguments count.
    """

    node: Node | None
    blamed: frozenset[int]


@dataclass
class Copies:
    """Copies of a model without data, each cut again and again: made once, and put back after each cut.

    Attributes:
        model: The model.
        progress: Is called before every trial cut, with a line that describes it.
    """

    model: nn.Module
    progress: Callable[[str], None] = lambda _: None
    _made: dict[int, tuple[nn.Module, Callable[[], None]]] = field(default_factory=dict)

    def of(self, program: Program) -> tuple[nn.Module, Callable[[], None]]:
        """A copy to run for this graph, and what puts it back; a new one if calls leave something in the model."""
        if program.caches:
            return program.copy_of(self.model), lambda: None
        if id(program) not in self._made:
            copy = program.copy_of(self.model)
            self._made[id(program)] = copy, _as_new(copy)
        return self._made[id(program)]


def _as_new(copy: nn.Module) -> Callable[[], None]:
    """A function that undoes a cut, and what a call of the model's code adds: attributes, hooks, entries of containers.

    A model may register hooks in its first call, and note in an attribute that it has them.
    """
    put_back = remembered(copy)
    names = [(vars(module), set(vars(module))) for module in copy.modules()]
    held = [
        one
        for attributes, _ in names
        for key, one in attributes.items()
        if key in HOOKS or (key not in OWN and type(one) in CONTAINERS)
    ]
    contents = [(one, type(one)(one)) for one in held]

    def undo() -> None:
        put_back()
        for attributes, known in names:
            for name in attributes.keys() - known:
                del attributes[name]
        for container, content in contents:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)

    return undo


class Attempts:
    """The trial cuts of one structure.

    Args:
        structure: The classes, with their graph.
        copies: Copies of the model.
    """

    def __init__(self, structure: Structure, copies: Copies) -> None:
        assert structure.graph is not None
        self.structure, self.copies = structure, copies
        self.ways: tuple[ChannelGraph, ...] = (structure.graph, *structure.graph.ways)
        # where sizes were assumed to be integers of a module, or channels are split, two different cuts must pass
        self.seeds = range(2 if any(way.split for way in self.ways) else 1)

    def passes(self, spaces: Sequence[int]) -> bool:
        """Whether the model still computes the same graph after some classes of each of these spaces have left."""
        return not any(self.faults(spaces, seed, goes_on=False) for seed in self.seeds)

    def faults(self, spaces: Sequence[int], seed: int, goes_on: bool = True) -> list[Fault]:
        """Where one random cut of these spaces gives another graph than the labels predict: everywhere, or the first.

        Args:
            spaces: The spaces from which classes leave.
            seed: Of the random numbers.
            goes_on: Whether to look for every place, and for what is to blame there.
        """
        self.copies.progress(f"a trial cut of {len(spaces)} groups of channels that leave independently")
        keep = some(self.structure, spaces, seed)
        found: list[Fault] = []
        for number, way in enumerate(self.ways if not bool(keep.all()) else ()):
            nodes = self._differing(number, way, keep, goes_on)
            found += [Fault(node, self._blamed(number, node) if goes_on else frozenset()) for node in nodes]
            if found and not goes_on:
                break
        return found

    @cached_property
    def _promises(self) -> list[Promises]:
        spaces = self.structure.spaces()
        return [Promises(way, spaces) for way in self.ways]

    @cached_property
    def _origins(self) -> list[dict[Node, frozenset[int]]]:
        found = []
        for way, promises in zip(self.ways, self._promises, strict=True):
            found.append({})
            if way.program.tracing == "recorded":
                copy, put_back = self.copies.of(way.program)
                try:
                    dense = promises.after(torch.ones(len(self.structure), dtype=torch.bool))
                    found[-1] = origins(self.structure, way.program, copy, dense)
                finally:
                    put_back()
        return found

    def _blamed(self, number: int, node: Node | None) -> frozenset[int]:
        if node is None:
            return frozenset()
        return self._promises[number].spaces_of(node) | self._origins[number].get(node, frozenset())

    def _differing(self, number: int, way: ChannelGraph, keep: Tensor, goes_on: bool) -> Sequence[Node | None]:
        """The operators of one call's graph that differ when these classes have left."""
        program, promised = way.program, self._promises[number].after(keep)
        copy, put_back = self.copies.of(program)
        try:
            remove(self.structure, copy, keep, None)
            if program.tracing == "recorded":
                return follow(program, copy, promised, goes_on)
            return _compared(program, program.again(copy), promised)
        except Exception:  # whatever it raises, the cut copy does not run
            return [None]
        finally:
            put_back()


def _compared(program: Program, again: Program, promised: Promised) -> list[Node | None]:
    """The first operator of the graph that differs in that of a cut copy."""
    before, after = operators(program), operators(again)
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        size = shape_of(new.args[0]) if new.args and isinstance(new.args[0], Node) and _is_tensor(new.args[0]) else None
        shape = promised.shape(old)
        if (
            old.target != new.target  # the code took another branch
            or (shape is not None and shape_of(new) != shape)
            or not promised.takes(number, new.args, new.kwargs, size)
        ):
            return [old]
    return [] if len(before) == len(after) else [None]


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def some(structure: Structure, spaces: Iterable[int], seed: int) -> Tensor:
    """Which classes stay when a random part of each of these spaces leaves, without emptying any dimension.

    The parts differ in size, so that no ratio of two sizes stays the same by accident; and with the second seed every
    part has another size than with the first (from two classes none may leave then), so that none does so twice.

    Args:
        structure: The classes.
        spaces: The spaces.
        seed: 0 or 1.
    """
    membership = structure.spaces()
    sizes, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    keep = torch.ones(len(structure), dtype=torch.bool)
    for space in spaces:
        inside = (membership == space).nonzero().flatten()
        first, shift = torch.randint(1, max(len(inside), 2), (2,), generator=sizes).tolist()
        count = first if len(inside) == 1 else (first + seed * shift) % len(inside)
        keep[inside[torch.randperm(len(inside), generator=generator)[:count]]] = False
    return unemptied(structure, keep)


def unemptied(structure: Structure, keep: Tensor) -> Tensor:
    """The same choice, in which one class stays of every dimension that it would empty.

    Args:
        structure: The classes.
        keep: True for each class that is to stay; changed in place.
    """
    for _, _, classes in structure.dimensions():
        if bool((classes >= 0).all()) and not bool(keep[classes].any()):
            keep[classes[0]] = True
    return keep
