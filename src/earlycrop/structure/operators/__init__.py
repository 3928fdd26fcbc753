"""What is known about each operator. One without a record freezes everything that it touches.

pointwise.py     each entry depends on the entries at the same place
contractions.py  convolutions, linear layers, matrix products: where channels are created and read
letters.py       products whose dimensions have letters, as `einsum`
attention.py     scaled dot products: whole heads
recurrent.py     LSTM, GRU, RNN and their cells: hidden units
norms.py         per-channel parameters follow the channels
movement.py      views, permutations, parts: labels go where the entries go
picking.py       entries picked or put by number: messages along edges
mixing.py        sums, means, softmax, pooling
windows.py       windows cut out of places, and put back
spectra.py       Fourier transforms, complex numbers

closed.py        whether a closed channel is zero
ties.py          what rules of several families share

A rule takes the walk and the node and returns the labels of the result; its decorator gives the facts of
`registry.Operator`. Operators that PyTorch itself tags as pointwise share one rule. Which file holds a record has no
meaning.
"""

from earlycrop.structure.operators import (
    attention,
    contractions,
    letters,
    mixing,
    movement,
    norms,
    picking,
    pointwise,
    recurrent,
    spectra,
    windows,
)

__all__ = [
    "attention",
    "contractions",
    "letters",
    "mixing",
    "movement",
    "norms",
    "picking",
    "pointwise",
    "recurrent",
    "spectra",
    "windows",
]
