"""What does a network hold and cost, and what is sparsity a part of?

sizes.py    every size that a cost may depend on, as it is or as a choice of channels would leave it
costs.py    PrunableWeights, Parameters, Nodes, Flops, Memory: what sparsity counts
latency.py  Latency: the same in milliseconds, from measurements on the user's device
measuring.py  makes them, and keeps them in a file
table.py    predicts from them
counter.py  all of them together, before a cut and after
"""

from earlycrop.counting.costs import (
    COSTS,
    AbstractCost,
    Flops,
    Memory,
    Nodes,
    Parameters,
    PrunableWeights,
)
from earlycrop.counting.counter import Counter, Counts, flops, size_of
from earlycrop.counting.latency import Latency
from earlycrop.counting.sizes import Sizes, counted
from earlycrop.names import Target

__all__ = [
    "COSTS",
    "AbstractCost",
    "Counter",
    "Counts",
    "Flops",
    "Latency",
    "Memory",
    "Nodes",
    "Parameters",
    "PrunableWeights",
    "Sizes",
    "Target",
    "counted",
    "flops",
    "size_of",
]
