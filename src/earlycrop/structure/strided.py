"""1×1 convolutions with a stride, once a cut has left them very few channels.

The weight gradient of such a layer never returns in PyTorch's CPU build (oneDNN; seen with torch 2.13, two threads,
tensors in channels_last, fewer than 8 input channels). It is the down-sampling shortcut of a heavily pruned ResNet.
"""

from typing import Any

from torch import Tensor, nn

NARROW = 8
"""Input channels from which on no layer was seen to hang."""


class SubsampledConv2d(nn.Conv2d):
    """y = W x[:, :, ::s, ::s]: what a 1×1 convolution with stride s computes, by one with stride 1."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        taken = input[..., ::rows, ::columns]
        return nn.functional.conv2d(taken, weight, bias, groups=self.groups)


def subsample(model: nn.Module) -> None:
    """Every 1×1 convolution with a stride and few input channels takes its places first, whatever the layout."""
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
