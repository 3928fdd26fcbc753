"""What each operator does to labels. An operator without a rule freezes everything that it touches.

A rule takes the walk and the node and returns the labels of the result. Operators that PyTorch itself
tags as pointwise share one rule; so do those that only move data along dimensions that nothing leaves.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.labels import Dims
from earlycrop.structure.walk import Walk, operator_of, shape_of, tensor_nodes, unlabelled

Rule = Callable[[Walk, Any], Any]  # the node is untyped here: its arguments are whatever the operator takes
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names of aten operators; the in-place twin `name_` shares it."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def apply(walk: Walk, node: Any) -> Any:
    """The labels of what this node returns."""
    target = node.target
    if target is operator.getitem:
        value = walk.values.get(node.args[0])
        return value[node.args[1]] if isinstance(value, tuple) else unlabelled(node)
    if isinstance(target, torch._ops.OpOverload):
        if target.namespace == "aten":
            name = target.overloadpacket.__name__
            found = RULES.get(name) or RULES.get(name.rstrip("_"))
            if found is not None:
                return found(walk, node)
        if torch.Tag.pointwise in target.tags:
            return pointwise(walk, node)
    if any(_labelled(walk.values.get(arg)) for arg in tensor_nodes((node.args, node.kwargs))):
        return unknown(walk, node)
    return unlabelled(node)


def unknown(walk: Walk, node: Any) -> Any:
    """No rule: freeze all that goes in; what comes out cannot shrink."""
    reason = f"the operator {getattr(node.target, '_name', node.target)} has no rule"
    walk.unruled.setdefault(walk.where(node), reason)
    for arg in tensor_nodes((node.args, node.kwargs)):
        walk.freeze(arg, f"{reason} ({walk.where(node)})")
    return unlabelled(node)


def _labelled(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_labelled(part) for part in value)
    return isinstance(value, list) and any(labels is not None for labels in value)


def _arg(node: Any, position: int, name: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


# Pointwise ---------------------------------------------------------------------------------------------


@rule("dropout", "feature_dropout", "alpha_dropout", "native_dropout", "feature_alpha_dropout")
@rule("clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy", "copy", "float")
@rule("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "empty_like", "fill", "zero", "relu6")
@rule("hardtanh", "leaky_relu", "rrelu", "hardswish", "hardsigmoid", "mish", "silu", "selu", "celu", "elu", "softplus")
@rule("logsigmoid", "log_sigmoid", "expand_as", "requires_grad")
def pointwise(walk: Walk, node: Any) -> Any:
    """Each entry depends on the entries at its own place: operands share labels, ones broadcast."""
    if not isinstance(node.meta.get("val"), Tensor):
        return unknown(walk, node)
    shape = shape_of(node)
    result: Dims = [None] * len(shape)
    operands = [arg for arg in tensor_nodes((node.args, node.kwargs)) if isinstance(arg.meta.get("val"), Tensor)]
    if _name(node) in ("type_as", "fill"):
        operands = operands[:1]
    for dim in range(-1, -len(shape) - 1, -1):
        sized = [arg for arg in operands if len(shape_of(arg)) >= -dim and shape_of(arg)[dim] == shape[dim] != 1]
        labels = [walk.dims(arg)[dim] for arg in sized]
        found = [one for one in labels if one is not None]
        for other in found[1:]:
            walk.labels.unite(found[0], other)
        if found and len(found) < len(labels):
            walk.labels.freeze(found[0], f"combined with a tensor whose size cannot change ({walk.where(node)})")
        result[dim] = found[0] if found else None
    if _name(node) in ("add", "sub", "rsub"):
        for arg in operands:
            ndim = len(shape_of(arg))
            for dim in range(ndim) if arg in walk.origin else ():
                if walk.dims(arg)[dim] is not None:
                    walk.create(node, (arg, dim))
    return result


def _name(node: Any) -> str:
    return operator_of(node).rstrip("_")


@rule("prelu")
def prelu(walk: Walk, node: Any) -> Any:
    """One slope for all, or one per channel (dimension 1)."""
    x, slope = node.args[:2]
    dims = walk.dims(x)
    if math.prod(shape_of(slope)) > 1:
        walk.tie(dims[1], walk.dims(slope)[0], f"slopes per channel ({walk.where(node)})")
        walk.attribute(node, "num_parameters", dims[1])
    return list(dims)


# Products: where channels are created and read ---------------------------------------------------------


def _input_reason(walk: Walk, node: Any) -> str:
    return f"reads or is read together with channels that cannot leave ({walk.where(node)})"


@rule("linear")
def linear(walk: Walk, node: Any) -> Any:
    """y = x Wᵀ + b: W's rows create, its columns read the last dimension of x."""
    x, weight, bias = node.args[0], node.args[1], _arg(node, 2, "bias")
    dims, w = walk.dims(x), walk.dims(weight)
    read = walk.tie(dims[-1], w[-1], _input_reason(walk, node))
    walk.attribute(node, "in_features", read)
    if len(w) == 1:
        return dims[:-1]
    walk.attribute(node, "out_features", w[0])
    _write(walk, node, weight, 0, w[0], bias)
    _count(walk, node, weight, math.prod(shape_of(x)[:-1]))
    return [*dims[:-1], w[0]]


