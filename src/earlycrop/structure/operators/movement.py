"""Operators that move entries: the labels go where the entries go."""

import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import argument, name_of, shape_of, unlabelled
from earlycrop.structure.labels import Axis, Dims, Grid
from earlycrop.structure.operators.pointwise import combine, write
from earlycrop.structure.operators.ties import same_in_each_group
from earlycrop.structure.registry import Kind, Zero, rule, unknown
from earlycrop.structure.walk import Walk

_moves = partial(rule, kind=Kind.MOVES, zero=Zero.FIRST)
_rearranges = partial(rule, kind=Kind.REARRANGES, zero=Zero.FIRST)


@_moves(operator.getitem)
def item(walk: Walk, node: Any) -> Any:
    """Takes one of several results, with its labels."""
    value = walk.values.get(node.args[0])
    return value[node.args[1]] if isinstance(value, tuple) else unlabelled(node)


@_rearranges("view", "reshape", "_unsafe_view", "unflatten", sizes=True)
@_rearranges("flatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def view(walk: Walk, node: Any) -> Any:
    """A view keeps the order of entries, so the same reshape is applied to the labels, one run of dimensions at a time.

    A dimension of channels that is split becomes a grid of labels; the operators that follow decide which of its axes
    may shrink.
    """
    x = node.args[0]
    before, after = shape_of(x), shape_of(node)
    result: Dims = [None] * len(after)
    for ins, outs in _joined(walk.raw(x), runs(before, after)):
        dims = _one_kind(walk, node, [d for d in ins if walk.raw(x)[d] is not None])
        if not dims:
            continue
        one = walk.raw(x)[dims[0]]
        if isinstance(one, Axis):  # its axes may have been permuted since a view made the grid
            axes = [walk.raw(x)[d].axis for d in dims]  # type: ignore[union-attr]
            full = one.grid.labels.permute(axes)
        else:
            full = one
        assert full is not None
        # The labels get the shape of the run before the view (expanded along dimensions without labels), then the shape
        # after it. If they then vary along one dimension only, that one holds the channels; else they form a grid.
        full = full.reshape([before[d] if d in dims else 1 for d in ins]).expand([before[d] for d in ins])
        for d, found in zip(outs, walk.arrange(full.reshape([after[d] for d in outs])), strict=True):
            result[d] = found
            walk.guess(node, found)
    return result


def _one_kind(walk: Walk, node: Any, dims: list[int]) -> list[int]:
    """Of the dimensions that a view merges, those that may still shrink: the first, or all axes of its grid."""
    x = node.args[0]
    if len(dims) > 1:
        for d in dims:
            one = walk.raw(x)[d]
            # entries that are all the same give way to channels that a layer made
            if isinstance(one, Tensor) and any(one is spread for spread in walk.spread):
                walk.labels.freeze(one, f"merged with channels ({walk.where(node)})")
                dims = [other for other in dims if other != d]
    # two independent sets of channels cannot both shrink in a merged dimension: what stays would be no block of it
    kinds = {d: id(one.grid) if isinstance(one := walk.raw(x)[d], Axis) else d for d in dims}
    first = [d for d in dims if kinds[d] == kinds[dims[0]]]
    walk.freeze(x, f"merged with other channels ({walk.where(node)})", [d for d in dims if d not in first])
    return first


def _joined(dims: Dims, runs: list[tuple[tuple[int, int], tuple[int, int]]]) -> list[tuple[list[int], list[int]]]:
    """The dimensions of each run, before and after; runs that hold axes of one grid are joined into one."""
    found: list[tuple[list[int], list[int], set[int]]] = []
    for (i, j), (p, q) in runs:
        ins, outs = list(range(i, j)), list(range(p, q))
        grids = {id(one.grid) for d in ins if isinstance(one := dims[d], Axis)}
        # what happens to one axis of a grid restricts the others, so they are handled together, even with runs between
        for other in [other for other in found if other[2] & grids]:
            found.remove(other)
            ins, outs, grids = other[0] + ins, other[1] + outs, grids | other[2]
        found.append((ins, outs, grids))
    return [(ins, outs) for ins, outs, _ in found]


def runs(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The shortest runs of dimensions with equal products: (2, 3, 4) to (6, 4) is [0:2]->[0:1], [2:3]->[1:2]."""
    runs, i, p = [], 0, 0
    while i < len(before) and p < len(after):
        j, q, a, b = i + 1, p + 1, before[i], after[p]
        while a != b:
            if a < b:
                a, j = a * before[j], j + 1
            else:
                b, q = b * after[q], q + 1
        runs.append(((i, j), (p, q)))
        i, p = j, q
    if runs and (i < len(before) or p < len(after)):  # trailing sizes of one belong to the last run
        (i, _), (p, _) = runs[-1]
        runs[-1] = ((i, len(before)), (p, len(after)))
    return runs


@_rearranges("permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint")
def by_position(walk: Walk, node: Any) -> Any:
    """Labels move with their dimensions: run the operator itself on a probe whose sizes number the dimensions."""
    x = node.args[0]
    ndim = len(shape_of(x))
    probe = torch.empty([d + 2 for d in range(ndim)], device="meta")  # distinct sizes, none of them 0 or 1
    moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    dims = walk.raw(x)
    return [dims[size - 2] for size in moved.shape]


@_moves("expand", "broadcast_to", sizes=True, powers=(1,))
def expand(walk: Walk, node: Any) -> Any:
    """Dimensions of size one grow; the others keep their labels.

    Along a dimension that grows all entries are the same, so any of them may leave if the size in the code follows; the
    trial cut finds out whether it does.
    """
    x, shape = node.args[0], shape_of(node)
    result: Dims = [None] * len(shape)
    for dim in range(-1, -len(shape) - 1, -1):
        if len(shape_of(x)) >= -dim and shape_of(x)[dim] == shape[dim]:
            result[dim] = walk.raw(x)[dim]
        else:
            result[dim] = _alike(walk, node, shape[dim])
    return result


@rule("zeros", "new_zeros", kind=Kind.FILLS, zero=Zero.EVERYWHERE, sizes=True)
@rule("ones", "full", "empty", kind=Kind.FILLS, sizes=True)
@rule("new_ones", "new_full", "new_empty", kind=Kind.FILLS, sizes=True)
def constant(walk: Walk, node: Any) -> Any:
    """All entries are the same, so any of them may leave if the size in the code follows."""
    return [_alike(walk, node, size) for size in shape_of(node)]


def _alike(walk: Walk, node: Any, size: int) -> Tensor | None:
    """New labels for `size` entries that are all the same; None for a single one."""
    if size == 1:
        return None
    labels = walk.labels.fresh(size)
    walk.spread.append(labels)
    walk.guess(node, labels)
    return labels


@rule("cat", "concat", "concatenate", kind=Kind.CONCATENATES, zero=Zero.ALL)
def cat(walk: Walk, node: Any) -> Any:
    """Labels are concatenated like the data; along the other dimensions the parts are united."""
    dim = argument(node, 1, "dim", 0) % len(shape_of(node))
    parts = [part for part in node.args[0] if shape_of(part) != (0,)]
    for part in parts:
        walk.fix(part, [dim])
    result = combine(walk, parts, f"concatenated beside what cannot leave ({walk.where(node)})", skip=dim)
    write(walk, node, parts, skip=dim - len(shape_of(node)))
    labels = [walk.raw(part)[dim] for part in parts]
    if any(one is not None for one in labels):
        whole = [
            _immovable(walk, node, shape_of(part)[dim]) if one is None else one
            for part, one in zip(parts, labels, strict=True)
        ]
        result[dim] = torch.cat(whole)  # type: ignore[arg-type] - no grid is left along it
    return result


def _immovable(walk: Walk, node: Any, size: int) -> Tensor:
    """New labels for `size` entries that cannot leave."""
    labels = walk.labels.fresh(size)
    walk.labels.freeze(labels, f"entries that no parameter makes ({walk.where(node)})")
    return labels


@rule("stack", kind=Kind.MOVES, zero=Zero.ALL)
def stack(walk: Walk, node: Any) -> Any:
    """The parts are united along their dimensions; nothing can leave along the new one."""
    dim = argument(node, 1, "dim", 0) % len(shape_of(node))
    result = combine(walk, list(node.args[0]), f"stacked with what cannot leave ({walk.where(node)})")
    result.insert(dim, None)
    return result


@_moves("chunk", "tensor_split", "unsafe_chunk")
def chunk(walk: Walk, node: Any) -> Any:
    """Each of n equal parts loses the same offsets, so that they stay equal."""
    x, pieces = node.args[:2]
    dim = argument(node, 2, "dim", 0) % len(shape_of(x))
    walk.fix(x, [dim])
    labels = walk.raw(x)[dim]
    results = unlabelled(node)
    if (
        isinstance(labels, Tensor)
        and isinstance(pieces, int)
        and labels.numel() % pieces == 0
        and len(results) == pieces
    ):
        same_in_each_group(walk, labels, pieces)
        offsets = list(labels.view(pieces, -1))
    else:
        walk.freeze(x, f"cut into unequal parts ({walk.where(node)})", [dim])
        offsets = [None] * len(results)
    return tuple(_with(walk.raw(x), dim, part) for part in offsets)


def _with(dims: Dims, dim: int, labels: Tensor | None) -> Dims:
    """The same labels, except along one dimension."""
    return [*dims[:dim], labels, *dims[dim + 1 :]]


@rule("glu", kind=Kind.ENTRYWISE, zero=Zero.FIRST)
def glu(walk: Walk, node: Any) -> Any:
    """One half gates the other, so both lose the same offsets."""
    x = node.args[0]
    dim = argument(node, 1, "dim", -1) % len(shape_of(x))
    walk.fix(x, [dim])
    labels = walk.raw(x)[dim]
    if not isinstance(labels, Tensor):
        return list(walk.raw(x))
    same_in_each_group(walk, labels, 2)
    return _with(walk.raw(x), dim, labels.view(2, -1)[0])


@_moves("split", "split_with_sizes", sizes=True)
@_moves("unsafe_split", "unsafe_split_with_sizes")
def split(walk: Walk, node: Any) -> Any:
    """Equal parts lose the same offsets; parts of different sizes may shrink if the sizes in the code follow."""
    x = node.args[0]
    dim = argument(node, 2, "dim", 0) % len(shape_of(x))
    walk.fix(x, [dim])
    sizes = [value.shape[dim] for value in node.meta["val"]]
    labels = walk.raw(x)[dim]
    if not isinstance(labels, Tensor):
        return tuple(list(walk.raw(x)) for _ in sizes)
    if len(set(sizes)) == 1:
        same_in_each_group(walk, labels, len(sizes))
    elif isinstance(node.args[1], int):
        walk.labels.freeze(labels, f"cut into unequal parts ({walk.where(node)})")
    for part in labels.split(sizes):
        walk.guess(node, part)
    return tuple(_with(walk.raw(x), dim, part) for part in labels.split(sizes))


@_moves("unbind")
def unbind(walk: Walk, node: Any) -> Any:
    """Each index becomes a value of its own, so none of them can leave."""
    x = node.args[0]
    dim = argument(node, 1, "dim", 0) % len(shape_of(x))
    walk.freeze(x, f"one value for each index ({walk.where(node)})", [dim])
    rest = _without(walk.raw(x), dim)
    return tuple(list(rest) for _ in node.meta["val"])


def _without(dims: Dims, dim: int) -> Dims:
    """The same labels, without one dimension."""
    return [*dims[:dim], *dims[dim + 1 :]]


@_moves("select")
def select(walk: Walk, node: Any) -> Any:
    """Takes a literal position, so nothing can leave along its dimension."""
    x = node.args[0]
    dim = argument(node, 1, "dim", 0) % len(shape_of(x))
    walk.freeze(x, f"picked by position ({walk.where(node)})", [dim])
    return _without(walk.raw(x), dim)


@_moves("slice", "narrow", sizes=True)
def slice_(walk: Walk, node: Any) -> Any:
    """Takes a range of positions: if it is one of several equal parts, each part loses the same offsets.

    Then it is still such a part after a cut. Other positions must come from integers of the module; the trial cut finds
    out whether they follow.
    """
    x = node.args[0]
    dim = argument(node, 1, "dim", 0) % len(shape_of(x))
    size, part = shape_of(x)[dim], shape_of(node)[dim]
    # a slice that takes everything chooses no positions
    if size == part and name_of(node) == "slice" and argument(node, 4, "step", 1) == 1:
        return list(walk.raw(x))
    walk.fix(x, [dim])
    labels, start = walk.raw(x)[dim], argument(node, 2, "start", None) or 0
    if not isinstance(labels, Tensor):
        return list(walk.raw(x))
    if not isinstance(start, int) or argument(node, 4, "step", 1) != 1:
        walk.freeze(x, f"picked by position ({walk.where(node)})", [dim])
        return _with(walk.raw(x), dim, None)
    start = min(start + size if start < 0 else start, size)
    if 0 < part < size and size % part == start % part == 0:
        same_in_each_group(walk, labels, size // part)
    # if start or end come from an integer of the module, that integer is the size of one of these pieces
    for piece in (labels[:start], labels[start : start + part], labels[: start + part], labels[start + part :]):
        walk.guess(node, piece)
    walk.positions[node.name] = (labels, start, start + part)
    return _with(walk.raw(x), dim, labels[start : start + part])


@_moves("index_select", "flip", "roll")
def pick(walk: Walk, node: Any) -> Any:
    """The positions are literal, so a dimension from which they pick cannot shrink; the others pass."""
    x = node.args[0]
    position = 2 if name_of(node) == "roll" else 1
    dims = argument(node, position, "dims", argument(node, position, "dim", None))
    ndim = len(shape_of(x))
    touched = range(ndim) if dims in (None, []) else [d % ndim for d in ([dims] if isinstance(dims, int) else dims)]
    walk.freeze(x, f"picked by position ({walk.where(node)})", touched)
    return [None if d in touched else labels for d, labels in enumerate(walk.raw(x))]


@_moves("repeat_interleave")
def repeat_interleave(walk: Walk, node: Any) -> Any:
    """Each index is repeated in place, so its copies share its label."""
    x, repeats = node.args[0], argument(node, 1, "repeats")
    dim = argument(node, 2, "dim", None)
    if dim is None:
        return unknown(walk, node)
    dim %= len(shape_of(x))
    if not isinstance(repeats, int):  # a number for each index
        walk.freeze(x, f"repeated by number ({walk.where(node)})", [dim])
        return list(walk.raw(x))
    labels = walk.raw(x)[dim]
    if isinstance(labels, Tensor):
        return _with(walk.raw(x), dim, labels.repeat_interleave(repeats))
    if not isinstance(labels, Axis):
        return list(walk.raw(x))
    grid = Grid(labels.grid.labels.repeat_interleave(repeats, labels.axis))
    walk.grids.append(grid)
    return [Axis(grid, one.axis) if isinstance(one, Axis) and one.grid is labels.grid else one for one in walk.raw(x)]


@_moves("repeat", "tile")
def repeat(walk: Walk, node: Any) -> Any:
    """The whole tensor is repeated, so the labels are too, in the same order."""
    x, shape = node.args[0], shape_of(node)
    dims = [None] * (len(shape) - len(shape_of(x))) + walk.dims(x)
    sizes = (1,) * (len(shape) - len(shape_of(x))) + shape_of(x)
    return [
        None if labels is None else labels.repeat(after // before)
        for labels, before, after in zip(dims, sizes, shape, strict=True)
    ]


def _padding(node: Node) -> Zero:
    """Zeros stay zeros if the padding is zero too."""
    return Zero.LOST if any(node.args[2:]) else Zero.FIRST


@rule("constant_pad_nd", kind=Kind.MOVES, zero=_padding)
@rule("pad", kind=Kind.MOVES)
def pad(walk: Walk, node: Any) -> Any:
    """Constant padding adds entries that cannot leave; other modes read neighbours, so nothing there can leave."""
    x, amounts = node.args[:2]
    constant = name_of(node) == "constant_pad_nd" or argument(node, 2, "mode", "constant") == "constant"
    ndim = len(shape_of(x))
    touched = [ndim - 1 - k for k in range(len(amounts) // 2) if any(amounts[2 * k : 2 * k + 2])]
    walk.fix(x, touched)
    result = list(walk.raw(x))
    for dim in touched:
        low, high = amounts[2 * (ndim - 1 - dim) : 2 * (ndim - dim)]
        labels = result[dim]
        if not isinstance(labels, Tensor):
            continue
        if constant and low >= 0 and high >= 0:
            result[dim] = torch.cat([_immovable(walk, node, low), labels, _immovable(walk, node, high)])
        else:
            walk.labels.freeze(labels, f"padded by neighbours or cropped ({walk.where(node)})")
            result[dim] = None
    return result


@_rearranges("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(walk: Walk, node: Any) -> Any:
    """Interleaves the groups; each loses the same offsets, so that they interleave as before."""
    x, groups = node.args[:2]
    dims = walk.dims(x)
    if (labels := dims[1]) is not None:
        same_in_each_group(walk, labels, groups)
        dims = _with(dims, 1, labels.view(groups, -1).T.reshape(-1))
    return dims


@_moves("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Any) -> Any:
    """r² channels become one channel, so they leave together."""
    x, factor = node.args[:2]
    dims = walk.dims(x)
    result: Dims = [None] * len(dims)  # batch dimensions pass, but nothing can leave along them
    if (labels := dims[-3]) is not None:
        blocks = labels.view(-1, factor * factor)
        walk.labels.unite(blocks, blocks[:, :1])
        result[-3] = blocks[:, 0].clone()
    return result


@_moves("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: Any) -> Any:
    """One channel becomes r² channels, which share its label."""
    x, factor = node.args[:2]
    result: Dims = [None] * len(shape_of(node))
    if (labels := walk.dims(x)[-3]) is not None:
        result[-3] = labels.repeat_interleave(factor * factor)
    return result


@rule("sym_size", "_assert_tensor_metadata", "size")
def unrelated(walk: Walk, node: Any) -> Any:
    """The result carries no labels: it is a size, or nothing."""
    return unlabelled(node)
