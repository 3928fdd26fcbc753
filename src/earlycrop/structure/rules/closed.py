"""Whether a closed channel is zero: then a sum over products of two activations loses nothing when it leaves."""

import operator
from typing import Any

from torch import Tensor

from earlycrop.structure.rules.norms import NORMS
from earlycrop.structure.rules.registry import name_of
from earlycrop.structure.walk import CATS, Walk, tensor_nodes

CREATING = ("linear", "addmm", "embedding", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu")
CREATING += tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
"""What their parameters make is zero where these are."""

JOINS = (*CATS, "stack")

MOVES = frozenset(
    {
        *("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "squeeze"),
        *("unsqueeze", "permute", "transpose", "t", "movedim", "swapaxes", "swapdims", "numpy_T", "mT", "adjoint"),
        *("expand", "expand_as", "broadcast_to", *JOINS, "chunk", "split"),
        *("split_with_sizes", "unsafe_split", "tensor_split", "unbind", "slice", "narrow", "select"),
        *("index_select", "flip", "roll", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "clone"),
        *("contiguous", "detach", "alias", "to", "_to_copy", "type_as", "float", "lift_fresh_copy"),
    }
)
"""Operators that only move entries."""

ZERO_AT_ZERO = MOVES | frozenset(
    {
        *("relu", "relu6", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
        *("tanh", "softshrink", "hardshrink", "neg", "abs", "sign", "square", "sin", "tan", "asinh", "glu"),
        *("dropout", "feature_dropout", "mean", "sum", "amax", "amin", "repeat"),
    }
)
"""Operators that make zeros of zeros."""

POOLS = ("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d")


def zero_when_closed(walk: Walk, node: Any) -> bool:
    """Whether a value is sure to be zero on channels whose parameters are."""
    if node in walk.made:
        return True
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return zero_when_closed(walk, node.args[0])
    name, operands = name_of(node), [one for one in tensor_nodes(node.args) if isinstance(one.meta.get("val"), Tensor)]
    if name in CREATING:
        return True
    if name in NORMS:
        return any(one in walk.made for one in operands[1:2])
    if name in ("mul", "matmul", "mm", "bmm", "einsum"):
        return any(zero_when_closed(walk, one) for one in operands)
    if name in ("add", "sub", *JOINS):
        tensors = name in JOINS or len(operands) == 2
        return tensors and all(zero_when_closed(walk, one) for one in operands)
    return (name in ZERO_AT_ZERO or name in ("div", "sqrt", "erf", *POOLS)) and zero_when_closed(walk, operands[0])
