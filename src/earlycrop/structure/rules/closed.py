"""Whether a closed channel is zero: then a sum over products of two activations loses nothing when it leaves."""

import operator
from typing import Any

from torch import Tensor

from earlycrop.structure.rules.registry import name_of
from earlycrop.structure.walk import Walk, tensor_nodes

CREATING = ("linear", "addmm", "embedding", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu")
CREATING += tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
"""What their parameters make is zero where these are."""

NORMS = ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm")

ZERO_AT_ZERO = (
    *(
        "relu",
        "relu6",
        "leaky_relu",
        "rrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "tanh",
        "prelu",
    ),
    *(
        "neg",
        "abs",
        "sign",
        "sqrt",
        "square",
        "sin",
        "tan",
        "asinh",
        "erf",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
    ),
    *(
        "clone",
        "contiguous",
        "detach",
        "alias",
        "to",
        "_to_copy",
        "float",
        "view",
        "reshape",
        "_unsafe_view",
        "flatten",
    ),
    *("unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim", "numpy_T", "mT", "expand", "slice"),
    *(
        "narrow",
        "select",
        "chunk",
        "split",
        "split_with_sizes",
        "unbind",
        "repeat",
        "repeat_interleave",
        "flip",
        "roll",
    ),
    *("div", "mean", "sum", "avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "adaptive_avg_pool2d"),
)
"""Zero where their first operand is."""


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
    if name in ("add", "sub", "cat", "stack"):
        tensors = name in ("cat", "stack") or len(operands) == 2
        return tensors and all(zero_when_closed(walk, one) for one in operands)
    return name in ZERO_AT_ZERO and zero_when_closed(walk, operands[0])
