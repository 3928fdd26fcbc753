"""What a call of a network does, operator by operator, and what it keeps in memory: as shapes, which a cut changes.

Which tensors training keeps for the backward pass is asked of PyTorch: each operator of the graph runs once more,
without data, and autograd says what it saves.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from earlycrop.structure.gates import Classes
from earlycrop.structure.graph import mutates, tensor_nodes
from earlycrop.structure.layout import Layout
from earlycrop.structure.renumbering import Renumbering
from earlycrop.structure.trace import Program

TRAINING = ("training", "train", "use_input_stats")
"""Names of the arguments that say whether an operator trains; the graph is that of evaluation."""


@dataclass(frozen=True)
class Operation:
    """A call of an operator that computes something: views, which only look at what is there, are none.

    Attributes:
        name: The operator with the types and dense shapes of its operands and its other arguments. What has the same
            name does the same work before a cut.
        operands: The tensors that it takes, in their order.
        node: The name of its node in the graph.
    """

    name: str
    operands: tuple[Layout, ...]
    node: str


@dataclass(frozen=True)
class Held:
    """A piece of memory that holds an input, or what an operator computes; views share that of what they look at.

    Attributes:
        layout: The tensor that it was made for.
        itemsize: Bytes of an entry.
        first: The number of the node that makes it; -1 for an input.
        last: The number of the last node that reads it; `Work.end` for an output. Before `first` for what exists only
            in training.
        saved: Whether autograd keeps it for the backward pass.
    """

    layout: Layout
    itemsize: int
    first: int
    last: int
    saved: bool


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer: its name, the bytes of an entry, and whether it has a gradient."""

    name: str
    itemsize: int
    trained: bool


@dataclass(frozen=True)
class Work:
    """What a call of a network does and keeps.

    Attributes:
        operations: Every operator that computes something.
        held: Every piece of memory that the call needs.
        stored: The model's parameters and buffers.
        examples: The number of examples in the call.
        end: The number of nodes.
    """

    operations: tuple[Operation, ...] = ()
    held: tuple[Held, ...] = ()
    stored: tuple[Stored, ...] = ()
    examples: int = 1
    end: int = 0

    def renumbered(self, number: Renumbering) -> "Work":
        """The same work with the classes renumbered, and without the entries of classes that left."""
        known: dict[int, Classes] = {}

        def now(layout: Layout) -> Layout:
            dims = []
            for classes in layout.classes:
                if classes is not None and id(classes) not in known:
                    known[id(classes)] = number(classes)
                dims.append(None if classes is None else known[id(classes)])
            return layout.having(tuple(dims))

        return replace(
            self,
            operations=tuple(replace(one, operands=tuple(map(now, one.operands))) for one in self.operations),
            held=tuple(replace(one, layout=now(one.layout)) for one in self.held),
        )


class Deferred:
    """Work that is found when it is first asked for; few costs ask.

    Args:
        find: Finds it.
    """

    def __init__(self, find: Callable[[], Work] = Work) -> None:
        self._find: Callable[[], Work] | None = find
        self._found = Work()

    def __call__(self) -> Work:
        """The work."""
        if self._find is not None:
            self._found, self._find = self._find(), None
        return self._found

    def renumbered(self, number: Renumbering) -> "Deferred":
        """The same work with the classes renumbered, and without the entries of classes that left."""
        return Deferred(lambda: self().renumbered(number))


def work_of(
    program: Program, stored: Sequence[Stored], classes: Mapping[str, tuple[Classes | None, ...]], examples: int
) -> Work:
    """The work of one call.

    Args:
        program: The graph of the call.
        stored: The model's parameters and buffers.
        classes: For each node, by name, the classes along each dimension of its value.
        examples: The number of examples in the call.
    """
    found = _Finding(program, frozenset(one.name for one in stored if one.trained), classes)
    for number, node in enumerate(program.graph.nodes):
        found.visit(number, node)
    return Work(tuple(found.operations), tuple(found.held()), tuple(stored), examples, found.end)


