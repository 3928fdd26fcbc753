"""What a walk through the exported graph knows, and the few words in which rules are written."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.graph import argument, before, shape_of, tensor_nodes, unlabelled
from earlycrop.structure.labels import Axis, Dims, Grid, Labels
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.trace import Program, module_of

Site = tuple[str, int]
"""A dimension of a parameter or buffer: its name and the number of the dimension."""


Side = Literal["output", "input", "parameter"]

OUTPUT = "an output of the network"
"""Why logits cannot leave."""


class Place(NamedTuple):
    """Where a gate multiplies: a module's output or input (by path), or a tensor (by name), along a dimension.

    `item` says which tensor, if the module takes or returns several (counted through nested tuples).
    """

    where: str
    side: Side
    dim: int
    labels: Tensor
    item: int | None = None


@dataclass(frozen=True)
class Created:
    """Where channels come into being: an operator and the dimensions of parameters and buffers that write them.

    `gates` are the places that together scale these channels once on every path; without any they are found from
    the graph.
    """

    node: Node
    sites: tuple[Site, ...]
    gates: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Read:
    """Where channels are read: a parameter dimension (None: one computed) that is multiplied by them, and summed."""

    node: Node
    site: Site | None
    labels: Tensor


@dataclass
class Walk:
    """The labels of every value in the graph, and all that the rules noted on the way."""

    model: nn.Module
    program: Program
    labels: Labels = field(default_factory=Labels)
    values: dict[Node, Any] = field(default_factory=dict)
    tensors: dict[str, list[Tensor | None]] = field(default_factory=dict)
    origin: dict[Node, str] = field(default_factory=dict)
    made: set[Node] = field(default_factory=set)
    parametric: int = 0
    created: list[Created] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    recreated: list[Tensor] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    spread: list[Tensor] = field(default_factory=list)
    norms: dict[Node, tuple[Site, ...]] = field(default_factory=dict)
    attributes: dict[tuple[str, str, int | None], Tensor] = field(default_factory=dict)
    guesses: dict[tuple[str, str, int | None], list[Tensor]] = field(default_factory=dict)
    arguments: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, tuple[Tensor, int, int]] = field(default_factory=dict)
    macs: list[tuple[str | Node, int]] = field(default_factory=list)
    unruled: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))
        self.names = canonical_names(self.model)

    # What rules are made of -------------------------------------------------------------------------

    def raw(self, node: Any) -> Dims:
        """The labels of a tensor argument, grids of labels among them."""
        value = self.values.get(node)
        return value if isinstance(value, list) else unlabelled(node)

    def dims(self, node: Any) -> list[Any]:
        """The labels of a tensor argument, dimension by dimension: of each grid the first axis is left, others are
        fixed."""
        dims = self.raw(node)
        later = [d for d, one in enumerate(dims) if isinstance(one, Axis) and d != _places(dims, one.grid)[0]]
        self.fix(node, later)
        return self.raw(node)

    def fix(self, node: Any, dims: Iterable[int]) -> None:
        """These dimensions of a value cannot shrink where they are axes of a grid: what varies along them is one."""
        if isinstance(value := self.values.get(node), list):
            self.values[node] = self.fixed(value, dims)

    def fixed(self, dims: Dims, among: Iterable[int]) -> Dims:
        """The labels of a value in which these dimensions, where they are axes of a grid, cannot shrink."""
        among = {d % len(dims) for d in among}
        result = list(dims)
        for grid in {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values():
            places = _places(dims, grid)
            if among.isdisjoint(places):
                continue
            # Entries along a fixed axis are one: they leave together, and its first index speaks for all of them.
            labels = grid.labels.permute([dims[d].axis for d in places])  # type: ignore[union-attr]
            for axis, d in enumerate(places):
                if d in among:
                    self.labels.unite(labels, labels.narrow(axis, 0, 1))
                    labels = labels.narrow(axis, 0, 1)
            if among.issuperset(places):
                self.labels.freeze(grid.labels, "no dimension of a grid of channels can shrink")
            for d, one in zip(places, self.arrange(labels), strict=True):
                result[d] = one
        return result

    def arrange(self, labels: Tensor) -> Dims:
        """The labels of a value of any shape: along one dimension, or in a grid along those where they vary."""
        varying = [k for k in range(labels.ndim) if not bool((labels == labels.narrow(k, 0, 1)).all())]
        result: Dims = [None] * labels.ndim
        plain = labels
        for k in reversed(range(labels.ndim)):
            if k not in varying:
                plain = plain.select(k, 0)
        if len(varying) == 1:
            result[varying[0]] = plain.clone()
        elif varying:
            self.grids.append(grid := Grid(plain))
            for axis, k in enumerate(varying):
                result[k] = Axis(grid, axis)
        return result

    def freeze(self, node: Node, reason: str, dims: Iterable[int] | None = None) -> None:
        """Nothing that this value is labelled with may leave at all, or along `dims`, which an operator mixes."""
        if dims is not None:
            dims = list(dims)
            self.fix(node, dims)
        value = self.values.get(node)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, list):
                for one in part if dims is None else [part[d] for d in dims]:
                    self.labels.freeze(one.grid.labels if isinstance(one, Axis) else one, reason)

    def align(self, values: list[tuple[Dims, tuple[int, ...]]], skip: int | None = None) -> list[Dims]:
        """The labels of values that are combined entry by entry, grids brought to the same axes.

        Args:
            values: Labels and shapes, broadcast from the last dimension on.
            skip: A dimension in which they are not combined.
        """
        ndim = max(len(shape) for _, shape in values)
        every: list[Dims] = [[None] * (ndim - len(dims)) + list(dims) for dims, _ in values]
        sizes = [(1,) * (ndim - len(shape)) + shape for _, shape in values]
        # To fix an axis of one value may leave it unlike another, so this goes on until all fit. It ends, for each
        # time there is an axis less.
        while True:
            for number, dims in enumerate(every):
                if fix := self._misfits(number, every, sizes, skip):
                    every[number] = self.fixed(dims, fix)
                    break
            else:
                break
        first: dict[tuple[int, ...], Tensor] = {}
        for dims in every:
            for grid in {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values():
                places = _places(dims, grid)
                labels = grid.labels.permute([dims[d].axis for d in places])  # type: ignore[union-attr]
                if skip not in places:  # by now, values that share dimensions have grids over the same ones
                    self.labels.unite(first.setdefault(tuple(places), labels), labels)
        return [dims[ndim - len(own) :] for dims, (own, _) in zip(every, values, strict=True)]

    def _misfits(self, number: int, every: list[Dims], sizes: list[tuple[int, ...]], skip: int | None) -> list[int]:
        """Axes of this value's grids that another value, combined with it, does not have."""
        dims = every[number]
        for grid in {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values():
            places = _places(dims, grid)
            if skip in places:  # along it the values lie side by side, and each has its own labels
                return [skip]  # type: ignore[list-item]
            for other, size in zip(every, sizes, strict=True):
                common = [d for d in places if size[d] > 1]
                if other is dims or not common:
                    continue
                if fixed := [d for d in common if other[d] is None]:  # the other cannot shrink there
                    return fixed
                # the other has channels along one axis only; that of a parameter decides, for a layer made it
                if vectors := [d for d in common if not isinstance(other[d], Axis)]:
                    made = next((d for d in vectors if self._of_parameters(other[d])), None)
                    kept = places[0] if made is None else made
                    return [d for d in places if d != kept]
                theirs = _places(other, other[common[0]].grid)  # type: ignore[union-attr]
                if fixed := [d for d in places if d not in theirs]:
                    return fixed
        return []

    def tie(self, a: Tensor | None, b: Tensor | None, reason: str) -> Tensor | None:
        """Two dimensions are one; if one of them cannot shrink, neither can the other."""
        if a is None or b is None or a.numel() != b.numel():
            self.labels.freeze(a, reason)
            self.labels.freeze(b, reason)
        else:
            self.labels.unite(a, b)
        return a if a is not None else b

    def of_parameters(self, node: Node) -> bool:
        """Whether some of the labels of a value are those of parameters, rather than of buffers or constants."""
        value = self.values.get(node)
        parts = value if isinstance(value, tuple) else (value,)
        return any(self._of_parameters(one) for dims in parts if isinstance(dims, list) for one in dims)

    def _of_parameters(self, labels: Tensor | Axis | None) -> bool:
        labels = labels.grid.labels if isinstance(labels, Axis) else labels
        return labels is not None and bool((labels < self.parametric).any())

    def create(self, node: Node, *sites: tuple[Any, int], gates: tuple[Place, ...] = ()) -> None:
        """Note that `node` creates channels with these parameters or buffers, or with what is computed from them."""
        named = tuple(site for arg, dim in sites for site in self.sites_of(arg, dim))
        if named:
            self.created.append(Created(node, named, gates))

    def sites_of(self, arg: Any, dim: int) -> list[Site]:
        """The dimensions of parameters and buffers that a dimension of an argument comes from."""
        if not isinstance(arg, Node):
            return []
        if arg in self.origin:
            return [(self.origin[arg], dim)]
        labels = self.raw(arg)[dim]
        if not isinstance(labels, Tensor) or arg not in self.made:
            return []
        for one in before(arg):  # all terms of a sum; of a product the factor whose labels it has, which scales it
            labels = torch.cat([labels, *self._beside(one, labels)])
        return [
            (name, d)
            for name, dims in upstream(self, arg)
            for d, one in enumerate(dims)
            if one is not None and bool(torch.isin(one, labels).any())
        ]

    def _beside(self, node: Node, labels: Tensor) -> list[Tensor]:
        """Of a sum or a concatenation: what its operands have in the dimension where one of them has these labels."""
        kind = operator_of(node).kind
        if not kind.joins:
            return []
        every = [self.raw(one) for one in tensor_nodes(node.args) if isinstance(one.meta.get("val"), Tensor)]
        skip = argument(node, 1, "dim", 0) if kind is Kind.CONCATENATES else None
        found: list[Tensor] = []
        ndim = max(map(len, every))
        for dim in range(-ndim, 0):
            parts = [one for dims in every if len(dims) >= -dim and isinstance(one := dims[dim], Tensor)]
            if skip not in (dim, dim + ndim) and any(bool(torch.isin(one, labels).any()) for one in parts):
                found += parts
        return found

    def read(self, node: Node, weight: Any, dim: int, labels: Tensor | None) -> None:
        """Note that a parameter's entries along `dim`, or those of what is computed from it, read these channels."""
        if labels is None:
            return
        if weight in self.origin:
            self.reads.append(Read(node, (self.origin[weight], dim % len(shape_of(weight))), labels))
        elif weight in self.made:
            self.reads.append(Read(node, None, labels))

    def count(self, weight: Any, uses: int) -> None:
        """Each entry of a parameter, or of what is computed from some, takes part in `uses` multiply-adds."""
        if weight in self.origin:
            self.macs.append((self.origin[weight], uses))
        elif weight in self.made:
            self.macs.append((weight, uses))

    def attribute(self, node: Node, name: str, labels: Tensor | None, index: int | None = None) -> None:
        """An integer of the module that ran `node` counts these labels."""
        if labels is None:
            return
        path = module_of(node)
        module = self.modules.get(path)
        value = getattr(module, name, None)
        if index is not None and isinstance(value, tuple | list):
            value = value[index]
        if isinstance(value, int) and value == labels.numel():
            self.attributes[path, name, index] = labels

    def guess(self, node: Node, labels: Tensor | Axis | None) -> None:
        """A size in the code of a module may come from an integer of it that happens to be as large."""
        if isinstance(labels, Axis):
            labels = labels.along()
        path = module_of(node)
        module = self.modules.get(path)
        if (
            labels is None or module is None or isinstance(module, nn.MultiheadAttention)
        ):  # whose sizes are its weights'
            return
        for name, value in vars(module).items():
            several = isinstance(value, tuple | list)
            for position, size in enumerate(value if several else [value]):
                if name[0] != "_" and type(size) is int and size == labels.numel():
                    self.guesses.setdefault((path, name, position if several else None), []).append(labels)

    def where(self, node: Node) -> str:
        """The operator and the module that ran it, for people."""
        path = module_of(node)
        operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        return f"{operator} in `{path}`" if path else f"{operator} in the model's own forward"


def _places(dims: Dims, grid: Grid) -> list[int]:
    """The dimensions of a value that are axes of a grid."""
    return [d for d, one in enumerate(dims) if isinstance(one, Axis) and one.grid is grid]


def upstream(walk: Walk, node: Node) -> list[tuple[str, list[Tensor | None]]]:
    """The parameters and buffers that a value, computed from nothing else, is computed from."""
    names = dict.fromkeys(walk.origin[one] for one in before(node) if one in walk.origin)
    return [(name, walk.tensors[name]) for name in names]


def tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under their first names, each object once."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        seen.setdefault(id(tensor), (name, tensor))
    return list(seen.values())


def canonical_names(model: nn.Module) -> dict[str, str]:
    """From every name of a parameter or buffer to the first name of the same object."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names[name] = first.setdefault(id(tensor), name)
    return names
