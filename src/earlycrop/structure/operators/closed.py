"""Whether a closed channel is zero: if so, a sum over channels, or over products, loses nothing when it leaves."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import shape_of, tensor_nodes
from earlycrop.structure.labels import Axis
from earlycrop.structure.registry import Kind, Zero, factors_of, operator_of, written_in_part
from earlycrop.structure.walk import Walk

Known = dict[tuple[Node, int], bool]
"""What has been found out about values and their dimensions; a dense network reads each of them many times."""


def contract(walk: Walk, node: Any, a: tuple[Any, int], b: tuple[Any, int]) -> None:
    """Freeze channels that two factors are summed over, unless one factor is zero on closed channels.

    Only then do the closed channels add nothing, so that the sum stays the same when they leave. A factor that is
    computed from parameters alone is closed as such.

    Args:
        walk: The walk.
        node: The product.
        a: A factor, and the dimension along which it is summed.
        b: The other one.
    """
    if any(x in walk.made for x, _ in (a, b)) or any(zero_when_closed(walk, x, dim) for x, dim in (a, b)):
        return
    for labels in (_numbers(walk, x, dim) for x, dim in (a, b)):
        walk.labels.freeze(
            labels, f"summed over with factors that are not zero on closed channels ({walk.where(node)})"
        )


def zero_when_closed(walk: Walk, node: Any, dim: int) -> bool:
    """Whether a value is certain to be zero at each channel along a dimension of it, once that channel is closed."""
    labels = _numbers(walk, node, dim)
    return labels is not None and _zero(walk, node, dim % len(shape_of(node)), labels, {})


def _zero(walk: Walk, node: Node, dim: int, labels: Tensor, known: Known) -> bool:
    """The same, for the dimension that has these labels; for several results at once, in any of them."""
    if (node, dim) not in known:
        known[node, dim] = False
        known[node, dim] = _zero_by_record(walk, node, dim, labels, known)
    return known[node, dim]


def _zero_by_record(walk: Walk, node: Node, dim: int, labels: Tensor, known: Known) -> bool:
    """What the record of the operator says of its zeros, for channels that are closed."""
    if node in walk.origin:
        return True
    if node.op != "call_function" or written_in_part(node):
        return False
    operator, zero = operator_of(node), operator_of(node).zero_at(node)
    value, created = node.meta.get("val"), operator.channels_at(walk, node)
    ndim = value.ndim if isinstance(value, Tensor) else None
    operands = [one for one in tensor_nodes(node.args) if isinstance(one.meta.get("val"), Tensor | tuple | list)]
    there = partial(_zero_there, walk, node, dim, labels, known)
    match zero:
        case Zero.EVERYWHERE:
            return True
        case Zero.PARAMETERS:  # a weight that is computed from other activations may not be zero
            made = walk.made.issuperset(one for one, _ in factors_of(operator, node)[-1:])
            return made and created is not None and (ndim is None or created % ndim == dim)
        case Zero.SCALED:
            scaled = operator.kind is Kind.TRAILING_NORM or created == dim
            return node in walk.norms and scaled and walk.made.issuperset(operands[1:])
        case Zero.ANY:
            return any(there(one, among) for one, among in _factors(node, operands))
        case Zero.ALL:
            at = tensor_nodes([node.args[place] for place in operator.picks])
            beside = operator.kind is Kind.CONCATENATES
            terms = [one for one in operands if one not in at and shape_of(one) != (0,)]
            terms = [one for one in terms if not (beside and _numbers(walk, one, dim) is None)]
            return bool(terms) and all(map(there, terms))
        case Zero.FIRST:
            return there(operands[0])
        case _:
            return False


def _factors(node: Node, operands: list[Node]) -> list[tuple[Node, tuple[int, ...] | None]]:
    """What is multiplied, and which dimensions of it are those of the result; None where that is by position."""
    return factors_of(operator_of(node), node) or [(one, None) for one in operands]  # type: ignore[return-value]


def _zero_there(
    walk: Walk,
    node: Node,
    dim: int,
    labels: Tensor,
    known: Known,
    operand: Node,
    among: Iterable[int] | None = None,
) -> bool:
    """Whether an operand is zero where these channels of the result come from it."""
    if not isinstance(operand.meta.get("val"), Tensor):  # one of several results is taken
        return _zero(walk, operand, dim, labels, known)
    operator, shape = operator_of(node), shape_of(operand)
    if operator.kind in (Kind.ENTRYWISE, Kind.SUM) or operator.zero_at(node) is Zero.ALL:
        mine = dim - len(shape_of(node))
        places = [mine + len(shape)] if len(shape) >= -mine and shape[mine] > 1 else []
    else:
        places = [d for d in (range(len(shape)) if among is None else among) if _holds(walk, operand, d, labels)]
    found = [(d, numbers) for d in places if (numbers := _numbers(walk, operand, d)) is not None]
    return bool(found) and all(_zero(walk, operand, d, numbers, known) for d, numbers in found)


def _numbers(walk: Walk, node: Any, dim: int) -> Tensor | None:
    """The labels along a dimension of a value; all those of a grid of which it is an axis."""
    labels = walk.raw(node)[dim]
    return labels.grid.labels.reshape(-1) if isinstance(labels, Axis) else labels


def _holds(walk: Walk, node: Node, dim: int, labels: Tensor) -> bool:
    """Whether a dimension of a value has some of these labels."""
    numbers = _numbers(walk, node, dim)
    return numbers is not None and bool(torch.isin(numbers, labels).any())
