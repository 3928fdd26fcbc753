"""Entries that depend on the entries at their own place."""

import math
from typing import Any

from torch import Tensor

from earlycrop.structure.labels import Dims
from earlycrop.structure.rules.registry import name_of, rule, unknown
from earlycrop.structure.walk import SUMS, Walk, shape_of, tensor_nodes


@rule("add", "where", "dropout", "feature_dropout", "alpha_dropout", "native_dropout", "feature_alpha_dropout")
@rule("clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy", "copy", "float")
@rule("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "empty_like", "fill", "zero", "relu6")
@rule("hardtanh", "leaky_relu", "rrelu", "hardswish", "hardsigmoid", "mish", "silu", "selu", "celu", "elu", "softplus")
@rule("logsigmoid", "log_sigmoid", "expand_as", "requires_grad")
def pointwise(walk: Walk, node: Any) -> Any:
    """Each entry depends on the entries at its own place: operands share labels, ones broadcast."""
    if not isinstance(node.meta.get("val"), Tensor):
        return unknown(walk, node)
    operands = [arg for arg in tensor_nodes((node.args, node.kwargs)) if isinstance(arg.meta.get("val"), Tensor)]
    if name_of(node) in ("type_as", "fill"):
        operands = operands[:1]
    result = combine(walk, operands, f"combined with a tensor whose size cannot change ({walk.where(node)})")
    result = [None] * (len(shape_of(node)) - len(result)) + result
    if name_of(node) in SUMS:
        write(walk, node, operands)
    return result


def write(walk: Walk, node: Any, operands: list[Any], skip: int | None = None) -> None:
    """What is made of parameters and buffers alone creates channels where it is added to what is not, or put beside."""
    for arg in operands if node not in walk.made else ():
        ndim = len(shape_of(arg))
        for dim in range(-ndim, 0) if arg in walk.made else ():
            wide = [one for one in operands if len(shape_of(one)) >= -dim and shape_of(one)[dim] > 1]
            free = all(walk.raw(one)[dim] is not None for one in wide)
            if dim != skip and free and isinstance(walk.raw(arg)[dim], Tensor):
                walk.create(node, (arg, dim + ndim))


def combine(walk: Walk, operands: list[Any], reason: str, skip: int | None = None) -> Dims:
    """The labels of operands that are combined entry by entry (but not along `skip`); ones broadcast."""
    shapes = [shape_of(arg) for arg in operands]
    every = walk.align([(walk.raw(arg), shape) for arg, shape in zip(operands, shapes, strict=True)], skip)
    ndim = max((len(shape) for shape in shapes), default=0)
    result: Dims = [None] * ndim
    for dim in range(-1, -ndim - 1, -1):
        size = max(shape[dim] for shape in shapes if len(shape) >= -dim)
        sized = [
            dims[dim]
            for dims, shape in zip(every, shapes, strict=True)
            if len(shape) >= -dim and shape[dim] == size != 1
        ]
        found = [one for one in sized if one is not None]
        if dim + ndim == skip or not found:
            continue
        result[dim] = found[0]
        if isinstance(found[0], Tensor):
            for other in found[1:]:
                walk.labels.unite(found[0], other)  # type: ignore[arg-type] - aligned: all are plain, or none is
            if len(found) < len(sized):
                walk.labels.freeze(found[0], reason)
    return result


@rule("prelu")
def prelu(walk: Walk, node: Any) -> Any:
    """One slope for all, or one per channel (dimension 1)."""
    x, slope = node.args[:2]
    dims = walk.dims(x)
    if math.prod(shape_of(slope)) > 1:
        walk.tie(dims[1], walk.dims(slope)[0], f"slopes per channel ({walk.where(node)})")
        walk.attribute(node, "num_parameters", dims[1])
    return list(dims)
