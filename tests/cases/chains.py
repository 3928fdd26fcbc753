"""Chains of convolutions with pools, paddings and flattening heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Apply, case, conv, conv_norm, image, pooled_head, real


@case("chain", image(3), least=4 + 6 + 5, most=4 + 6 + 5)
def chain():
    return nn.Sequential(
        *conv_norm(3, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *conv_norm(4, 6),
        nn.ReLU(),
        *conv_norm(6, 5),
        nn.ReLU(),
        pooled_head(5),
    )


@case("chain_with_bias", image(3), least=4 + 6, most=4 + 6)
def chain_with_bias():
    return nn.Sequential(
        conv(3, 4, bias=True), nn.ELU(), nn.AvgPool2d(2), conv(4, 6, bias=True), nn.SiLU(), conv(6, 2, bias=True)
    )


@case("chain_pools", image(3, 9), least=4 + 6 + 5, most=4 + 6 + 5)
def chain_pools():
    return nn.Sequential(
        conv(3, 4),
        nn.MaxPool2d(3, 2, 1),
        conv(4, 6),
        nn.AvgPool2d(2, ceil_mode=True),
        conv(6, 5),
        nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


@case("chain_padded", image(3), least=4 + 6, most=4 + 6)
def chain_padded():
    """Padding of every kind: it fills places, never channels."""
    return nn.Sequential(
        nn.ZeroPad2d(1),
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.ReflectionPad2d(1),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.ConstantPad2d(1, 0.5),
        nn.Conv2d(6, 2, 3, dilation=2),
    )


@case("conv1d", real(3, 2, 12), least=4 + 6, most=4 + 6)
def conv1d():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 3),
        nn.PReLU(6),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


@case("conv3d", real(2, 2, 4, 6, 6), least=4 + 6, most=4 + 6)
def conv3d():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(4, 6, (1, 3, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@case("prelu_channels", image(3), least=4 + 6, most=4 + 6)
def prelu_channels():
    return nn.Sequential(conv(3, 4), nn.PReLU(4), conv(4, 6), nn.BatchNorm2d(6), nn.PReLU(6), pooled_head(6))


@case("equal_sizes", real(4, 4, 4, 4), least=4 + 4, most=4 + 4)
class EqualSizes(nn.Module):
    """Batch, channels, height and width are all 4: only their positions distinguish them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(4, 4), conv(4, 4)
        self.channel, self.row = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(4, 1))
        self.across, self.head = nn.Linear(4, 4), pooled_head(4, 4)

    def forward(self, x):
        x = F.relu(self.first(x) * self.channel)
        x = F.relu(self.second(self.across(x) + self.row))
        return self.head(x)


@case("in_place", image(3), least=4 + 6, most=4 + 6)
class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv_norm(3, 4), conv_norm(4, 6), conv(6, 6), pooled_head(6)

    def forward(self, x):
        x = F.relu_(self.first(x))
        x = self.second(x)
        y = self.third(torch.tanh(x))
        x += y
        x.mul_(2.0).clamp_(min=-1.0)
        F.leaky_relu_(x, 0.1)
        return self.head(x)


@case("flatten_after_norm", image(3, 4), least=5 + 5, most=5 + 5)
def flatten_after_norm():
    """A norm over flattened channels and places: each channel is 4 consecutive features."""
    return nn.Sequential(
        conv(3, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(20),
        nn.Linear(20, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


@case("flatten_layer_norm", image(3, 4), least=5 + 6)
def flatten_layer_norm():
    """A layer norm over channels and places at once, then one over flattened features."""
    return nn.Sequential(
        conv(3, 5), nn.LayerNorm([5, 4, 4]), nn.ReLU(), conv(5, 6), nn.Flatten(), nn.LayerNorm(96), nn.Linear(96, 3)
    )


def lenet(flatten: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Apply(flatten),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


LENET = 4 + 6 + 12 + 8


@case("lenet_flatten", image(1, 16), least=LENET, most=LENET)
def lenet_flatten():
    return lenet(lambda x: x.flatten(1))


@case("lenet_view", image(1, 16), least=LENET, most=LENET)
def lenet_view():
    return lenet(lambda x: x.view(x.shape[0], -1))


@case("lenet_view_sizes", image(1, 16), least=LENET, most=LENET)
def lenet_view_sizes():
    """Every size is read from the tensor, so this code follows a cut although the exported graph shows numbers."""
    return lenet(lambda x: x.reshape(x.size(0), x.size(1) * x.size(2) * x.size(3)))


@case("lenet_view_literal", image(1, 16), least=4 + 12 + 8, most=4 + 12 + 8)
def lenet_view_literal():
    """The literal 24 in the code freezes the layer that feeds it, and nothing else."""
    return lenet(lambda x: x.view(-1, 24))


@case("lenet_full", image(1, 32), least=6 + 120 + 84, most=6 + 120 + 84)
class LeNetLiteral(nn.Module):
    """LeNet-5 as tutorials write it, with `x.view(-1, 400)`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 400)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@case("view_attribute", image(3, 4), least=5, most=5 + 6)
class ViewAttribute(nn.Module):
    """One view reads the layer's own attribute, which follows the cut; the other a number that the class keeps."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.first, self.second, self.head = conv(3, 5), conv(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x.view(x.shape[0], self.first.out_channels, 4, 4)
        x = F.relu(self.second(x))
        return self.head(x.view(x.shape[0], self.width, 16).mean(2))


@case("fold_channels", image(3, 4), least=4)
class FoldChannels(nn.Module):
    """A view folds pairs of channels into the batch: it runs at many widths, but is meaningful at only one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 8), conv(2, 3), conv(12, 4), pooled_head(4)

    def forward(self, x):
        batch = x.shape[0]
        x = F.relu(self.first(x)).reshape(-1, 2, 4, 4)
        x = F.relu(self.second(x)).reshape(batch, -1, 4, 4)
        return self.head(F.relu(self.third(x)))


def vgg(widths: list[int | str], inside: int, hidden: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside = width
    head = [nn.Linear(inside * 4, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head, nn.Linear(hidden, classes))


def vgg16(base: int, hidden: int) -> nn.Sequential:
    widths = [base, base, "M", base * 2, base * 2, "M", *[base * 4] * 3, "M", *[base * 8] * 3, "M", *[base * 8] * 3]
    return vgg(widths, 3, hidden, 10)


@case("vgg", image(3, 8), least=4 + 5 + 6 + 7 + 8 + 6 + 6)
def small_vgg():
    return vgg([4, 5, "M", 6, 7, 8], 3, 6, 3)


@case("vgg16", image(3, 32, 2), least=4 * (2 + 4 + 12 + 24 + 24) + 2 * 16)
def reduced_vgg16():
    return vgg16(4, 16)


@case("vgg16_full", image(3, 32, 2), least=64 * (2 + 4 + 12 + 24 + 24) + 2 * 512, slow=True)
def full_vgg16():
    return vgg16(64, 512)
