"""What does a network hold and cost, and what is sparsity a part of?

sizes.py    every size that a cost may depend on, as it is or as a choice of channels would leave it
costs.py    PrunableWeights, Parameters, Nodes, Flops: what sparsity counts
counter.py  all of them together, before a cut and after
"""

from earlycrop.counting.costs import COSTS, AbstractCost, Flops, Nodes, Parameters, PrunableWeights, Target
from earlycrop.counting.counter import Counter, Counts, flops, size_of
from earlycrop.counting.sizes import Sizes, counted

__all__ = [
    "COSTS",
    "AbstractCost",
    "Counter",
    "Counts",
    "Flops",
    "Nodes",
    "Parameters",
    "PrunableWeights",
    "Sizes",
    "Target",
    "counted",
    "flops",
    "size_of",
]
