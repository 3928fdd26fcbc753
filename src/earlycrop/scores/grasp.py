"""Gradient signal preservation: the ancestor of CroP, with a sign."""

from dataclasses import dataclass

from earlycrop.evaluation import Evaluation
from earlycrop.scores.abstract import AbstractLossScore
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Grasp(AbstractLossScore):
    """θ ∘ Hg, signed: keep what makes the gradient flow large (Wang et al., 2020).

    The paper defines S = −θ ∘ Hg and *removes* the largest S. Two public implementations, one of them behind the GraSP
    row of the EarlyCroP paper, keep the largest instead; `inverted=True` does that, for comparison.

    Args:
        temperature: Divides the logits.
        inverted: Keep exactly what GraSP removes.

    Raises:
        ValueError: the temperature is not positive.
    """

    temperature: float = 200.0
    inverted: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"`temperature` divides the logits and must be positive; found {self.temperature}.")

    def __call__(self, at: Evaluation) -> Vector:
        """θ ∘ Hg at this temperature, one number per unit; the highest stay."""
        at = at.tempered(self.temperature)
        flow = at.values * at.hessian_gradient()
        return -flow if self.inverted else flow
