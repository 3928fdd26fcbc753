"""Operators that mix entries along some dimensions, which therefore cannot shrink; the others pass."""

from functools import partial
from typing import Any

from torch import Tensor

from earlycrop.structure.graph import argument, name_of, tensor_nodes
from earlycrop.structure.labels import Dims
from earlycrop.structure.operators.pointwise import pointwise
from earlycrop.structure.registry import Kind, Rule, Zero, rule
from earlycrop.structure.walk import OUTPUT, Walk

_pools = partial(rule, kind=Kind.POOLS)
_mixes = partial(rule, kind=Kind.MIXES)


def _over_space(walk: Walk, node: Any, x: Any, n: int) -> Dims:
    """The labels of a result in which the last n dimensions of x are mixed; nothing leaves along these."""
    ndim = len(walk.raw(x))
    walk.freeze(x, f"mixed over ({walk.where(node)})", range(ndim - n, ndim))
    dims = walk.raw(x)
    return [*dims[: len(dims) - n], *[None] * n]


def _pooling(n: int) -> Rule:
    """The rule of operators that pool, pad or resample the last n dimensions."""

    def pooled(walk: Walk, node: Any) -> Any:
        """Entries along the last n dimensions are mixed; batch and channels pass."""
        result = _over_space(walk, node, node.args[0], n)
        value = node.meta["val"]
        return result if isinstance(value, Tensor) else tuple(list(result) for _ in value)

    return pooled


for _n, _modes in ((1, ("linear",)), (2, ("bilinear", "bicubic")), (3, ("trilinear",))):
    _rule = _pooling(_n)
    _pools(f"max_pool{_n}d", f"avg_pool{_n}d", f"adaptive_avg_pool{_n}d", zero=Zero.FIRST)(_rule)
    _pools(f"reflection_pad{_n}d", f"replication_pad{_n}d", zero=Zero.FIRST)(_rule)
    for _mode in ("nearest", *_modes):
        _pools(f"upsample_{_mode}{_n}d", zero=Zero.FIRST)(_rule)
    _pools(f"_upsample_nearest_exact{_n}d", zero=Zero.FIRST)(_rule)
    # the positions that these return besides the values are not zero
    _pools(f"adaptive_max_pool{_n}d", f"max_pool{_n}d_with_indices", zero=Zero.LOST)(_rule)
_pools("_adaptive_avg_pool2d", zero=Zero.FIRST)(_pooling(2))
_pools("_adaptive_avg_pool3d", zero=Zero.FIRST)(_pooling(3))
_pools("grid_sampler")(_pooling(2))


@_pools("max_unpool2d", "max_unpool3d")
def max_unpool(walk: Walk, node: Any) -> Any:
    """Values move to where their indices point, within each channel."""
    x, indices = node.args[:2]
    n = 2 if name_of(node) == "max_unpool2d" else 3
    for a, b in zip(walk.dims(x), walk.dims(indices), strict=True):
        if a is not None or b is not None:
            walk.tie(a, b, f"unpooled by indices ({walk.where(node)})")
    return _over_space(walk, node, x, n)


@_mixes("mean", "sum", "amax", "amin", zero=Zero.FIRST)
@_mixes("softmax", "_softmax", zero=Zero.LOST)
@_mixes("log_softmax", "_log_softmax", "cumsum", "prod", "logsumexp", "nansum", "nanmean", "any", "all")
@_mixes("var", "std", "var_mean", "norm", "linalg_vector_norm", "max", "min", "argmax", "argmin", "median")
@_mixes("topk", "sort", "argsort")
def mixing(walk: Walk, node: Any) -> Any:
    """Entries along some dimensions are mixed, so those cannot shrink; the others pass."""
    x = node.args[0]
    dims, name = walk.raw(x), name_of(node)
    if len(tensor_nodes(node.args)) > 1:
        return pointwise(walk, node)  # max(a, b)
    position = 2 if name in ("norm", "linalg_vector_norm", "topk") else 1
    dim = argument(node, position, "dim", -1 if name in ("topk", "sort", "argsort") else None)
    if isinstance(dim, bool):  # var(x, unbiased)
        dim = None
    touched = range(len(dims)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    touched = [d % len(dims) for d in touched] if dims else []
    # what a log-softmax takes are logits: the network's output, whatever a loss does with them afterwards
    walk.freeze(x, OUTPUT if "log_softmax" in name else f"mixed over channels ({walk.where(node)})", touched)
    dims = walk.raw(x)
    kept = [None if d in touched else labels for d, labels in enumerate(dims)]
    without = [labels for d, labels in enumerate(kept) if d not in touched]

    def fit(ndim: int) -> Dims:
        if ndim == len(kept):
            return list(kept)
        return list(without) if ndim == len(without) else [None] * ndim

    value = node.meta["val"]
    return fit(value.ndim) if isinstance(value, Tensor) else tuple(fit(v.ndim) for v in value)
