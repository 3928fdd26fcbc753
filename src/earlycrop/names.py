"""The names that options take, apart from what they stand for, so that they can be listed without PyTorch."""

from typing import Literal

Target = Literal["weight", "node", "params", "flops", "memory"]
"""What sparsity counts, see `earlycrop.counting`."""

Reading = Literal["gate_hessian", "mixed", "group_sum"]
"""How CroP computes a channel's score, see `earlycrop.scores.READINGS`."""

BatchNormMode = Literal["auto", "running", "calibrated", "scaled", "batch"]
"""What norms with running statistics do while scores are computed, see `earlycrop.evaluation.norms`."""
