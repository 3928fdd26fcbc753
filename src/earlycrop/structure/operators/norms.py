"""Norms: per-channel parameters follow the channels; after a cut, norms over channels only count what is left."""

from typing import Any

from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import argument, name_of, shape_of
from earlycrop.structure.labels import Dims
from earlycrop.structure.registry import Kind, Zero, rule
from earlycrop.structure.walk import Walk


def _affine(walk: Walk, node: Any, *params: tuple[Any, Tensor | None, int]) -> None:
    """Tie per-channel parameters and buffers to the channels."""
    for param, labels, dim in params:
        if isinstance(param, Node):
            walk.tie(labels, walk.dims(param)[dim], f"normalised together with what cannot leave ({walk.where(node)})")


def _note_norm(walk: Walk, node: Any, weight: Any, bias: Any, dim: int) -> None:
    """Record the scale and shift of a norm, which a gate behind it would multiply."""
    if isinstance(weight, Node) and weight in walk.origin:
        affine = [p for p in (weight, bias) if isinstance(p, Node) and p in walk.origin]
        walk.norms[node] = tuple((walk.origin[p], dim) for p in affine)


def _as_wide(x: Tensor, *rest: Any) -> bool:
    """With running statistics a batch norm's result is like its input, which must be as wide as the statistics."""
    parameters, training = rest[:4], rest[4]
    if training:
        return False
    channels = x.shape[1:2]
    if any(one is not None and one.shape != channels for one in parameters):
        raise ValueError(f"the width of a batch norm differs from its input's {tuple(channels)}")
    return True


@rule("batch_norm", kind=Kind.CHANNEL_NORM, zero=Zero.SCALED, channels=1, like=_as_wide)
@rule("instance_norm", kind=Kind.CHANNEL_NORM, zero=Zero.SCALED, channels=1)
def batch_norm(walk: Walk, node: Any) -> Any:
    """Each channel (dimension 1) is normalised on its own.

    A weight that is standardised in this way is normalised over what its filters read: after a cut, over what is left.
    """
    x, weight, bias, mean, var = node.args[:5]
    others = [0, *range(2, len(walk.raw(x)))]
    standardises = x in walk.made and mean is None
    if not standardises:
        walk.freeze(x, f"normalised over ({walk.where(node)})", others)
    walk.fix(x, others)
    dims = walk.dims(x)
    for labels in [dims[dim] for dim in others if dims[dim] is not None]:
        if int(labels.unique(return_counts=True)[1].min()) == 1:  # PyTorch refuses to standardise a single entry
            walk.labels.freeze(labels[:2], f"a standardised filter keeps two entries at least ({walk.where(node)})")
    _affine(walk, node, *((p, dims[1], 0) for p in (weight, bias, mean, var)))
    _note_norm(walk, node, weight, bias, 0)
    walk.attribute(node, "num_features", dims[1])
    return list(dims) if standardises else [None, dims[1], *[None] * (len(dims) - 2)]


def _only_one(walk: Walk, node: Node) -> int | None:
    """The only one of the dimensions normalised together that has channels; None if there are none or several."""
    dims = walk.raw(node)
    normalised = range(-len(node.args[1]), 0)  # type: ignore[arg-type] - a list of sizes
    alive = [dim for dim in normalised if isinstance(dims[dim], Tensor)]
    return alive[0] if len(alive) == 1 else None


@rule("layer_norm", "rms_norm", kind=Kind.TRAILING_NORM, zero=Zero.SCALED, channels=_only_one, sizes=True)
def layer_norm(walk: Walk, node: Any) -> Any:
    """The trailing dimensions are normalised together; after a cut, over the entries that are left."""
    x, normalized = node.args[:2]
    weight = argument(node, 2, "weight")
    bias = argument(node, 3, "bias") if name_of(node) == "layer_norm" else None
    walk.fix(x, range(-len(normalized), 0))
    dims, n = walk.dims(x), len(normalized)
    for dim in range(-n, 0):
        _affine(walk, node, (weight, dims[dim], dim), (bias, dims[dim], dim))
        walk.attribute(node, "normalized_shape", dims[dim], dim)
        walk.guess(node, dims[dim])
        if dims[dim] is not None:
            _note_norm(walk, node, weight, bias, n + dim)
    return list(dims)


@rule("group_norm", kind=Kind.GROUP_NORM, zero=Zero.SCALED, channels=1, groups=1)
def group_norm(walk: Walk, node: Any) -> Any:
    """Channels leave by whole groups, or the same offsets leave every group: whichever allows the finer cut."""
    x, groups = node.args[:2]
    weight, bias = argument(node, 2, "weight"), argument(node, 3, "bias")
    walk.freeze(x, f"normalised over ({walk.where(node)})", range(2, len(walk.raw(x))))
    dims = walk.dims(x)
    channels = dims[1]
    _affine(walk, node, (weight, channels, 0), (bias, channels, 0))
    _note_norm(walk, node, weight, bias, 0)
    walk.attribute(node, "num_channels", channels)
    if channels is not None:
        grid = channels.view(groups, -1)
        if groups >= grid.shape[1]:
            walk.labels.unite(grid, grid[:, :1])
            walk.attribute(node, "num_groups", grid[:, 0])
            walk.guess(node, grid[:, 0])
            walk.arguments[node.name] = grid[:, 0]
        else:
            walk.labels.unite(grid, grid[:1])
    return [dims[0], channels, *[None] * (len(dims) - 2)]


@rule("_weight_norm", "_weight_norm_interface", kind=Kind.MIXES, entries=0)
def weight_norm(walk: Walk, node: Any) -> Any:
    """g v / ‖v‖, with one norm for each index of a dimension, along which indices may leave, or one for all of v."""
    v, g = node.args[:2]
    dim = argument(node, 2, "dim", 0)
    kept = None if dim == -1 else dim
    reason = (
        f"the weight's norm counts it ({walk.where(node)}); before pruning, "
        f"`torch.nn.utils.parametrize.remove_parametrizations` frees it"
    )
    walk.freeze(v, reason, [d for d in range(len(shape_of(v))) if d != kept])
    dims: Dims = [None] * len(shape_of(v))
    if kept is not None:
        labels = walk.tie(
            walk.dims(v)[kept], walk.dims(g)[kept], f"normalised with what cannot leave ({walk.where(node)})"
        )
        dims[kept] = labels
    return dims if isinstance(node.meta["val"], Tensor) else (dims, list(walk.dims(g)))