def _write(walk: Walk, node: Any, weight: Any, dim: int, labels: Tensor | None, bias: Any) -> None:
    """Rows of `weight` (and the bias) create the channels of `node`."""
    sites = [(weight, dim)]
    if isinstance(bias, Node):
        walk.tie(labels, walk.dims(bias)[0], _input_reason(walk, node))
        sites.append((bias, 0))
    walk.create(node, *sites)


def _count(walk: Walk, node: Any, weight: Any, uses: int) -> None:
    """Each entry of the weight takes part in `uses` multiply-adds."""
    if weight in walk.origin:
        walk.products.append((walk.origin[weight], uses))


@rule("conv1d", "conv2d", "conv3d")
def convolution(walk: Walk, node: Any) -> Any:
    """The weight is (out, in / groups, ...): its rows create, its columns read dimension 1 of x."""
    x, weight, bias = node.args[0], node.args[1], _arg(node, 2, "bias")
    groups = _arg(node, 6, "groups", 1)
    w, positions = walk.dims(weight), math.prod(shape_of(node)) // shape_of(weight)[0]
    reads, writes = _grouped(walk, node, x, w[1], w[0], groups, shape_of(weight)[0])
    if groups == 1 or not _carries(shape_of(x), groups):
        _write(walk, node, weight, 0, writes, bias)
    elif isinstance(bias, Node):
        walk.tie(writes, walk.dims(bias)[0], _input_reason(walk, node))
    walk.attribute(node, "in_channels", reads)
    walk.attribute(node, "out_channels", writes)
    _count(walk, node, weight, positions)
    return _spatial(walk, node, x, writes)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(walk: Walk, node: Any) -> Any:
    """The weight is (in, out / groups, ...): its columns create, its rows read dimension 1 of x."""
    x, weight, bias = node.args[0], node.args[1], _arg(node, 2, "bias")
    groups = _arg(node, 6, "groups", 1)
    w, out_channels = walk.dims(weight), shape_of(node)[-len(shape_of(weight)) + 1]
    if groups == 1:
        reads = walk.tie(walk.dims(x)[1], w[0], _input_reason(walk, node))
        writes = w[1]
        _write(walk, node, weight, 1, writes, bias)
    else:
        # The columns of all groups are one dimension of the weight, so the groups lose the same columns.
        reads = walk.tie(walk.dims(x)[1], w[0], _input_reason(walk, node))
        writes = walk.labels.fresh(out_channels)
        per_group = out_channels // groups
        if per_group > 1 and shape_of(weight)[0] // groups > 1:
            walk.tie(w[1], writes.view(groups, per_group)[0], "")
            _same_in_each_group(walk, writes, groups)
            _same_in_each_group(walk, reads, groups)
            # one column writes a channel in every group; the site is still (weight, 1)
            _write(walk, node, weight, 1, w[1], None)
        else:
            walk.labels.freeze(w[1], "a column that every group of a transposed convolution shares")
            _whole_groups(walk, node, reads, writes, groups)
        if isinstance(bias, Node):
            walk.tie(writes, walk.dims(bias)[0], _input_reason(walk, node))
    walk.attribute(node, "in_channels", reads)
    walk.attribute(node, "out_channels", writes)
    _count(walk, node, weight, math.prod(shape_of(x)) // shape_of(x)[1])
    return _spatial(walk, node, x, writes)


def _carries(x: tuple[int, ...], groups: int) -> bool:
    """A depthwise convolution carries its input's channels through; it does not create channels."""
    return x[1] == groups


def _grouped(
    walk: Walk, node: Any, x: Any, w_in: Tensor | None, w_out: Tensor | None, groups: int, out: int
) -> tuple[Tensor | None, Tensor | None]:
    """Tie a convolution's channel dimensions to its weight's; return what it reads and what it writes."""
    dims, channels = walk.dims(x), shape_of(x)[1]
    if groups == 1:
        return walk.tie(dims[1], w_in, _input_reason(walk, node)), w_out
    reads, per_group = dims[1], channels // groups
    if per_group > 1 and out // groups > 1:
        # Every group loses the same offsets, so that groups stay equally wide.
        _same_in_each_group(walk, w_out, groups)
        _same_in_each_group(walk, reads, groups)
        walk.tie(None if reads is None else reads.view(groups, -1)[0], w_in, _input_reason(walk, node))
    else:
        walk.labels.freeze(w_in, "a column that every group of a convolution shares")
        _whole_groups(walk, node, reads, w_out, groups)
    return reads, w_out


def _same_in_each_group(walk: Walk, labels: Tensor | None, groups: int) -> None:
    if labels is not None:
        walk.labels.unite(labels.view(groups, -1), labels.view(groups, -1)[:1])


def _whole_groups(walk: Walk, node: Any, reads: Tensor | None, writes: Tensor | None, groups: int) -> None:
    """A group leaves with all that it reads and writes."""
    if reads is None or writes is None:
        walk.tie(reads, writes, _input_reason(walk, node))
        if reads is None:
            walk.labels.freeze(writes, _input_reason(walk, node))
        return
    heads = writes.view(groups, -1)[:, :1]
    walk.labels.unite(writes.view(groups, -1), heads)
    walk.labels.unite(reads.view(groups, -1), heads)
    walk.attribute(node, "groups", heads.reshape(-1))
    walk.arguments[node.name] = heads.reshape(-1)


def _spatial(walk: Walk, node: Any, x: Any, channels: Tensor | None) -> Dims:
    """Batch as it was, channels as given; along space a convolution mixes."""
    unbatched = len(shape_of(x)) < len(shape_of(node.args[1]))
    if unbatched:
        walk.freeze(x, f"an input without a batch dimension ({walk.where(node)})")
        walk.labels.freeze(channels, f"an input without a batch dimension ({walk.where(node)})")
        return unlabelled(node)
    walk.freeze(x, f"mixed over space ({walk.where(node)})", range(2, len(shape_of(x))))
    return [walk.dims(x)[0], channels, *[None] * (len(shape_of(node)) - 2)]


@rule("matmul", "mm", "bmm")
def matmul(walk: Walk, node: Any) -> Any:
    """Contracts the last dimension of a with the second to last of b; batch dimensions broadcast."""
    a, b = node.args[:2]
    da, db = walk.dims(a), walk.dims(b)
    if len(da) < 2 or len(db) < 2:
        return unknown(walk, node)
    walk.tie(da[-1], db[-2], _input_reason(walk, node))
    result: Dims = [None] * len(shape_of(node))
    result[-2:] = [da[-2], db[-1]]
    for dim in range(-3, -len(result) - 1, -1):
        parts = [(d[dim], shape_of(arg)[dim]) for d, arg in ((da, a), (db, b)) if len(d) >= -dim]
        wide = [labels for labels, size in parts if size > 1]
        both = len(wide) == 2
        result[dim] = walk.tie(wide[0], wide[1], _input_reason(walk, node)) if both else next(iter(wide), None)
    if b in walk.origin and db[-1] is not None:
        walk.create(node, (b, len(db) - 1))
    if a in walk.origin and da[-2] is not None:
        walk.create(node, (a, len(da) - 2))
    inner = shape_of(a)[-1]
    for weight, other in ((b, a), (a, b)):
        _count(walk, node, weight, math.prod(shape_of(other)) // inner)
    return result


@rule("addmm")
def addmm(walk: Walk, node: Any) -> Any:
    """b + x W, W being (in, out)."""
    bias, x, weight = node.args[:3]
    dx, dw = walk.dims(x), walk.dims(weight)
    walk.tie(dx[-1], dw[0], _input_reason(walk, node))
    if len(shape_of(bias)) == 1:
        _write(walk, node, weight, 1, dw[1], bias)
    else:
        walk.freeze(bias, _input_reason(walk, node))
        walk.labels.freeze(dw[1], _input_reason(walk, node))
    _count(walk, node, weight, shape_of(x)[0])
    return [dx[0], dw[1]]


@rule("embedding")
def embedding(walk: Walk, node: Any) -> Any:
    """Rows of the table are picked by number, so only its columns may leave."""
    table = node.args[0]
    walk.freeze(table, f"rows are picked by number ({walk.where(node)})", [0])
    width = walk.dims(table)[1]
    walk.attribute(node, "embedding_dim", width)
    walk.create(node, (table, 1))
    return [*walk.dims(node.args[1]), width]


# Norms -------------------------------------------------------------------------------------------------


def _affine(walk: Walk, node: Any, *params: tuple[Any, Tensor | None, int]) -> None:
    """Tie per-channel parameters and buffers to the channels."""
    for param, labels, dim in params:
        if isinstance(param, Node):
            walk.tie(labels, walk.dims(param)[dim], f"normalised together with what cannot leave ({walk.where(node)})")


def _note_norm(walk: Walk, node: Any, weight: Any, bias: Any, dim: int) -> None:
    """Where a gate behind this norm would sit: on its own scale and shift."""
    if isinstance(weight, Node) and weight in walk.origin:
        affine = [p for p in (weight, bias) if isinstance(p, Node) and p in walk.origin]
        walk.norms[node] = tuple((walk.origin[p], dim) for p in affine)


@rule("batch_norm", "instance_norm")
def batch_norm(walk: Walk, node: Any) -> Any:
    """Each channel (dimension 1) is normalised on its own."""
    x, weight, bias, mean, var = node.args[:5]
    dims = walk.dims(x)
    walk.freeze(x, f"normalised over ({walk.where(node)})", [0, *range(2, len(dims))])
    _affine(walk, node, *((p, dims[1], 0) for p in (weight, bias, mean, var)))
    _note_norm(walk, node, weight, bias, 0)
    walk.attribute(node, "num_features", dims[1])
    return [None, dims[1], *[None] * (len(dims) - 2)]


@rule("layer_norm", "rms_norm")
def layer_norm(walk: Walk, node: Any) -> Any:
    """The trailing dimensions are normalised together; what stays is normalised among itself after a cut."""
    x, normalized = node.args[:2]
    weight = _arg(node, 2, "weight")
    bias = _arg(node, 3, "bias") if _name(node) == "layer_norm" else None
    dims, n = walk.dims(x), len(normalized)
    for dim in range(-n, 0):
        _affine(walk, node, (weight, dims[dim], dim), (bias, dims[dim], dim))
        walk.attribute(node, "normalized_shape", dims[dim], dim)
        if dims[dim] is not None:
            _note_norm(walk, node, weight, bias, n + dim)
    return list(dims)


@rule("group_norm")
def group_norm(walk: Walk, node: Any) -> Any:
    """Channels leave by whole groups, or the same number from every group: whichever cuts finer."""
    x, groups = node.args[:2]
    weight, bias = _arg(node, 2, "weight"), _arg(node, 3, "bias")
    dims = walk.dims(x)
    walk.freeze(x, f"normalised over ({walk.where(node)})", range(2, len(dims)))
    channels = dims[1]
    _affine(walk, node, (weight, channels, 0), (bias, channels, 0))
    _note_norm(walk, node, weight, bias, 0)
    walk.attribute(node, "num_channels", channels)
    if channels is not None:
        grid = channels.view(groups, -1)
        if groups >= grid.shape[1]:
            walk.labels.unite(grid, grid[:, :1])
            walk.attribute(node, "num_groups", grid[:, 0])
            walk.arguments[node.name] = grid[:, 0]
        else:
            walk.labels.unite(grid, grid[:1])
    return [dims[0], channels, *[None] * (len(dims) - 2)]


# Movement ----------------------------------------------------------------------------------------------


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def view(walk: Walk, node: Any) -> Any:
    """The entries keep their order: run the reshape on the labels, run of dimensions by run."""
    x = node.args[0]
    dims, before, after = walk.dims(x), shape_of(x), shape_of(node)
    result: Dims = [None] * len(after)
    if not _labelled(dims):
        return result
    for (i, j), (p, q) in _runs(before, after):
        labelled = [d for d in range(i, j) if dims[d] is not None]
        if not labelled:
            continue
        if len(labelled) > 1:
            walk.freeze(x, f"two dimensions of channels are merged ({walk.where(node)})", labelled)
            continue
        (d,) = labelled
        labels = dims[d]
        assert labels is not None
        full = labels.view([-1 if k == d else 1 for k in range(i, j)]).expand(before[i:j]).reshape(after[p:q])
        varying = [k for k in range(full.ndim) if not bool((full == full.narrow(k, 0, 1)).all())]
        if len(varying) == 1:
            (k,) = varying
            result[p + k] = full.movedim(k, 0).reshape(full.shape[k], -1)[:, 0].clone()
        else:
            walk.labels.freeze(labels, f"channels are split into a grid ({walk.where(node)})")
    return result


def _runs(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The shortest runs of dimensions of equal size: (2, 3, 4) to (6, 4) is [0:2]->[0:1], [2:3]->[1:2]."""
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
    if runs and (i < len(before) or p < len(after)):  # ones at the end belong to the last run
        (i, _), (p, _) = runs[-1]
        runs[-1] = ((i, len(before)), (p, len(after)))
    return runs


def _by_position(walk: Walk, node: Any) -> Any:
    """Run the operator itself on the numbers of the dimensions."""
    x = node.args[0]
    ndim = len(shape_of(x))
    probe = torch.empty([d + 2 for d in range(ndim)], device="meta")
    moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    dims = walk.dims(x)
    return [dims[size - 2] for size in moved.shape]


for _movement in ("permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint"):
    RULES[_movement] = _by_position


@rule("expand", "broadcast_to")
def expand(walk: Walk, node: Any) -> Any:
    """Dimensions of size one grow; the others keep their labels.

    What a parameter or buffer is spread over is alike everywhere, so any of it may leave if the code's
    size follows; the rehearsal sees whether it does.
    """
    x, shape = node.args[0], shape_of(node)
    result: Dims = [None] * len(shape)
    for dim in range(-1, -len(shape) - 1, -1):
        if len(shape_of(x)) >= -dim and shape_of(x)[dim] == shape[dim]:
            result[dim] = walk.dims(x)[dim]
        elif x in walk.origin and shape[dim] > 1:
            result[dim] = walk.labels.fresh(shape[dim])
    return result


@rule("cat", "concat", "concatenate")
def cat(walk: Walk, node: Any) -> Any:
    """Labels are concatenated as data are; along other dimensions the parts are one."""
    parts = list(node.args[0])
    dim = _arg(node, 1, "dim", 0) % len(shape_of(node))
    parts = [part for part in parts if shape_of(part) != (0,)]
    result: Dims = []
    for d in range(len(shape_of(node))):
        labels = [walk.dims(part)[d] for part in parts]
        if all(one is None for one in labels):
            result.append(None)
        elif d == dim:
            whole = [
                _immovable(walk, node, shape_of(part)[d]) if one is None else one
                for part, one in zip(parts, labels, strict=True)
            ]
            result.append(torch.cat(whole))
        else:
            first = labels[0]
            for other in labels[1:]:
                first = walk.tie(first, other, f"concatenated beside what cannot leave ({walk.where(node)})")
            result.append(first)
    return result


def _immovable(walk: Walk, node: Any, size: int) -> Tensor:
    """New labels for entries that cannot leave."""
    labels = walk.labels.fresh(size)
    walk.labels.freeze(labels, f"entries that no parameter makes ({walk.where(node)})")
    return labels


@rule("stack")
def stack(walk: Walk, node: Any) -> Any:
    """A new dimension; along the others the parts are one."""
    parts = list(node.args[0])
    dim = _arg(node, 1, "dim", 0) % len(shape_of(node))
    result = list(walk.dims(parts[0]))
    for part in parts[1:]:
        result = [
            None if a is None and b is None else walk.tie(a, b, f"stacked with what cannot leave ({walk.where(node)})")
            for a, b in zip(result, walk.dims(part), strict=True)
        ]
    result.insert(dim, None)
    return result


@rule("chunk")
def chunk(walk: Walk, node: Any) -> Any:
    """n equal parts: each loses the same offsets, so that the parts stay equal."""
    x, pieces = node.args[:2]
    dim = _arg(node, 2, "dim", 0) % len(shape_of(x))
    labels = walk.dims(x)[dim]
    results = unlabelled(node)
    if labels is not None and labels.numel() % pieces == 0 and len(results) == pieces:
        _same_in_each_group(walk, labels, pieces)
        offsets = labels.view(pieces, -1)
    else:
        walk.labels.freeze(labels, f"cut into unequal parts ({walk.where(node)})")
        offsets = [None] * len(results)
    return tuple([*walk.dims(x)[:dim], part, *walk.dims(x)[dim + 1 :]] for part in offsets)


@rule("glu")
def glu(walk: Walk, node: Any) -> Any:
    """One half gates the other: both lose the same offsets."""
    x = node.args[0]
    dim = _arg(node, 1, "dim", -1) % len(shape_of(x))
    result = list(walk.dims(x))
    labels = result[dim]
    if labels is not None:
        _same_in_each_group(walk, labels, 2)
        result[dim] = labels.view(2, -1)[0]
    return result


@rule("split", "split_with_sizes", "unsafe_split", "tensor_split", "unbind")
def split(walk: Walk, node: Any) -> Any:
    """Sizes are literal, so a dimension that is split cannot shrink; the others pass."""
    x = node.args[0]
    name = _name(node)
    dim = _arg(node, 1 if name == "unbind" else 2, "dim", 0) % len(shape_of(x))
    walk.freeze(x, f"split by literal sizes ({walk.where(node)})", [dim])
    rest = [None if d == dim else labels for d, labels in enumerate(walk.dims(x))]
    if name == "unbind":
        del rest[dim]
    return tuple(list(rest) for _ in node.meta["val"])


@rule(
    "slice", "narrow", "select", "index_select", "flip", "roll", "slice_scatter", "select_scatter", "repeat_interleave"
)
def pick(walk: Walk, node: Any) -> Any:
    """Positions are literal, so a dimension that is picked from cannot shrink; the others pass."""
    x = node.args[0]
    before = walk.dims(x)
    position = 2 if _name(node).endswith(("scatter", "roll", "interleave")) else 1
    dim = _arg(node, position, "dim", _arg(node, position, "dims", 0))
    touched = range(len(before)) if dim is None else [d % len(before) for d in ([dim] if isinstance(dim, int) else dim)]
    if _name(node) == "slice" and shape_of(x) == shape_of(node):
        return list(before)
    if _name(node).endswith("scatter"):
        return unknown(walk, node)
    walk.freeze(x, f"picked by position ({walk.where(node)})", touched)
    result = [None if d in touched else labels for d, labels in enumerate(before)]
    if _name(node) == "select":
        del result[touched[0]]
    return result if len(result) == len(shape_of(node)) else unlabelled(node)


@rule("constant_pad_nd", "pad")
def pad(walk: Walk, node: Any) -> Any:
    """Padding adds entries that cannot leave; other modes than a constant read their neighbours."""
    x, amounts = node.args[:2]
    constant = _name(node) == "constant_pad_nd" or _arg(node, 2, "mode", "constant") == "constant"
    result = list(walk.dims(x))
    for k in range(len(amounts) // 2):
        dim, low, high = len(result) - 1 - k, *amounts[2 * k : 2 * k + 2]
        labels = result[dim]
        if labels is None or (low, high) == (0, 0):
            continue
        if constant and low >= 0 and high >= 0:
            result[dim] = torch.cat([_immovable(walk, node, low), labels, _immovable(walk, node, high)])
        else:
            walk.labels.freeze(labels, f"padded by its neighbours or cropped ({walk.where(node)})")
            result[dim] = None
    return result


@rule("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Any) -> Any:
    """r² channels become one; they leave together."""
    x, factor = node.args[:2]
    dims = walk.dims(x)
    result: Dims = [None] * len(dims)
    if (labels := dims[-3]) is not None:
        blocks = labels.view(-1, factor * factor)
        walk.labels.unite(blocks, blocks[:, :1])
        result[-3] = blocks[:, 0].clone()
    return result


@rule("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: Any) -> Any:
    """One channel becomes r²."""
    x, factor = node.args[:2]
    result: Dims = [None] * len(shape_of(node))
    if (labels := walk.dims(x)[-3]) is not None:
        result[-3] = labels.repeat_interleave(factor * factor)
    return result


# Mixing over some dimensions ---------------------------------------------------------------------------


def _over_space(walk: Walk, node: Any, x: Any, n: int) -> Dims:
    dims = walk.dims(x)
    walk.freeze(x, f"mixed over ({walk.where(node)})", range(len(dims) - n, len(dims)))
    return [*dims[: len(dims) - n], *[None] * n]


def _pooling(n: int) -> Rule:
    def pooled(walk: Walk, node: Any) -> Any:
        """Entries of the last dimensions are mixed; batch and channels pass."""
        result = _over_space(walk, node, node.args[0], n)
        value = node.meta["val"]
        return result if isinstance(value, Tensor) else tuple(list(result) for _ in value)

    return pooled


for _n in (1, 2, 3):
    for _kind in ("max_pool{}d", "avg_pool{}d", "adaptive_avg_pool{}d", "adaptive_max_pool{}d", "lp_pool{}d"):
        RULES[_kind.format(_n)] = RULES[f"_{_kind.format(_n)}"] = _pooling(_n)
    RULES[f"max_pool{_n}d_with_indices"] = _pooling(_n)
    for _mode in ("nearest", "linear", "bilinear", "bicubic", "trilinear", "_nearest_exact"):
        RULES[f"upsample_{_mode}{_n}d"] = RULES[f"_upsample_{_mode}{_n}d".replace("__", "_")] = _pooling(_n)
    RULES[f"reflection_pad{_n}d"] = RULES[f"replication_pad{_n}d"] = _pooling(_n)
RULES["grid_sampler"] = _pooling(2)


@rule("max_unpool2d", "max_unpool3d")
def max_unpool(walk: Walk, node: Any) -> Any:
    """Values go where their indices say, channel by channel."""
    x, indices = node.args[:2]
    n = 2 if _name(node) == "max_unpool2d" else 3
    for a, b in zip(walk.dims(x), walk.dims(indices), strict=True):
        if a is not None or b is not None:
            walk.tie(a, b, f"unpooled by indices ({walk.where(node)})")
    return _over_space(walk, node, x, n)


@rule("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod", "any", "all")
@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "max", "min", "argmax", "argmin", "median")
@rule("topk", "sort", "argsort", "nansum", "nanmean", "softmin", "var_mean")
def mixing(walk: Walk, node: Any) -> Any:
    """Entries along some dimensions are mixed, so those cannot shrink; the others pass."""
    x = node.args[0]
    dims, name = walk.dims(x), _name(node)
    if len(tensor_nodes(node.args)) > 1:
        return pointwise(walk, node)  # max(a, b)
    position = 2 if name in ("norm", "linalg_vector_norm", "topk") else 1
    dim = _arg(node, position, "dim", -1 if name in ("topk", "sort", "argsort") else None)
    if isinstance(dim, bool):  # var(x, unbiased)
        dim = None
    touched = range(len(dims)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    touched = [d % len(dims) for d in touched] if dims else []
    walk.freeze(x, f"mixed over channels ({walk.where(node)})", touched)
    kept = [None if d in touched else labels for d, labels in enumerate(dims)]
    without = [labels for d, labels in enumerate(kept) if d not in touched]

    def fit(ndim: int) -> Dims:
        if ndim == len(kept):
            return list(kept)
        return list(without) if ndim == len(without) else [None] * ndim

    value = node.meta["val"]
    return fit(value.ndim) if isinstance(value, Tensor) else tuple(fit(v.ndim) for v in value)


@rule("new_zeros", "new_ones", "new_full", "new_empty", "sym_size", "_assert_tensor_metadata", "size", "_guards_fn")
def unrelated(walk: Walk, node: Any) -> Any:
    """The result has a size of its own."""
    return unlabelled(node)
