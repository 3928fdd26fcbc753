"""What is known of each operator. One without a record freezes everything that it touches.

pointwise.py     each entry from the entries at its own place
contractions.py  convolutions, linear layers, matrix products: where channels are created and read
attention.py     scaled dot products: whole heads
recurrent.py     LSTM, GRU, RNN and their cells: hidden units
norms.py         per-channel parameters follow the channels
movement.py      views, permutations, parts: labels go where the entries go
mixing.py        means, softmax, pooling

closed.py        whether a closed channel is zero
ties.py          what the rules of several families say

A rule takes the walk and the node and returns the labels of the result; the facts that stand above it are those of
`registry.Operator`. Operators that PyTorch itself tags as pointwise share one rule. In which file a record stands means
nothing.
"""

from earlycrop.structure.operators import attention, contractions, mixing, movement, norms, pointwise, recurrent

__all__ = ["attention", "contractions", "mixing", "movement", "norms", "pointwise", "recurrent"]
