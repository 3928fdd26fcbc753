"""What a walk through the exported graph knows, and the few words in which rules are written."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from earlycrop.structure.labels import Dims, Labels
from earlycrop.structure.trace import module_of

Site = tuple[str, int]
"""A dimension of a parameter: its name and the number of the dimension."""


Side = Literal["output", "input", "parameter"]


class Place(NamedTuple):
    """Where a gate multiplies: a module's output or input (by path), or a parameter (by name), along a dimension.

    `item` says which tensor, if the module takes or returns several (counted through nested tuples).
    """

    where: str
    side: Side
    dim: int
    labels: Tensor
    item: int | None = None


@dataclass(frozen=True)
class Created:
    """Where channels come into being: an operator and the parameter dimensions that write them.

    `gates` are the places that together scale these channels once on every path; without any they are found from
    the graph.
    """

    node: Node
    sites: tuple[Site, ...]
    gates: tuple[Place, ...] = ()


@dataclass
class Walk:
    """The labels of every value in the graph, and all that the rules noted on the way."""

    model: nn.Module
    program: ExportedProgram
    labels: Labels = field(default_factory=Labels)
    values: dict[Node, Any] = field(default_factory=dict)
    tensors: dict[str, Dims] = field(default_factory=dict)
    origin: dict[Node, str] = field(default_factory=dict)
    created: list[Created] = field(default_factory=list)
    norms: dict[Node, tuple[Site, ...]] = field(default_factory=dict)
    attributes: dict[tuple[str, str, int | None], Tensor] = field(default_factory=dict)
    arguments: dict[str, Tensor] = field(default_factory=dict)
    products: list[tuple[str, int]] = field(default_factory=list)
    unruled: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))
        self.names = canonical_names(self.model)

    # What rules are made of -------------------------------------------------------------------------

    def dims(self, node: Any) -> Dims:
        """The labels of a tensor argument."""
        value = self.values.get(node)
        return value if isinstance(value, list) else unlabelled(node)

    def freeze(self, node: Node, reason: str, dims: Iterable[int] | None = None) -> None:
        """Nothing that this value is labelled with may leave (along `dims`, or at all)."""
        value = self.values.get(node)
        parts = value if isinstance(value, tuple) else (value,)
        for part in parts:
            if isinstance(part, list):
                for dim in range(len(part)) if dims is None else dims:
                    self.labels.freeze(part[dim], reason)

    def tie(self, a: Tensor | None, b: Tensor | None, reason: str) -> Tensor | None:
        """Two dimensions are one; if one of them cannot shrink, neither can the other."""
        if a is None or b is None or a.numel() != b.numel():
            self.labels.freeze(a, reason)
            self.labels.freeze(b, reason)
        else:
            self.labels.unite(a, b)
        return a if a is not None else b

    def create(self, node: Node, *sites: tuple[Any, int], gates: tuple[Place, ...] = ()) -> None:
        """Note that `node` creates channels with these parameters (those that are parameters themselves)."""
        named = tuple((self.origin[arg], dim) for arg, dim in sites if isinstance(arg, Node) and arg in self.origin)
        if named:
            self.created.append(Created(node, named, gates))

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

    def where(self, node: Node) -> str:
        """The operator and the module that ran it, for people."""
        path = module_of(node)
        operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        return f"{operator} in `{path}`" if path else f"{operator} in the model's own forward"


def operator_of(node: Any) -> str:
    """The name of the operator that a node runs, whatever its overload; '' for anything that is none."""
    return node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else ""


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a tensor argument."""
    return tuple(node.meta["val"].shape)


def unlabelled(node: Any) -> Any:
    """No dimension of this value can shrink (a tuple for an operator with several results)."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if isinstance(value, Tensor):
        return [None] * value.ndim
    if isinstance(value, tuple | list):
        return tuple([None] * v.ndim if isinstance(v, Tensor) else None for v in value)
    return None


def tensor_nodes(args: Any) -> list[Node]:
    """Every graph node among arguments, nested lists included."""
    found: list[Node] = []
    map_arg(args, lambda node: found.append(node) or node)
    return found


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
