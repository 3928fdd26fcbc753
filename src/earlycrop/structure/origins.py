"""Where the integers in a model's code come from: the sizes of values, and attributes of modules.

`x.reshape(b, n, heads, c // heads)` takes a size from the shape of another value. The graph shows only a number, so a
copy of the dense model runs once more, in which the sizes of values, and the attributes that count channels, remember
which channels they count. Their sums, products and quotients remember it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlycrop.structure.following import Follower, Promised
from earlycrop.structure.structure import Structure
from earlycrop.structure.trace import Program

Spaces = frozenset[int]
NONE: Spaces = frozenset()

ARITHMETIC = (
    *("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__mod__", "__divmod__", "__pow__"),
    *("__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rfloordiv__", "__rmod__", "__rdivmod__", "__rpow__"),
    *("__neg__", "__pos__", "__abs__"),
)
"""The operations whose results remember what their operands count."""


class Counted:
    """A number that knows the spaces whose channels it counts."""

    spaces: Spaces = NONE


class CountedInt(int, Counted):
    """An integer of this kind."""


class CountedFloat(float, Counted):
    """A quotient, power or the like of such integers."""


def counted(value: Any, spaces: Spaces) -> Any:
    """The number, which remembers that it counts channels of these spaces."""
    if not spaces or type(value) not in (int, float, CountedInt, CountedFloat):
        return value
    number = (CountedInt if isinstance(value, int) else CountedFloat)(value)
    number.spaces = spaces
    return number


def _remembering(name: str, kind: type) -> Callable[..., Any]:
    """An arithmetic operation whose result remembers what its operands count."""
    plain = getattr(kind, name)

    def operation(self: Any, *others: Any) -> Any:
        result = plain(self, *others)
        if result is NotImplemented and kind is int:
            result = getattr(float, name)(float(self), *others)
        spaces = self.spaces.union(*(one.spaces for one in others if isinstance(one, Counted)))
        if isinstance(result, tuple):
            return tuple(counted(one, spaces) for one in result)
        return counted(result, spaces)

    return operation


for _kind, _plain in ((CountedInt, int), (CountedFloat, float)):
    for _name in ARITHMETIC:
        setattr(_kind, _name, _remembering(_name, _plain))


class Sizes(TorchFunctionMode):
    """While it is active, sizes of values know what they count, and each operator which channels its sizes count.

    Args:
        follower: Knows the nodes of values.

    Attributes:
        spaces: For each operator, the spaces whose channels its arguments count.
    """

    def __init__(self, follower: Origins) -> None:
        super().__init__()
        self.follower = follower

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outer, self.follower.given = self.follower.given, self.follower.given | _spaces_in((args, kwargs))
        try:
            result = func(*args, **kwargs)
        finally:
            self.follower.given = outer
        if isinstance(result, torch.Size) and args and isinstance(args[0], Tensor):
            return torch.Size(map(counted, result, self.follower.along(args[0])))
        if type(result) is int and func in (Tensor.size, Tensor.numel) and args and isinstance(args[0], Tensor):
            along = self.follower.along(args[0])
            dim = (*args[1:], kwargs.get("dim"))[0]
            return counted(result, NONE.union(*along) if dim is None else along[dim])
        return result


def _spaces_in(arguments: Any) -> Spaces:
    found: list[Spaces] = []
    for one in pytree.tree_leaves(arguments):
        for number in (one.start, one.stop, one.step) if isinstance(one, slice) else (one,):
            if isinstance(number, Counted):
                found.append(number.spaces)
    return NONE.union(*found)


class Origins(Follower):
    """Follows the run of a dense copy, and notes which channels the numbers among each operator's arguments count."""

    def __init__(self, promised: Promised) -> None:
        super().__init__(promised, goes_on=False)
        self.given, self.found = NONE, dict[Node, Spaces]()

    def along(self, tensor: Tensor) -> list[Spaces]:
        """For each dimension of a value, the spaces of its channels."""
        node = self._nodes.get(tensor)
        return ([] if node is None else self.promised.promises.spaces_along(node)) or [NONE] * tensor.ndim

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.given and self.met < len(self.expected):
            self.found[self.here] = self.found.get(self.here, NONE) | self.given
        return super().__torch_dispatch__(func, types, args, kwargs)


def origins(structure: Structure, program: Program, shadow: nn.Module, promised: Promised) -> dict[Node, Spaces]:
    """For each operator, the spaces whose channels the numbers among its arguments count, as far as this is seen.

    Args:
        structure: The classes and the attributes that count them.
        program: The dense graph.
        shadow: A copy of the dense model, whose attributes are changed.
        promised: What is promised of the dense model.
    """
    membership, modules = structure.spaces(), dict(shadow.named_modules(remove_duplicate=False))
    for (path, name, position), classes in structure.attributes.items():
        spaces = frozenset(membership[classes[classes >= 0]].tolist())
        value = getattr(modules[path], name)
        if position is not None:
            sizes = [*value]
            sizes[position] = counted(sizes[position], spaces)
            setattr(modules[path], name, getattr(value, "_make", type(value))(sizes))
        else:
            setattr(modules[path], name, counted(value, spaces))
    follower = Origins(promised)
    try:
        with Sizes(follower):
            program.follow(shadow, follower)
    except Exception:  # a number of another type may not suit the code; what was seen until then holds
        pass
    return follower.found
