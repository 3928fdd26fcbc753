"""Strided 1×1 convolutions to which a cut has left very few channels.

The weight gradient of such a layer never returns in PyTorch's CPU build (oneDNN; seen with torch 2.13, two threads,
tensors in channels_last, fewer than 8 input channels). The down-sampling shortcut of a heavily pruned ResNet is such a
layer.
"""

from typing import Any

from torch import Tensor, nn

NARROW = 8
"""With this many input channels or more, no layer was seen to hang."""


class SubsampledConv2d(nn.Conv2d):
    """y = W x[:, :, ::s, ::s]: computes a 1×1 convolution with stride s by one with stride 1."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        taken = input[..., ::rows, ::columns]
        return nn.functional.conv2d(taken, weight, bias, groups=self.groups)


def subsample(model: nn.Module) -> None:
    """Make every strided 1×1 convolution with few input channels pick its places first, in any memory layout."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _may_hang(module):
            module.__class__ = SubsampledConv2d


def _may_hang(module: Any) -> bool:
    return (
        module.in_channels // module.groups < NARROW
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.padding in ((0, 0), "valid")
    )