def stored_in(model: nn.Module) -> tuple[Stored, ...]:
    """The parameters and buffers of a model, each once."""
    parameters = [Stored(name, one.itemsize, one.requires_grad) for name, one in model.named_parameters()]
    return (*parameters, *(Stored(name, one.itemsize, False) for name, one in model.named_buffers()))


def operands_of(node: Node) -> list[Node]:
    """The tensors that an operator takes, in their order; sparse ones do not count."""
    return [one for one in tensor_nodes((node.args, node.kwargs)) if _memory(one) is not None]


def computes(node: Node) -> bool:
    """Whether a node makes new entries, or changes old ones."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    args = {_memory(one) for one in tensor_nodes((node.args, node.kwargs))}
    made = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if _dense(leaf)]
    return bool(made) and (mutates(node) or any(leaf.untyped_storage()._cdata not in args for leaf in made))


def called_as(node: Node) -> str:
    """The operator, the types and shapes of its operands, and its other arguments."""

    def word(value: Any) -> str:
        if isinstance(value, Node):
            tensor = value.meta.get("val")
            return described(tensor) if isinstance(tensor, Tensor) else "?"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(word, value))}]"
        return str(value)

    named = [f"{key}={word(value)}" for key, value in node.kwargs.items()]
    return f"{str(node.target).removeprefix('aten.')}({', '.join([*map(word, node.args), *named])})"


def described(tensor: Tensor) -> str:
    """The type and shape of a tensor, and whether its channels are last in memory."""
    last = tensor.ndim == 4 and not tensor.is_contiguous()
    last = last and tensor.is_contiguous(memory_format=torch.channels_last)
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind}[{'x'.join(map(str, tensor.shape))}]{' channels_last' if last else ''}"


def _dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _memory(node: Node) -> int | None:
    """What distinguishes the memory of a node's value; None if it is no tensor, or a sparse one."""
    value = node.meta.get("val")
    return value.untyped_storage()._cdata if isinstance(value, Tensor) and _dense(value) else None


class _Finding:
    """Collects the work of a graph, node by node."""

    def __init__(self, program: Program, trained: frozenset[str], classes: Mapping[str, Any]) -> None:
        self.trained, self.classes = trained, classes
        self.specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.operations: list[Operation] = []
        self.end = len(program.graph.nodes)
        self._pieces: dict[int, _Piece] = {}
        self._beside: list[Held] = []
        self._ours: set[int | None] = set()  # the memory of parameters, buffers and constants
        self._trained: set[Node] = set()  # whose values have a gradient
        self._known: dict[tuple[str, tuple[bool, ...]], list[_Saved]] = {}

    def visit(self, number: int, node: Node) -> None:
        if node.op == "output":
            for one in tensor_nodes(node.args):
                self._read(one, self.end)
        elif node.op == "call_function":
            operands = tensor_nodes((node.args, node.kwargs))
            for one in operands:
                self._read(one, number)
            self._make(node, number)
            if computes(node):
                layouts = tuple(map(self._layout, operands_of(node)))
                self.operations.append(Operation(called_as(node), layouts, node.name))
            if any(one in self._trained for one in operands):
                self._train(node, operands, number)
        elif node.op == "placeholder" and (spec := self.specs.get(node.name)) and spec.kind is InputKind.USER_INPUT:
            self._make(node, -1)
        else:
            self._ours.add(_memory(node))
            kind = self.specs[node.name].kind if node.name in self.specs else None
            if kind is InputKind.PARAMETER and self.specs[node.name].target in self.trained:
                self._trained.add(node)

    def held(self) -> Iterator[Held]:
        for one in self._pieces.values():
            yield Held(one.layout, one.itemsize, one.first, one.last, one.saved)
        yield from self._beside

    def _layout(self, node: Node) -> Layout:
        shape = tuple(node.meta["val"].shape)
        return Layout(shape, self.classes.get(node.name) or (None,) * len(shape))

    def _make(self, node: Node, number: int) -> None:
        memory = _memory(node)
        if memory is not None and memory not in self._ours and memory not in self._pieces:
            self._pieces[memory] = _Piece(self._layout(node), node.meta["val"].itemsize, number, number)

    def _read(self, node: Node, number: int) -> None:
        piece = self._pieces.get(_memory(node) or 0)
        if piece is not None:
            piece.last = max(piece.last, number)

    # What training keeps ------------------------------------------------------------------------------

    def _train(self, node: Node, operands: Sequence[Node], number: int) -> None:
        if not isinstance(node.target, torch._ops.OpOverload):  # takes a part of a result
            self._trained.add(node)
            return
        key = called_as(node), tuple(one in self._trained for one in operands)
        if key not in self._known:
            self._known[key] = _saved_by(node, self._trained)
        parts = {user.args[1]: user for user in node.users if getattr(user.target, "__name__", "") == "getitem"}
        for one in self._known[key]:
            if one.operand is not None:
                self._save(operands[one.operand])
            elif one.result is not None:
                self._late(node if isinstance(node.meta["val"], Tensor) else parts.get(one.result), number)
            else:
                near = [self._layout(each) for each in (*operands, *parts.values(), node) if _memory(each) is not None]
                self._beside.append(Held(_alike(one.shape, near), one.itemsize, number, number - 1, True))
        values = pytree.tree_leaves(node.meta.get("val"))
        if any(isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex()) for one in values):
            self._trained.add(node)

    def _save(self, node: Node) -> None:
        piece = self._pieces.get(_memory(node) or 0)
        if piece is not None:
            piece.saved = True

    def _late(self, node: Node | None, number: int) -> None:
        """Save a result, whose node may come after that of its operator."""
        if node is not None:
            self._make(node, number)
            self._save(node)


