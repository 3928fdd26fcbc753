"""Operators that mix entries along some dimensions, which therefore cannot shrink; the others pass."""

from functools import partial
from typing import Any

from torch import Tensor

from earlycrop.structure.graph import argument, name_of, shape_of, tensor_nodes
from earlycrop.structure.labels import Dims
from earlycrop.structure.operators.closed import zero_when_closed
from earlycrop.structure.operators.pointwise import combine, pointwise
from earlycrop.structure.registry import Kind, Rule, Zero, operator_of, rule
from earlycrop.structure.statistics import Statistic
from earlycrop.structure.walk import OUTPUT, Walk

_pools = partial(rule, kind=Kind.POOLS)
_mixes = partial(rule, kind=Kind.MIXES)


WHY = {"mean": "divided by the number of these channels"}
"""Why an operator lets nothing leave, if there is more to say than that it mixes."""


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


@_mixes("mean", zero=Zero.FIRST, statistic=True, powers=(1,))
@_mixes("amax", "amin", zero=Zero.FIRST)
@_mixes("softmax", "_softmax", zero=Zero.LOST)
@_mixes("log_softmax", "_log_softmax", "cumsum", "prod", "logsumexp", "nanmean", "any", "all")
@_mixes("var", statistic=True, powers=(2,))
@_mixes("std", statistic=True, powers=(1,))
@_mixes("var_mean", "max", "min", "argmax", "argmin", "median")
@_mixes("topk", "sort", "argsort")
def mixing(walk: Walk, node: Any) -> Any:
    """Entries along some dimensions are mixed, so those cannot shrink; the others pass."""
    x, name = node.args[0], name_of(node)
    if len(tensor_nodes(node.args)) > 1:
        return pointwise(walk, node)  # max(a, b)
    position = 2 if name == "topk" else 1
    touched = _touched(node, position, -1 if name in ("topk", "sort", "argsort") else None)
    # what a log-softmax takes are logits: the network's output, whatever a loss does with them afterwards
    reason = OUTPUT if "log_softmax" in name else f"{WHY.get(name, 'mixed over channels')} ({walk.where(node)})"
    if operator_of(node).statistic and x not in walk.made:
        _take(walk, node, touched, reason)
    else:
        walk.freeze(x, reason, touched)
    return _reduced(walk, node, touched)


def _take(walk: Walk, node: Any, dims: list[int], reason: str) -> None:
    """Record a statistic over channels. Those of a norm may leave; whether it is one, the end of the walk shows."""
    walk.fix(node.args[0], dims)
    over = {dim: labels for dim in dims if isinstance(labels := walk.raw(node.args[0])[dim], Tensor)}
    if over:
        walk.statistics[node] = Statistic(node, over, reason)


def _touched(node: Any, position: int, default: int | None = None) -> list[int]:
    """The dimensions over which an operator works: all, where it names none."""
    ndim, dim = len(shape_of(node.args[0])), argument(node, position, "dim", default)
    if dim is None or dim == [] or isinstance(dim, bool):  # var(x, unbiased)
        return list(range(ndim))
    return [d % ndim for d in ([dim] if isinstance(dim, int) else dim)] if ndim else []


def _reduced(walk: Walk, node: Any, touched: list[int]) -> Any:
    """The labels of a result, or of several, in which these dimensions of the argument are mixed."""
    kept = [None if d in touched else labels for d, labels in enumerate(walk.raw(node.args[0]))]
    without = [labels for d, labels in enumerate(kept) if d not in touched]

    def fit(ndim: int) -> Dims:
        if ndim == len(kept):
            return list(kept)
        return list(without) if ndim == len(without) else [None] * ndim

    value = node.meta["val"]
    return fit(value.ndim) if isinstance(value, Tensor) else tuple(fit(v.ndim) for v in value)


def _of_power(node: Any) -> Zero:
    """A norm of zeros is zero, if its power is not negative."""
    power = argument(node, 1, "ord", 2)
    return Zero.FIRST if power is None or (isinstance(power, int | float) and power >= 0) else Zero.LOST


@_mixes("sum", "nansum", zero=Zero.FIRST, adds=True)
@_mixes("norm", "linalg_vector_norm", zero=_of_power, adds=True)
def total(walk: Walk, node: Any) -> Any:
    """Sums over channels, and norms: what is zero adds nothing, so a channel that is zero when closed may leave."""
    x, norm = node.args[0], "norm" in name_of(node)
    touched = _touched(node, 2 if norm else 1)
    walk.fix(x, touched)
    for dim in touched:
        if x in walk.made or operator_of(node).zero_at(node) is Zero.LOST or not zero_when_closed(walk, x, dim):
            walk.freeze(x, f"summed over channels that are not zero when they are closed ({walk.where(node)})", [dim])
    return _reduced(walk, node, touched)


@rule("cosine_similarity", kind=Kind.CONTRACTS, adds=True)
def cosine(walk: Walk, node: Any) -> Any:
    """x · y / (‖x‖ ‖y‖) along a dimension, from which may leave what is zero in both when it is closed."""
    pair = list(node.args[:2])
    ndim = max(len(shape_of(one)) for one in pair)
    dim = argument(node, 2, "dim", 1) % ndim - ndim
    for one in pair:
        walk.fix(one, [dim])
    result = combine(walk, pair, f"compared with what cannot leave ({walk.where(node)})")
    if isinstance(labels := result.pop(dim), Tensor) and not all(zero_when_closed(walk, one, dim) for one in pair):
        walk.labels.freeze(
            labels, f"an angle counts channels that are not zero when they are closed ({walk.where(node)})"
        )
    return result
