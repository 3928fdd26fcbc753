"""Batch norms in which one number opens and closes a channel (You et al., 2019).

An ordinary norm returns γ x̂ + β. A gated one returns φ (x̂ + β'): `weight` holds φ = γ and `bias` holds β' = β/γ,
clipped to ±10. It is the same function unless |β/γ| is larger. Names, shapes and parameter objects stay.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from earlycrop.structure.surgery import rebind

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

LARGEST = 10.0
"""The largest |β'|, so that a scale γ near zero cannot make a huge shift."""


def norm_scales(model: nn.Module) -> list[str]:
    """The names of the scales γ of a model's norms."""
    norms = ((name, module) for name, module in model.named_modules() if isinstance(module, NORMS))
    return [f"{name}.weight" for name, norm in norms if norm._parameters.get("weight") is not None]


class GatedNorm:
    """The forward pass that replaces a batch norm's own while it is gated."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """φ (x̂ + β'), computed as the norm computes γ x̂ + β, with φ for γ and φ β' for β."""
        shift = self._parameters["bias"]
        self._parameters["bias"] = self.weight * shift
        try:
            return super().forward(x)  # type: ignore[misc]
        finally:
            self._parameters["bias"] = shift


class GatedBatchNorm1d(GatedNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` that returns φ (x̂ + β')."""


class GatedBatchNorm2d(GatedNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that returns φ (x̂ + β')."""


class GatedBatchNorm3d(GatedNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` that returns φ (x̂ + β')."""


GATED: dict[type, type] = {
    nn.BatchNorm1d: GatedBatchNorm1d,
    nn.BatchNorm2d: GatedBatchNorm2d,
    nn.BatchNorm3d: GatedBatchNorm3d,
}
PLAIN = {gated: plain for plain, gated in GATED.items()}


@torch.no_grad()
def gate_norms(model: nn.Module) -> None:
    """Gate every ordinary batch norm that has a scale; the model computes what it did, unless a β' is clipped."""
    for norm in model.modules():
        if type(norm) in GATED and norm._parameters["weight"] is not None:
            scale, shift = norm.weight, norm.bias
            assert isinstance(scale, Tensor)
            assert isinstance(shift, Tensor)
            ratio = torch.where(shift == 0, 0.0, shift / scale)
            rebind(shift, ratio.clamp(-LARGEST, LARGEST))
            norm.__class__ = GATED[type(norm)]


@torch.no_grad()
def plain_norms(model: nn.Module) -> None:
    """Make every gated norm an ordinary one again; the model still computes the same function."""
    for norm in model.modules():
        if type(norm) in PLAIN:
            scale, shift = norm.weight, norm.bias
            assert isinstance(scale, Tensor)
            assert isinstance(shift, Tensor)
            rebind(shift, scale * shift)
            norm.__class__ = PLAIN[type(norm)]
