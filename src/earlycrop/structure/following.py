"""A run of a cut copy beside the dense graph: each operator must be the next one there, with the promised result.

What the labels promise of every operator is known before a copy runs: the shape of its result, the number of its
groups, where it starts to read. So a run needs no graph of its own, and it need not end where something differs: what
comes out differently is noted, and the code goes on with what was promised. One run finds every such place.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.structure.graph import shape_of, unread
from earlycrop.structure.operators.pointwise import pointwise
from earlycrop.structure.registry import Kind, Weight, operator_for, operator_of
from earlycrop.structure.structure import ChannelGraph
from earlycrop.structure.trace import Program, Recorder


class Promises:
    """What the labels promise of every operator of a graph after any cut.

    Args:
        graph: The dense graph.
        spaces: For each class the number of its space.
    """

    def __init__(self, graph: ChannelGraph, spaces: Tensor) -> None:
        self.nodes = operators(graph.program)
        self.constants = [constants(node.args, node.kwargs) for node in self.nodes]
        self.placeholders = [node for node in graph.program.graph.nodes if node.op == "placeholder"]
        self.literals = [node for node in graph.program.graph.nodes if node.op == "get_attr"]
        self._every: list[Tensor] = []  # different classes along a dimension
        self._number: dict[tuple[int, ...], int] = {}
        self._dims = {name: tuple(map(self._of, dims)) for name, dims in graph.nodes.items()}
        self._counted = {name: self._of(one) for name, one in graph.arguments.items()}
        self._before = {name: self._of(one[:start]) for name, (one, start, _) in graph.positions.items()}
        self._spaces = [frozenset(spaces[one[one >= 0]].tolist()) for one in self._every]

    def _of(self, classes: Tensor | None) -> int | None:
        if classes is None:
            return None
        number = self._number.setdefault(tuple(classes.tolist()), len(self._every))
        if number == len(self._every):
            self._every.append(classes)
        return number

    def after(self, keep: Tensor) -> "Promised":
        """What is promised of the copy that keeps these classes."""
        stays = torch.cat([keep, torch.tensor([True])])
        return Promised(self, [int(stays[one].sum()) for one in self._every])

    def spaces_of(self, node: Node) -> frozenset[int]:
        """The spaces of the classes that an operator reads or returns, or that its arguments count."""
        numbers: set[int | None] = {self._counted.get(node.name), self._before.get(node.name)}
        several = () if node.name in self._dims else node.users  # the parts of a result
        for one in (node, *node.all_input_nodes, *several):
            numbers.update(self._dims.get(one.name, ()))
        return frozenset().union(*(self._spaces[one] for one in numbers if one is not None))

    def spaces_along(self, node: Node) -> list[frozenset[int]]:
        """For each dimension of a value the spaces of its classes."""
        return [frozenset() if one is None else self._spaces[one] for one in self._dims.get(node.name, ())]


@dataclass(frozen=True)
class Promised:
    """The same for one cut: `counts` says how many of each different row of classes are left."""

    promises: Promises
    counts: Sequence[int]

    def shape(self, node: Node) -> tuple[int, ...] | None:
        """The shape of a node's value; None if it is not promised."""
        dims = self.promises._dims.get(node.name)
        if dims is None:
            return None
        return tuple(n if c is None else self.counts[c] for n, c in zip(shape_of(node), dims, strict=True))

    def takes(self, number: int, args: Sequence[Any], kwargs: Mapping[str, Any], size: Sequence[int] | None) -> bool:
        """Whether an operator's arguments other than tensors are as promised.

        Args:
            number: The operator's place in the graph.
            args: Its arguments in the cut copy.
            kwargs: Those by name.
            size: The shape of the first of them, if that is a tensor.
        """
        node, operator = self.promises.nodes[number], operator_of(self.promises.nodes[number])
        counted = self.promises._counted.get(node.name)
        if counted is not None and _groups(node, args, kwargs) != self.counts[counted]:
            return False
        before = self.promises._before.get(node.name)
        if before is not None and (size is None or _start(args, size) != self.counts[before]):
            return False
        # a number that is no size must not change: after a cut the code would compute something else
        plain = counted is None and not operator.sizes
        return not plain or self.promises.constants[number] == constants(args, kwargs)


