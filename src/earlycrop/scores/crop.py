"""Gradient flow preservation: remove what least changes the gradient flow, hence the neural tangent kernel.

The flow GF = gᵀg changes by −2 θᵢ (Hg)ᵢ, to first order, when θᵢ goes to zero. GraSP wants GF as large as
possible; CroP wants it unchanged, hence the absolute value.

For channels, three quantities go by the name of CroP, and they are neither equal nor proportional:

    Crop          |H_c g_c|                    on gates alone: the published formula
    CropMixed     ½ |∂‖g_W(c)‖² / ∂c|          what the authors' code computes
    CropGroupSum  |Σ θ ∘ Hg| over the channel  the single-weight terms, summed with their signs
"""

from dataclasses import dataclass
from typing import ClassVar

from earlycrop.evaluation import Evaluation, Rows
from earlycrop.names import Reading
from earlycrop.scores.abstract import AbstractLossScore, AbstractNetworkScore, AbstractScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Crop(AbstractLossScore):
    """|θ ∘ Hg|: GraSP without its sign, so flow is preserved (Rachwan et al., 2022).

    On gates c = 1 this is |H_c g_c|.
    """

    def __call__(self, at: Evaluation) -> Vector:
        """|θ ∘ (∇²L ∇L)|, one number per unit."""
        return at.hessian_gradient().mul_(at.values).abs_()  # in place: a vector may be as long as the network is large


@dataclass(frozen=True)
class CropMixed(AbstractNetworkScore):
    """|∂/∂c ½‖g_W(c)‖²|: how the gradient flow of the *weights* changes as a gate closes.

    This is what the authors' code computes (Rachwan et al., 2022). With gates on the affine output it is
    ‖g_Wk‖² + θₖᵀ(Hg)ₖ for channel k.
    """

    needs_data: ClassVar[bool] = True
    needs_gates: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """|⟨∂²L/∂c∂W, g_W⟩| for each gate c, g_W being the gradient over the prunable weights."""
        return _flow(of, of.coordinates).abs()


@dataclass(frozen=True)
class CropGroupSum(AbstractNetworkScore):
    """|Σ θ ∘ Hg| over the filters and biases that create a channel (Rachwan et al., 2022, summed over a channel)."""

    needs_data: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """|Σ θ ∘ Hg| for each class of channels: the absolute value comes after the sum."""
        return _flow(of, of.made_of).abs()


def _flow(of: Network, rows: Rows) -> Vector:
    """The rows of H g, g over the prunable weights: half the derivative of ‖g‖² by what the rows stand for."""
    loss = of.loss()
    gradient = loss.gradient(of.weights)
    return loss.hessian_product(of.weights, gradient, gradient, rows)


READINGS: dict[Reading, AbstractScore] = {
    "gate_hessian": Crop(),
    "mixed": CropMixed(),
    "group_sum": CropGroupSum(),
}
"""The three readings of CroP for channels, by name."""
