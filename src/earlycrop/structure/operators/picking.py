"""Operators that take entries from positions, or put them there, by tensors of numbers: messages along edges."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from earlycrop.structure.graph import argument, shape_of, tensor_nodes
from earlycrop.structure.labels import Dims
from earlycrop.structure.operators.pointwise import combine
from earlycrop.structure.registry import Kind, Zero, rule, unknown
from earlycrop.structure.walk import Walk

_puts = partial(rule, kind=Kind.MIXES)


def _picked(walk: Walk, node: Any, values: Iterable[Any], dims: Iterable[int], numbers: Iterable[Any] = ()) -> None:
    """Freeze the dimensions whose positions are numbers, and the numbers themselves."""
    for value in values:
        walk.freeze(value, f"picked by number ({walk.where(node)})", dims)
    for one in numbers:
        walk.freeze(one, f"numbers that pick ({walk.where(node)})")


def _dim(node: Any) -> int:
    """The dimension along which entries are picked."""
    return argument(node, 1, "dim", 0) % max(len(shape_of(node.args[0])), 1)


def _run(picks: list[Any]) -> tuple[int, int] | None:
    """The dimensions that numbers or masks pick, from the first to behind the last; None if there are others between.

    A mask picks along as many dimensions as it has.
    """
    first = next(d for d, one in enumerate(picks) if one is not None)
    found, stop = picks[first:], first
    while found and found[-1] is None:
        found = found[:-1]
    for one in found:
        if one is None:  # then the picked dimensions come first in the result
            return None
        value = one.meta["val"]
        stop += value.ndim if value.dtype in (torch.bool, torch.uint8) else 1
    return first, stop


@rule("index", "_unsafe_index", kind=Kind.MOVES, zero=Zero.FIRST)
def index(walk: Walk, node: Any) -> Any:
    """Tensors of numbers pick along some dimensions, which cannot shrink; the others pass."""
    x, picks = node.args[:2]
    if (run := _run(picks)) is None:
        return unknown(walk, node)
    _picked(walk, node, [x], range(*run), tensor_nodes(picks))
    before, after = walk.raw(x)[: run[0]], walk.raw(x)[run[1] :]
    return [*before, *[None] * (len(shape_of(node)) - len(before) - len(after)), *after]


@rule("gather", kind=Kind.MOVES, zero=Zero.FIRST)
def gather(walk: Walk, node: Any) -> Any:
    """Along one dimension each place has its own number, picked from x; along the others it is a place of x."""
    x, dim, numbers = node.args[0], _dim(node), node.args[2]
    return _beside(walk, node, [x, numbers], dim, shape_of(node))


@_puts("scatter_add", "scatter", zero=Zero.ALL, picks=(2,))
@_puts("scatter_reduce", zero=Zero.ALL, picks=(2,))
def scatter(walk: Walk, node: Any) -> Any:
    """Along one dimension each entry of the source has its own number, where it is put; along the others its place."""
    x, dim, numbers = node.args[0], _dim(node), node.args[2]
    source = argument(node, 3, "src", argument(node, 3, "value"))
    return _beside(walk, node, [x, *tensor_nodes([source]), numbers], dim, shape_of(x))


def _beside(walk: Walk, node: Any, values: list[Any], dim: int, shape: tuple[int, ...]) -> Dims:
    """The labels of values that agree place by place along all dimensions but one, the last of them numbers."""
    if not all(len(shape_of(one)) == len(shape) for one in values):
        return unknown(walk, node)
    _picked(walk, node, values, [dim])
    # a dimension in which one of them is shorter takes the first places only
    short = [d for d in range(len(shape)) if d != dim and len({shape_of(one)[d] for one in values}) > 1]
    _picked(walk, node, values, short)
    fixed = f"picked together with what cannot leave ({walk.where(node)})"
    result = _united(walk, values, fixed, {dim, *short})
    return [None if d == dim or d in short else labels for d, labels in enumerate(result)]


def _united(walk: Walk, values: list[Any], reason: str, apart: set[int]) -> Dims:
    """The labels of values that agree place by place, except along some dimensions, which nothing may leave."""
    for one in values:
        walk.fix(one, range(len(shape_of(one))))
    every = [walk.dims(one) for one in values]
    result: Dims = [None] * len(every[0])
    for d in range(len(result)):
        parts = [dims[d] for dims in every]
        if d in apart or all(one is None for one in parts):
            continue
        result[d] = parts[0]
        for other in parts[1:]:
            result[d] = walk.tie(result[d], other, reason)  # type: ignore[arg-type] - no grid is left
    return result


@_puts("index_add", "index_copy", "index_reduce", zero=Zero.ALL, picks=(2,))
def index_add(walk: Walk, node: Any) -> Any:
    """Slices of the source along one dimension are added to, or put in the place of, those that are numbered."""
    x, dim, numbers, source = node.args[0], _dim(node), node.args[2], argument(node, 3, "source")
    _picked(walk, node, [x, source], [dim], [numbers])
    if len(shape_of(x)) != len(shape_of(source)):
        return unknown(walk, node)
    result = _united(walk, [x, source], f"put together with what cannot leave ({walk.where(node)})", {dim})
    return [None if d == dim else labels for d, labels in enumerate(result)]


@_puts("index_fill")
def index_fill(walk: Walk, node: Any) -> Any:
    """Slices are overwritten by one number."""
    x, dim, numbers = node.args[0], _dim(node), node.args[2]
    _picked(walk, node, [x], [dim], [numbers])
    return [None if d == dim else labels for d, labels in enumerate(walk.raw(x))]


@_puts("index_put", "_index_put_impl", "_unsafe_index_put", zero=Zero.ALL, picks=(1,))
def index_put(walk: Walk, node: Any) -> Any:
    """`x[numbers] = values`: along the picked dimensions nothing leaves; along the others x and the values agree."""
    x, picks, values = node.args[:3]
    run = _run(picks)
    if run is None or run[0] != 0:
        return unknown(walk, node)
    _picked(walk, node, [x], range(*run), tensor_nodes(picks))
    kept, shape = len(shape_of(x)) - run[1], shape_of(values)
    _picked(walk, node, [values], range(max(len(shape) - kept, 0)))
    walk.fix(values, range(len(shape)))
    theirs, mine = walk.dims(values), walk.dims(x)
    for d in range(-min(kept, len(shape)), 0):
        if shape[d] > 1 and (mine[d] is not None or theirs[d] is not None):
            mine[d] = walk.tie(mine[d], theirs[d], f"put together with what cannot leave ({walk.where(node)})")
    return [None if d in range(*run) else labels for d, labels in enumerate(mine)]


@rule("take_along_dim", kind=Kind.MOVES, zero=Zero.FIRST)
def take_along(walk: Walk, node: Any) -> Any:
    """`gather`, where numbers may be the same along a dimension, or x."""
    x, numbers, dim = node.args[0], node.args[1], argument(node, 2, "dim")
    if dim is None or len(shape_of(x)) != len(shape_of(numbers)):
        return unknown(walk, node)
    dim %= len(shape_of(x))
    _picked(walk, node, [x, numbers], [dim])
    result = combine(walk, [x, numbers], f"picked together with what cannot leave ({walk.where(node)})", skip=dim)
    return [None if d == dim else labels for d, labels in enumerate(result)]


@rule("segment_reduce", kind=Kind.MIXES, zero=Zero.LOST)
def segment_reduce(walk: Walk, node: Any) -> Any:
    """Runs of slices along one dimension become one slice each; the other dimensions pass."""
    x, axis = node.args[0], argument(node, 5, "axis", 0) % len(shape_of(node.args[0]))
    numbers = tensor_nodes((node.args[1:], node.kwargs))
    _picked(walk, node, [x], [axis], numbers)
    return [None if d == axis else labels for d, labels in enumerate(walk.raw(x))]
