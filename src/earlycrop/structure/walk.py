"""The state of a walk through the exported graph, and the operations with which rules are written."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.graph import argument, before, shape_of, tensor_nodes, unlabelled
from earlycrop.structure.labels import Axis, Dims, Grid, Labels
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.statistics import Statistic
from earlycrop.structure.trace import Program, module_of

Site = tuple[str, int]
"""A dimension of a parameter or buffer: its name and the number of the dimension."""


Side = Literal["output", "input", "parameter"]

OUTPUT = "an output of the network"
"""The reason why logits cannot leave."""


class Place(NamedTuple):
    """Where a gate multiplies: a module's output or input (by path), or a tensor (by name), along a dimension.

    `item` is the number of the tensor, counted through nested tuples, if the module takes or returns several.
    """

    where: str
    side: Side
    dim: int
    labels: Tensor
    item: int | None = None


@dataclass(frozen=True)
class Created:
    """Where channels are created: an operator and the dimensions of parameters and buffers that write them.

    `gates` are the places that together scale these channels once on every path; if there are none, they are found
    from the graph.
    """

    node: Node
    sites: tuple[Site, ...]
    gates: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Read:
    """Where channels are read: multiplied by, and summed over, a parameter's dimension (None: it is computed)."""

    node: Node
    site: Site | None
    labels: Tensor


