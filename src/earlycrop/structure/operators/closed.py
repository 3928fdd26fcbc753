"""Whether a closed channel is zero: if so, a sum over products of two activations loses nothing when it leaves."""

from typing import Any

from torch import Tensor

from earlycrop.structure.graph import tensor_nodes
from earlycrop.structure.registry import Zero, operator_of
from earlycrop.structure.walk import Walk


def zero_when_closed(walk: Walk, node: Any) -> bool:
    """Whether a value is certain to be zero on channels whose parameters are zero."""
    if node in walk.made:
        return True
    if node.op != "call_function":
        return False
    operands = [one for one in tensor_nodes(node.args) if isinstance(one.meta.get("val"), Tensor | tuple | list)]
    zero = operator_of(node).zero_at(node)
    if zero is Zero.SCALED:
        return any(one in walk.made for one in operands[1:2])
    if zero is Zero.ANY:
        return any(zero_when_closed(walk, one) for one in operands)
    if zero is Zero.ALL:
        return all(zero_when_closed(walk, one) for one in operands)
    return zero is Zero.PARAMETERS or (zero is Zero.FIRST and zero_when_closed(walk, operands[0]))
