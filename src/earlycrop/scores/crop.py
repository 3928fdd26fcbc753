"""Gradient flow preservation: remove what least changes the gradient flow, hence the neural tangent kernel.

The flow GF = gᵀg changes by −2 θᵢ (Hg)ᵢ, to first order, when θᵢ goes to zero. GraSP wants GF as large as
possible; CroP wants it unchanged, hence the absolute value.

For channels three quantities go by that name, and they are neither equal nor proportional:

    Crop          |H_c g_c|                    on gates alone: the published formula
    CropMixed     ½ |∂‖g_W(c)‖² / ∂c|          what the authors' code computes
    CropGroupSum  |Σ θ ∘ Hg| over the channel  the single-weight terms, summed with their signs
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from earlycrop.evaluation import Evaluation, Rows
from earlycrop.scores.abstract import AbstractLossScore, AbstractNetworkScore, AbstractScore, Network
from earlycrop.vector import Vector

Reading = Literal["gate_hessian", "mixed", "group_sum"]


@dataclass(frozen=True)
class Crop(AbstractLossScore):
    """|θ ∘ Hg|: GraSP without its sign, so flow is preserved (Rachwan et al., 2022).

    On gates c = 1 this is |H_c g_c|.
    """

    def __call__(self, at: Evaluation) -> Vector:
        """|θ ∘ (∇²L ∇L)|."""
        return at.hessian_gradient().mul_(at.values).abs_()  # in place: a vector may be as long as the network is large


@dataclass(frozen=True)
class CropMixed(AbstractNetworkScore):
    """|∂/∂c ½‖g_W(c)‖²|: how the gradient flow of the *weights* changes as a gate closes (the authors' code).

    With gates on the affine output this is ‖g_Wk‖² + θₖᵀ(Hg)ₖ for channel k.
    """

    needs_data: ClassVar[bool] = True
    needs_gates: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """|⟨∂²L/∂c∂W, g_W⟩|, g_W over the prunable weights."""
        return _flow(of, of.coordinates).abs()


@dataclass(frozen=True)
class CropGroupSum(AbstractNetworkScore):
    """|Σ θ ∘ Hg| over the filters and biases that create a channel."""

    needs_data: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """The sum first, the absolute value last."""
        return _flow(of, of.made_of).abs()


def _flow(of: Network, rows: Rows) -> Vector:
    """The rows of H g, g over the prunable weights: half of how ‖g‖² changes with what the rows are of."""
    loss = of.loss()
    gradient = loss.gradient(of.weights)
    return loss.hessian_product(of.weights, gradient, gradient, rows)


READINGS: dict[Reading, AbstractScore] = {
    "gate_hessian": Crop(),
    "mixed": CropMixed(),
    "group_sum": CropGroupSum(),
}
"""The three readings of CroP for channels."""
