"""Single-shot network pruning; on channels this is SNAP (Verdenius et al., 2020)."""

from dataclasses import dataclass

from earlycrop.evaluation import Evaluation
from earlycrop.scores.abstract import AbstractLossScore
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Snip(AbstractLossScore):
    """|θ ∘ g|: how much the loss depends on each unit, to first order (Lee et al., 2019)."""

    def __call__(self, at: Evaluation) -> Vector:
        """|θ ∘ ∇L|, one number per unit; the absolute value comes after the sum over the scoring set."""
        return (at.values * at.gradient()).abs()
