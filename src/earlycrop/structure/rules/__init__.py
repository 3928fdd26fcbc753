"""What each operator does to labels. An operator without a rule freezes everything that it touches.

registry.py   the table, and how a node finds its rule
pointwise.py  each entry from the entries at its own place
products.py   convolutions, linear layers, matrix products: where channels are created and read
closed.py     whether a closed channel is zero
attention.py  scaled dot products: whole heads
recurrent.py  LSTM, GRU, RNN and their cells: hidden units
norms.py      per-channel parameters follow the channels
movement.py   views, permutations, parts: labels go where the entries go
mixing.py     means, softmax, pooling

A rule takes the walk and the node and returns the labels of the result. Operators that PyTorch itself tags as
pointwise share one rule.
"""

from earlycrop.structure.rules import attention, mixing, movement, norms, pointwise, products, recurrent
from earlycrop.structure.rules.registry import RULES, apply, rule_of

__all__ = [
    "RULES",
    "apply",
    "attention",
    "mixing",
    "movement",
    "norms",
    "pointwise",
    "products",
    "recurrent",
    "rule_of",
]
