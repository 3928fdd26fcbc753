"""Synaptic flow: a score without data that never empties a layer before it has to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from earlycrop.evaluation import MeanLoss
from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.scores.trees import floats, one_sample_of_ones
from earlycrop.structure.trace import Inputs, called, duplicate
from earlycrop.vector import Vector


@dataclass(frozen=True)
class SynFlow(AbstractNetworkScore):
    """|θ ∘ ∂R/∂θ|, R being the summed output of the all-positive network for an input of ones (Tanaka et al., 2020).

    Computed in float64 on a copy, because R overflows in deep networks. Needs no data.
    """

    def __call__(self, of: Network) -> Vector:
        """The synaptic flow |θ ∘ ∂R/∂θ| through each unit."""
        positive = duplicate(of.model).double()
        with torch.no_grad():
            for tensor in (*positive.parameters(), *positive.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()

        def flow(model: object, batch: Inputs) -> Tensor:
            return sum(out.sum() for out in floats(called(model, batch)))  # type: ignore[operator, return-value]

        batches = [one_sample_of_ones(of.example_inputs)]
        slope = MeanLoss(positive, flow, batches, bn_mode="running").gradient(of.coordinates)
        return (of.coordinates.values * slope).abs()
