"""The loss as a function of one vector: its gradient and Hessian products, exact and in two passes.

coordinates.py  what the vector is, and how the model computes with it
scoring_set.py  the batches, as one collection of samples
norms.py        what norms with running statistics do while scores are computed
undisturbed.py  everything else about the state in which scores are computed, and how it is undone
mean_loss.py    the mean loss over the set, differentiated
evaluation.py   the same at one vector: what a score of the loss sees
inputs.py       whether the network still reads its inputs

Both passes of a Hessian-gradient product cover the whole set. With batches b of n_b among N samples,

    g  = Σ_b (n_b / N) ∇L_b            first pass
    Hg = Σ_b (n_b / N) ∇²L_b g         second pass, with the g of the whole set

so the product includes the cross terms ∇²L_b ∇L_a; the mean of ∇²L_b ∇L_b would be a different quantity.
"""

from earlycrop.evaluation.coordinates import Coordinates, Rows, Slopes
from earlycrop.evaluation.evaluation import Evaluation
from earlycrop.evaluation.mean_loss import Loss, MeanLoss
from earlycrop.evaluation.norms import CALIBRATION, BatchNormMode
from earlycrop.evaluation.scoring_set import ScoringSet
from earlycrop.vector import Vector

__all__ = [
    "CALIBRATION",
    "BatchNormMode",
    "Coordinates",
    "Evaluation",
    "Loss",
    "MeanLoss",
    "Rows",
    "ScoringSet",
    "Slopes",
    "Vector",
]
