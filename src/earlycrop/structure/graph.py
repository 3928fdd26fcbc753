"""Small helpers for the nodes of an exported graph."""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg


def name_of(node: Any) -> str:
    """The name of the operator that a node runs, for people; the same for all overloads and the in-place twin."""
    return node.target.overloadpacket.__name__.rstrip("_") if isinstance(node.target, torch._ops.OpOverload) else ""


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a tensor argument."""
    return tuple(node.meta["val"].shape)


def argument(node: Any, position: int, name: str, default: Any = None) -> Any:
    """An argument of an operator, given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def tensor_nodes(args: Any) -> list[Node]:
    """Every graph node among arguments, nested lists included."""
    found: list[Node] = []
    map_arg(args, lambda node: found.append(node) or node)
    return found


def before(node: Node) -> list[Node]:
    """A node and all nodes that its value is computed from, each once."""
    found: dict[Node, None] = {}
    todo = [node]
    while todo:
        if (one := todo.pop()) not in found:
            found[one] = None
            todo += one.all_input_nodes
    return list(found)


def mutates(node: Node) -> bool:
    """Whether a node runs an operator that changes one of its arguments in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def mark_unread(graph: Graph) -> None:
    """Mark values of one other value that nothing reads: what is done to them decides nothing (`unread`).

    Where several values meet, parameters among them, the code runs only if they fit together, whoever reads the result.
    """
    for node in reversed(list(graph.nodes)):
        if node.op != "call_function" or len(node.all_input_nodes) > 1 or mutates(node):
            continue
        ours = node.target is operator.getitem or getattr(node.target, "namespace", None) == "aten"
        if ours and all(unread(one) for one in node.users) and isinstance(node.meta.get("val"), Tensor | tuple | list):
            node.meta["unread"] = True


def unread(node: Node) -> bool:
    """Whether nothing reads a value, as `mark_unread` found."""
    return "unread" in node.meta


def unlabelled(node: Any) -> Any:
    """The labels of a value no dimension of which can shrink (a tuple for an operator with several results)."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if isinstance(value, Tensor):
        return [None] * value.ndim
    if isinstance(value, tuple | list):
        return tuple([None] * v.ndim if isinstance(v, Tensor) else None for v in value)
    return None
