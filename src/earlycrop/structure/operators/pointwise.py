"""Operators whose entries each depend on the operands' entries at the same place."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import name_of, shape_of, tensor_nodes
from earlycrop.structure.labels import Dims
from earlycrop.structure.registry import Kind, Zero, operator_of, rule, unknown
from earlycrop.structure.statistics import SMALL
from earlycrop.structure.walk import Walk

_entrywise = partial(rule, kind=Kind.ENTRYWISE)
_copies = partial(rule, kind=Kind.MOVES, zero=Zero.FIRST)


def _within(node: Node) -> Zero:
    """`clamp` and `hardtanh` keep zeros if zero lies between their bounds."""
    low, high = (*node.args[1:], None, None)[:2] if len(node.args) > 1 else (-1, 1)
    numbers = all(isinstance(bound, int | float | None) for bound in (low, high)) and not node.kwargs
    inside = numbers and (low is None or low <= 0) and (high is None or high >= 0)  # type: ignore[operator]
    return Zero.FIRST if inside else Zero.LOST


def _towards(node: Node) -> Zero:
    """Zeros stay zeros if what they may be replaced by is on their side of the bound: zero, or nothing nearer."""
    bound, name = node.args[-1], name_of(node)
    inside = isinstance(bound, int | float) and not node.kwargs
    inside = inside and {"clamp_min": bound <= 0, "clamp_max": bound >= 0}.get(name, bound == 0)  # type: ignore[operator]
    return Zero.FIRST if inside else Zero.LOST


def _of_exponent(node: Node) -> Zero:
    """A positive power of zero is zero."""
    exponent = node.args[1]
    return Zero.FIRST if isinstance(exponent, int | float) and exponent > 0 else Zero.LOST


def _exponent(node: Node) -> tuple[float, ...] | None:
    """The exponent of `pow` if it is a number and the base is a tensor."""
    base, exponent = node.args
    return (exponent,) if isinstance(base, Node) and isinstance(exponent, int | float) else None


def _floored(node: Node) -> tuple[float, ...] | None:
    """`clamp` with a small lower bound only keeps a divisor from zero."""
    low, high = (*node.args[1:], None, None)[:2]
    bound = isinstance(low, int | float) and 0 <= low < SMALL and high is None and not node.kwargs
    return (1,) if bound else None


def _of_all_terms(node: Node) -> Zero:
    """A sum is zero where both terms are, unless one of them is a number."""
    terms = [one for one in tensor_nodes((node.args, node.kwargs)) if isinstance(one.meta.get("val"), Tensor)]
    return Zero.ALL if len(terms) == 2 else Zero.LOST


@_entrywise(torch.Tag.pointwise)
@_entrywise("where", "copy", "fill", "zero", "native_dropout", "requires_grad")
@_entrywise("ones_like", "full_like", "rand_like", "randn_like", "empty_like")
@_entrywise("relu", zero=Zero.FIRST, like=lambda *_: True, homogeneous=True)
@_entrywise("leaky_relu", "dropout", "feature_dropout", zero=Zero.FIRST, homogeneous=True)
@_entrywise("relu6", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", zero=Zero.FIRST)
@_entrywise("tanh", "softshrink", "hardshrink", "sign", "erf", zero=Zero.FIRST)
@_entrywise("sin", "tan", "asinh", "log1p", "xlogy", zero=Zero.FIRST)
@_entrywise("neg", "abs", zero=Zero.FIRST, powers=(1,))
@_entrywise("square", zero=Zero.FIRST, powers=(2,))
@_entrywise("sqrt", zero=Zero.FIRST, powers=(0.5,))
@_entrywise("div", "divide", zero=Zero.FIRST, powers=(1, -1))
@_entrywise("real", "imag", "conj", "_conj", "conj_physical", "resolve_conj", "resolve_neg", zero=Zero.FIRST)
@_entrywise("complex", zero=Zero.ALL)
@_entrywise("polar", zero=Zero.FIRST)
@_entrywise("zeros_like", zero=Zero.EVERYWHERE)
@_entrywise("sinh", "asin", "atan", "atanh", "expm1", "sgn", "round", "floor", "ceil", "trunc", zero=Zero.FIRST)
@_entrywise("hardtanh", zero=_within)
@_entrywise("clamp", zero=_within, powers=_floored)
@_entrywise("clamp_min", zero=_towards, powers=_floored)
@_entrywise("clamp_max", "masked_fill", zero=_towards)
@_entrywise("mul", "multiply", zero=Zero.ANY, powers=(1, 1))
@_entrywise("pow", zero=_of_exponent, powers=_exponent)
@_entrywise("sigmoid", "hardsigmoid", "exp", "cos", "softplus", "log_sigmoid", zero=Zero.LOST)
@_entrywise("rsqrt", zero=Zero.LOST, powers=(-0.5,))
@_entrywise("reciprocal", zero=Zero.LOST, powers=(-1,))
@_entrywise("alpha_dropout", "feature_alpha_dropout", zero=Zero.LOST)
@rule("add", "sub", "rsub", kind=Kind.SUM, zero=_of_all_terms)
@_copies("clone", "alias", "to", "_to_copy", "lift_fresh_copy", powers=(1,))
@_copies("detach", "lift_fresh", powers=(1,), literal=True)
@_copies("type_as", "expand_as", powers=(1, 0))
@_copies("contiguous", strides=True, powers=(1,))
def pointwise(walk: Walk, node: Any) -> Any:
    """Each entry depends on the entries at the same place, so operands share labels; sizes of one are broadcast.

    Args:
        walk: The walk through the graph.
        node: A node whose operator works entry by entry.

    Returns:
        For each dimension of the result its labels, or None where channels do not pass.
    """
    if not isinstance(node.meta.get("val"), Tensor):
        return unknown(walk, node)
    operands = [arg for arg in tensor_nodes((node.args, node.kwargs)) if isinstance(arg.meta.get("val"), Tensor)]
    if name_of(node) in ("type_as", "fill"):
        operands = operands[:1]
    fixed = f"combined with a tensor whose size cannot change ({walk.where(node)}){walk.kept(operands)}"
    result = combine(walk, operands, fixed)
    result = [None] * (len(shape_of(node)) - len(result)) + result
    if operator_of(node).kind is Kind.SUM:
        write(walk, node, operands)
    return result


def write(walk: Walk, node: Any, operands: list[Any], skip: int | None = None) -> None:
    """Record the channels that operands computed from parameters and buffers alone create.

    They create where they are added to, or concatenated with, operands that are not computed from these alone.
    """
    for arg in operands if node not in walk.made else ():
        ndim = len(shape_of(arg))
        for dim in range(-ndim, 0) if arg in walk.made else ():
            wide = [one for one in operands if len(shape_of(one)) >= -dim and shape_of(one)[dim] > 1]
            free = all(walk.raw(one)[dim] is not None for one in wide)
            if dim != skip and free and isinstance(walk.raw(arg)[dim], Tensor):
                walk.create(node, (arg, dim + ndim))


def combine(walk: Walk, operands: list[Any], reason: str, skip: int | None = None) -> Dims:
    """The labels of operands that are combined entry by entry, except along `skip`; sizes of one are broadcast."""
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


@_entrywise("prelu", zero=Zero.FIRST)
def prelu(walk: Walk, node: Any) -> Any:
    """x, or slope · x where x < 0: one slope for all, or one for each channel (dimension 1)."""
    x, slope = node.args[:2]
    dims = walk.dims(x)
    if math.prod(shape_of(slope)) > 1:
        walk.tie(dims[1], walk.dims(slope)[0], f"slopes per channel ({walk.where(node)})")
        walk.attribute(node, "num_parameters", dims[1])
    return list(dims)
