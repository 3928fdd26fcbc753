"""Synaptic flow: pruning without data that never empties a layer before it must."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.scores.abstract import AbstractNetworkScore, Network, Vector
from earlycrop.structure.trace import duplicate


@dataclass(frozen=True)
class SynFlow(AbstractNetworkScore):
    """|θ ∘ ∂R/∂θ|, R the summed output of the all-positive network for an input of ones (Tanaka et al., 2020).

    Computed in float64 on a copy, for R overflows in deep networks. Needs no data.
    """

    def __call__(self, of: Network) -> Vector:
        """The synaptic flow through each unit."""
        positive = duplicate(of.model).double()
        with torch.no_grad():
            for tensor in (*positive.parameters(), *positive.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        inputs = pytree.tree_map_only(Tensor, _one_sample_of_ones, of.example_inputs)

        def flow(model: object, batch: tuple[object, ...]) -> Tensor:
            outputs = pytree.tree_leaves(model(*batch))  # type: ignore[operator]
            return sum(out.sum() for out in outputs if isinstance(out, Tensor) and out.is_floating_point())  # type: ignore[return-value]

        units = replace(of.units, model=positive) if hasattr(of.units, "model") else of.units  # type: ignore[type-var]
        at = Evaluation(MeanLoss(positive, flow, [inputs], bn_mode="running"), units)
        return (at.values * at.gradient()).abs()


def _one_sample_of_ones(tensor: Tensor) -> Tensor:
    one = tensor[:1].detach()
    return torch.ones_like(one, dtype=torch.float64) if one.is_floating_point() else one