@dataclass
class Walk:
    """The labels of every value in the graph, and everything that the rules recorded on the way.

    Attributes:
        model: The model, untouched.
        program: Its graph.
        labels: All labels, with the equalities and prohibitions found so far.
        values: The labels of each node's value; a tuple for several results.
        tensors: The labels of each parameter and buffer, by name.
        origin: For each placeholder of a parameter or buffer, its name.
        made: Nodes computed from parameters and buffers alone.
        parametric: Labels below this number are those of parameters.
        created: Where channels are created.
        reads: Where channels are read.
        recreated: Labels of heads and hidden units, which are gated where they are read.
        grids: All grids of labels made so far.
        spread: Labels of values that are the same along a dimension.
        norms: For each norm, its scale and shift, if they are parameters.
        attributes: For each module integer (module, attribute, position or None), the labels that it counts.
        guesses: For each module integer that may be a size in the module's code, the labels that it may count.
        arguments: For each node with a count of groups, one label per group.
        positions: For each slice, the labels of what is sliced, and where the slice starts and stops.
        statistics: The statistics over channels, which the channels of a norm may leave.
        macs: Pairs of a weight's name and how often each of its entries is used.
        unruled: For each place where an operator without a record touches labels of parameters, the reason.
    """

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
    statistics: dict[Node, Statistic] = field(default_factory=dict)
    macs: list[tuple[str | Node, int]] = field(default_factory=list)
    unruled: dict[str, str] = field(default_factory=dict)
    constants: dict[Node, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))
        self.names = canonical_names(self.model)

    # Operations for rules ---------------------------------------------------------------------------

    def raw(self, node: Any) -> Dims:
        """The labels of a tensor argument, grids of labels among them."""
        value = self.values.get(node)
        return value if isinstance(value, list) else unlabelled(node)

    def dims(self, node: Any) -> list[Any]:
        """The labels of a tensor argument without grids: of each, the first axis stays and the others are fixed."""
        dims = self.raw(node)
        later = [d for d, one in enumerate(dims) if isinstance(one, Axis) and d != _places(dims, one.grid)[0]]
        self.fix(node, later)
        return self.raw(node)

    def fix(self, node: Any, dims: Iterable[int]) -> None:
        """Fix those of these dimensions of a value that are axes of a grid: they cannot shrink, and become uniform."""
        if isinstance(value := self.values.get(node), list):
            self.values[node] = self.fixed(value, dims)

    def fixed(self, dims: Dims, among: Iterable[int]) -> Dims:
        """The labels of a value after fixing those of these dimensions that are axes of a grid."""
        among = {d % len(dims) for d in among}
        result = list(dims)
        for grid in {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values():
            places = _places(dims, grid)
            if among.isdisjoint(places):
                continue
            # Nothing leaves along a fixed axis, so its entries only leave all together: unite them, and let the first
            # index stand for all.
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
        """Labels in the shape of a value, per dimension: plain if they vary along one dimension, else as a grid."""
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
        """Freeze every label of this value, or only those along `dims`, which an operator mixes."""
        if dims is not None:
            dims = list(dims)
            self.fix(node, dims)
        value = self.values.get(node)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, list):
                for one in part if dims is None else [part[d] for d in dims]:
                    self.labels.freeze(one.grid.labels if isinstance(one, Axis) else one, reason)

    def align(self, values: list[tuple[Dims, tuple[int, ...]]], skip: int | None = None) -> list[Dims]:
        """The labels of values that are combined entry by entry, with their grids brought to the same axes.

        Args:
            values: Labels and shapes, which are broadcast from the last dimension on.
            skip: A dimension along which they are not combined but put side by side.
        """
        ndim = max(len(shape) for _, shape in values)
        every: list[Dims] = [[None] * (ndim - len(dims)) + list(dims) for dims, _ in values]
        sizes = [(1,) * (ndim - len(shape)) + shape for _, shape in values]
        # Fixing an axis of one value may make it misfit another, so this repeats until all fit. It ends because each
        # round leaves fewer axes.
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
                if skip not in places:  # by now, grids that share a dimension lie along the same dimensions
                    self.labels.unite(first.setdefault(tuple(places), labels), labels)
        return [dims[ndim - len(own) :] for dims, (own, _) in zip(every, values, strict=True)]

    def _misfits(self, number: int, every: list[Dims], sizes: list[tuple[int, ...]], skip: int | None) -> list[int]:
        """Dimensions of this value to fix, since they are axes of a grid that another value does not share."""
        dims = every[number]
        for grid in {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values():
            places = _places(dims, grid)
            if skip in places:  # along it the values are put side by side, each with its own labels
                return [skip]  # type: ignore[list-item]
            for other, size in zip(every, sizes, strict=True):
                common = [d for d in places if size[d] > 1]
                if other is dims or not common:
                    continue
                if fixed := [d for d in common if other[d] is None]:  # the other cannot shrink there
                    return fixed
                # the other has plain channels: keep the dimension with a parameter's labels, since a layer made it
                if vectors := [d for d in common if not isinstance(other[d], Axis)]:
                    made = next((d for d in vectors if self._of_parameters(other[d])), None)
                    kept = places[0] if made is None else made
                    return [d for d in places if d != kept]
                theirs = _places(other, other[common[0]].grid)  # type: ignore[union-attr]
                if fixed := [d for d in places if d not in theirs]:
                    return fixed
        return []

    def tie(self, a: Tensor | None, b: Tensor | None, reason: str) -> Tensor | None:
        """Unite two dimensions; if one of them cannot shrink, freeze the other."""
        if a is None or b is None or a.numel() != b.numel():
            self.labels.freeze(a, reason)
            self.labels.freeze(b, reason)
        else:
            self.labels.unite(a, b)
        return a if a is not None else b

    def of_parameters(self, node: Node) -> bool:
        """Whether a value has some labels of parameters, rather than only of buffers or constants."""
        value = self.values.get(node)
        parts = value if isinstance(value, tuple) else (value,)
        return any(self._of_parameters(one) for dims in parts if isinstance(dims, list) for one in dims)

    def _of_parameters(self, labels: Tensor | Axis | None) -> bool:
        labels = labels.grid.labels if isinstance(labels, Axis) else labels
        return labels is not None and bool((labels < self.parametric).any())

    def create(self, node: Node, *sites: tuple[Any, int], gates: tuple[Place, ...] = ()) -> None:
        """Record that `node` creates channels with these parameters or buffers, or with values computed from them."""
        named = tuple(site for arg, dim in sites for site in self.sites_of(arg, dim))
        if named:
            self.created.append(Created(node, named, gates))

    def sites_of(self, arg: Any, dim: int) -> list[Site]:
        """The dimensions of parameters and buffers from which a dimension of an argument is computed."""
        if not isinstance(arg, Node):
            return []
        if arg in self.origin:
            return [(self.origin[arg], dim)]
        labels = self.raw(arg)[dim]
        if not isinstance(labels, Tensor) or arg not in self.made:
            return []
        for one in before(arg):  # all terms of a sum; of a product only the factor with these labels, which scales it
            labels = torch.cat([labels, *self._beside(one, labels)])
        return [
            (name, d)
            for name, dims in upstream(self, arg)
            for d, one in enumerate(dims)
            if one is not None and bool(torch.isin(one, labels).any())
        ]

    def _beside(self, node: Node, labels: Tensor) -> list[Tensor]:
        """For a sum or concatenation: its operands' labels along each dimension where one of them has these labels."""
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
        """Record that a parameter's entries along `dim`, or those of a value computed from it, read these channels."""
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
        """Record that an integer of the module that ran `node` counts these labels."""
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
        """Record the integers of a module from which its code may take this size: those that are equal to it."""
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
        """The operator and the module that ran it, for messages."""
        path = module_of(node)
        operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        return f"{operator} in `{path}`" if path else f"{operator} in the model's own forward"

    def kept(self, nodes: Iterable[Node]) -> str:
        """For people, which of these values are tensors that modules keep in plain attributes; or nothing."""
        found = []
        for node in nodes:
            while node not in self.constants and len(node.all_input_nodes) == 1:
                (node,) = node.all_input_nodes
            if node in self.constants:
                found.append(self.constants[node])
        return f": `{found[0]}`, which the model keeps beside its parameters and buffers" if found else ""


def _places(dims: Dims, grid: Grid) -> list[int]:
    """The dimensions of a value that are axes of a grid."""
    return [d for d, one in enumerate(dims) if isinstance(one, Axis) and one.grid is grid]


def upstream(walk: Walk, node: Node) -> list[tuple[str, list[Tensor | None]]]:
    """The parameters and buffers, with their labels, from which a value is computed that has no other origin."""
    names = dict.fromkeys(walk.origin[one] for one in before(node) if one in walk.origin)
    return [(name, walk.tensors[name]) for name in names]


def tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under their first names, each object only once."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        seen.setdefault(id(tensor), (name, tensor))
    return list(seen.values())


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Maps every name of a parameter or buffer to the first name of the same object."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names[name] = first.setdefault(id(tensor), name)
    return names