@dataclass
class _Piece:
    layout: Layout
    itemsize: int
    first: int
    last: int
    saved: bool = False


@dataclass(frozen=True)
class _Saved:
    """What autograd keeps of an operator: an operand, a result, or something else of this shape."""

    operand: int | None = None
    result: int | None = None
    shape: tuple[int, ...] = ()
    itemsize: int = field(default=4)


def _saved_by(node: Node, trained: set[Node]) -> list[_Saved]:
    """What autograd keeps of an operator in training; all its operands if it does not run without data."""
    operands = tensor_nodes((node.args, node.kwargs))
    kept: list[Tensor] = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            blank = {one: _blank(one.meta["val"], one in trained) for one in operands}
            args, kwargs = map_arg((node.args, node.kwargs), lambda one: blank[one])
            args, kwargs = _in_training(node, list(args), dict(kwargs))
            with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
                results = pytree.tree_leaves(node.target(*args, **kwargs))  # type: ignore[operator]
    except Exception:  # whatever an operator without data raises
        return [_Saved(operand=number) for number in range(len(operands))]
    memory = {blank[one].untyped_storage()._cdata: _Saved(operand=k) for k, one in reversed([*enumerate(operands)])}
    for number, one in enumerate(results):
        if isinstance(one, Tensor) and _dense(one):
            memory.setdefault(one.untyped_storage()._cdata, _Saved(result=number))
    found: dict[int, _Saved] = {}
    for one in kept:
        place = one.untyped_storage()._cdata
        found.setdefault(place, memory.get(place) or _Saved(shape=tuple(one.shape), itemsize=one.itemsize))
    return [*found.values()]


def _blank(like: Any, trained: bool) -> Tensor:
    tensor = torch.empty_strided(tuple(like.shape), like.stride(), dtype=like.dtype, device="meta")
    if trained and (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.requires_grad_().clone()  # no leaf, which could not be changed in place
    return tensor


def _in_training(node: Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    for place, one in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if one.name in TRAINING:
            if place < len(args):
                args[place] = True
            else:
                kwargs[one.name] = True
    return args, kwargs


def _alike(shape: tuple[int, ...], near: Sequence[Layout]) -> Layout:
    """The layout of a tensor of which only the shape is known, by the sizes of tensors beside it.

    A dimension of which this says nothing stays.
    """
    for one in near:
        if one.shape == shape:
            return one
    dims: list[Classes | None] = []
    for size in shape:
        found = [classes for one in near for n, classes in zip(one.shape, one.classes, strict=True) if n == size]
        sure = found and all(one is not None for one in found) and math.prod(shape) > 1
        dims.append(found[-1] if sure else None)
    return Layout(shape, tuple(dims))