def operators(program: Any) -> list[Node]:
    """The nodes of operators that run whatever the strides are."""
    return [node for node in program.graph.nodes if node.op == "call_function" and not operator_of(node).strides]


def constants(args: Any, kwargs: Any) -> list[object]:
    """The numbers among an operator's arguments: one that counts channels (`x / x.shape[1]`) changes with a cut.

    Args:
        args: The arguments, with nodes or values in the place of tensors.
        kwargs: Those by name.
    """
    leaves = pytree.tree_leaves((args, kwargs))
    numbers = [leaf for leaf in leaves if not isinstance(leaf, Node | Tensor | torch.device)]
    return ["nan" if number != number else number for number in numbers]  # which equals itself


def _groups(node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """The number of groups that an operator is given; 1 by default."""
    position = operator_of(node).groups
    if position is None:
        return 1
    return args[position] if len(args) > position else kwargs.get("groups", 1)


def _start(args: Sequence[Any], size: Sequence[int]) -> int:
    """The first position that a slice takes."""
    dim, start = (*args[1:], 0, 0)[:2]
    start = start or 0
    return min(start + size[dim] if start < 0 else start, size[dim])


class Elsewhere(Exception):
    """The run has left the dense graph, or was to end at the first difference."""


class Follower(Recorder):
    """Follows a run of a cut copy through the dense graph.

    Args:
        promised: What the labels promise of this cut.
        goes_on: Whether the run goes on behind a difference, with the value that was promised.

    Attributes:
        faults: The operators, as nodes of the dense graph, that differ from what was promised.
        met: How many operators have run.
    """

    def __init__(self, promised: Promised, goes_on: bool) -> None:
        super().__init__([])
        self.promised, self.goes_on = promised, goes_on
        self.expected, self.faults, self.met = promised.promises.nodes, [], 0
        self._inputs = iter(promised.promises.placeholders)
        self._literals = iter(promised.promises.literals)

    def placeholder(self, name: str) -> Node:
        """The next of the dense graph."""
        return next(self._inputs)

    def literal(self, tensor: Tensor) -> Node:
        """The next of the dense graph."""
        return next(self._literals)

    def output(self, values: Any) -> None:
        """What the network returns must have been made by operators; all of them must have run."""
        self.nodes_of(values)
        if self.met < len(self.expected):
            self.fault(self.here)

    def note(self, node: Node, value: object) -> None:
        """Remember that this is the value of this node of the dense graph."""
        if isinstance(value, Tensor):
            self._nodes[value] = node

    @property
    def here(self) -> Node:
        """The operator that should run next; the last one at the end."""
        return self.expected[min(self.met, len(self.expected) - 1)]

    def fault(self, node: Node) -> None:
        """Note a difference; the run ends here unless it goes on."""
        if node not in self.faults:
            self.faults.append(node)
        if not self.goes_on:
            raise Elsewhere

    def differs(self, node: Node) -> None:
        """Note that an operator takes or returns something else than was promised, unless nobody reads it."""
        if not unread(node):
            self.fault(node)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # asks for the device; no operator
            return func(*args, **kwargs)
        taken, _ = self.taken(func, args, kwargs)
        if operator_for(func).strides:
            result = self.run(func, args, kwargs)
            self.note(taken[0], result)
            return result
        number, node = self.met, self._next(func)
        size = args[0].shape if args and isinstance(args[0], Tensor) else None
        if not self.promised.takes(number, args, kwargs, size):
            self.differs(node)
        try:
            result = self.run(func, args, kwargs)
        except Exception:  # whatever PyTorch raises for these sizes
            self.fault(node)
            result = None
        if isinstance(node.meta["val"], tuple | list):
            found = result if isinstance(result, tuple | list) else ()
            parts = [self._held(self._next(operator.getitem), one) for one in self._padded(node, found)]
            return type(node.meta["val"])(parts) if result is None else type(result)(parts)
        return self._held(node, result)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator returns; PyTorch is asked only where the operator's record does not say it."""
        node = self.expected[self.met - 1]
        shape = result_shape(node, args, kwargs) if func == node.target else None
        if shape is None:
            return super().run(func, args, kwargs)
        if func._schema.is_mutable:
            return args[0] if args[0].shape == shape else super().run(func, args, kwargs)
        return _laid_out_as(node.meta["val"], shape)

    def _padded(self, node: Node, found: Sequence[Any]) -> list[Any]:
        """The parts of a result, as many as there are in the dense graph."""
        number = len(node.meta["val"])
        if len(found) != number:
            self.differs(node)
        return [*found, *[None] * number][:number]

    def _next(self, target: Any) -> Node:
        if self.met >= len(self.expected) or self.expected[self.met].target != target:  # the code took another branch
            self.fault(self.here)
            raise Elsewhere
        self.met += 1
        return self.expected[self.met - 1]

    def _held(self, node: Node, result: Any) -> Any:
        """The result, or where it is not what was promised, an empty one that is."""
        shape, dense = self.promised.shape(node), node.meta["val"]
        if isinstance(dense, Tensor) and not (
            isinstance(result, Tensor) and (shape is None or tuple(result.shape) == shape)
        ):
            self.differs(node)
            result = _laid_out_as(dense, tuple(dense.shape) if shape is None else shape)
        self.note(node, result)
        return result


def result_shape(node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of an operator's result, as far as its record says it; None if only PyTorch knows it.

    It saves the time that PyTorch takes, in Python, to find out shapes.

    Args:
        node: The operator.
        args: Its arguments in a cut copy.
        kwargs: Those by name.
    """
    operator = operator_of(node)
    shapes = [tuple(one.shape) if isinstance(one, Tensor) else None for one in args]
    x, tensors = shapes[0] if shapes else None, [one for one in shapes if one is not None]
    if x is None or not isinstance(node.meta["val"], Tensor) or any(isinstance(o, Tensor) for o in kwargs.values()):
        return None
    if operator.rule is pointwise and operator.kind in (Kind.ENTRYWISE, Kind.SUM):
        return _broadcast(tensors)
    if operator.kind is Kind.TRAILING_NORM:
        normalised = tuple(args[1])
        fits = x[len(x) - len(normalised) :] == normalised and all(one == normalised for one in tensors[1:])
        return x if fits else None
    if operator.kind is Kind.CREATES and operator.weight == Weight() and len(shapes[1] or ()) == 2:
        written, read = shapes[1]  # type: ignore[misc]
        return (*x[:-1], written) if x[-1:] == (read,) and all(one == (written,) for one in tensors[2:]) else None
    if operator.kind is Kind.ATTENTION and len(tensors) == 3 and not kwargs:
        q, k, v = tensors
        fits = q[:-2] == k[:-2] == v[:-2] and q[-1] == k[-1] and k[-2] == v[-2]
        return (*q[:-1], v[-1]) if fits else None
    return None


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape of values that are combined entry by entry; None if they do not fit."""
    if all(one == shapes[0] for one in shapes):
        return shapes[0]
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


def _laid_out_as(dense: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty value of this shape, of the dense one's type and with its order of dimensions in memory."""
    if dense.is_contiguous() or dense.ndim != len(shape):
        return torch.empty(shape, dtype=dense.dtype, device="meta")
    order = sorted(range(dense.ndim), key=lambda dim: -dense.stride(dim))
    return torch.empty_permuted(shape, order, dtype=dense.dtype, device="meta")


def follow(program: Program, shadow: nn.Module, promised: Promised, goes_on: bool) -> list[Node]:
    """The operators of a recorded graph that differ from what was promised when a cut copy runs.

    Args:
        program: The dense graph.
        shadow: The cut copy.
        promised: What the labels promise of this cut.
        goes_on: Whether to look for all of them; otherwise the run ends at the first.
    """
    follower = Follower(promised, goes_on)
    try:
        program.follow(shadow, follower)
    except Elsewhere:
        pass
    except Exception:  # whatever it raises, the cut copy does not run behind this operator
        follower.faults.append(follower.here)
    return list(follower.faults)
