"""Norms that are written out: statistics over channels, by which the same channels are divided.

    x · rsqrt(mean(x²) + ε)        (x − mean(x)) / (std(x) + ε)        x / max(‖x‖, ε)

As in front of `nn.LayerNorm`, channels may leave, and then the statistics are those of the channels that are left. What
makes a mean the part of a norm is that the scale of its channels drops out: the exponents of what is multiplied add up
to zero. In `x · mean(x)` they do not, nor in `x − mean(x)` alone, and there the channels stay.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import shape_of, tensor_nodes
from earlycrop.structure.registry import Kind, operator_of

if TYPE_CHECKING:
    from earlycrop.structure.walk import Walk

SMALL = 1e-2
"""A number below this that is added only keeps a divisor from zero."""

Exponents = dict[Node, float]
"""A value as a product of powers of other values, up to small numbers that are added: of each its exponent."""


@dataclass(frozen=True, eq=False)
class Statistic:
    """A mean, variance or norm of activations over channels.

    Attributes:
        node: The operator that computes it.
        over: The labels along each dimension over which it is taken.
        reason: Why these channels stay if it is no part of a norm.
    """

    node: Node
    over: dict[int, Tensor]
    reason: str


def settle(walk: "Walk") -> None:
    """Freeze the channels over which a statistic is taken that is no part of a norm of theirs."""
    if not walk.statistics:
        return
    root, exponents = walk.labels.components(), _exponents(walk)
    for one in list(walk.statistics.values()):
        if not _normalises(walk, one, root, exponents):
            del walk.statistics[one.node]
            for labels in one.over.values():
                walk.labels.freeze(labels, one.reason)


def _normalises(walk: "Walk", one: Statistic, root: Tensor, exponents: dict[Node, Exponents]) -> bool:
    """Whether all that depends on a statistic depends on it only as a part of a norm of the same channels."""
    sources, todo, seen = exponents[one.node].keys(), [one.node], set()
    sizes = {dim: labels.numel() for dim, labels in one.over.items()}
    while todo:
        node = todo.pop()
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if user not in exponents or user in exponents[user]:  # it is no product of powers, or returns the statistic
                return False
            shape = shape_of(user)
            if len(shape) != len(shape_of(one.node)) or any(not -len(shape) <= dim < len(shape) for dim in sizes):
                return False
            wide = all(shape[dim] == size for dim, size in sizes.items())
            if not wide or not sources.isdisjoint(exponents[user]):
                todo.append(user)
            elif not all(_same(walk.raw(user)[dim], labels, root) for dim, labels in one.over.items()):
                return False
    return True


def _same(found: object, labels: Tensor, root: Tensor) -> bool:
    return isinstance(found, Tensor) and torch.equal(root[found], root[labels])


def _exponents(walk: "Walk") -> dict[Node, Exponents]:
    """Every value as a product of powers; one that is none, such as a sum of unlike values, is its own first power."""
    found: dict[Node, Exponents] = {}
    for node in walk.program.graph.nodes:
        if node.op != "output" and isinstance(node.meta.get("val"), Tensor):
            found[node] = _product(node, found)
    return found


def _product(node: Node, found: dict[Node, Exponents]) -> Exponents:
    itself = {node: 1.0}
    if node.op != "call_function":
        return itself
    operator, factors = operator_of(node), [found.get(one) for one in tensor_nodes((node.args, node.kwargs))]
    if not factors or None in factors:
        return itself
    if operator.kind is Kind.SUM:
        small = all(abs(one) < SMALL for one in node.args if isinstance(one, int | float))
        alike = small and not node.kwargs and all(one == factors[0] for one in factors)
        return factors[0] if alike else itself  # type: ignore[return-value]
    powers = operator.powers(node) if callable(operator.powers) else operator.powers
    if powers is None or len(factors) > len(powers):
        return itself
    result: Exponents = {}
    for factor, power in zip(factors, powers, strict=False):
        for one, exponent in (factor or {}).items():
            result[one] = result.get(one, 0.0) + power * exponent
    return {one: exponent for one, exponent in result.items() if exponent}
