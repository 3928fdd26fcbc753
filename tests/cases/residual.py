"""Residual networks: every addition couples the channels that it adds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, groups: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv(inside, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_norm(inside, width, 1, stride) if stride != 1 or inside != width else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside: int, width: int, stride: int, groups: int = 1):
        super().__init__()
        outside = width * self.expansion
        self.conv1, self.bn1 = conv(inside, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outside, 1), nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_norm(inside, outside, 1, stride) if stride != 1 or inside != outside else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def resnet(block, depths: tuple[int, ...], base: int, classes: int = 3, groups: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, base), nn.BatchNorm2d(base), nn.ReLU(inplace=True)]
    inside = base
    for stage, depth in enumerate(depths):
        width = base * 2**stage
        for index in range(depth):
            layers.append(block(inside, width, 2 if stage and not index else 1, groups))
            inside = width * block.expansion
    return nn.Sequential(*layers, pooled_head(inside, classes))


@case("resnet", image(3), least=4 + 8 + 2 * 4 + 2 * 8, most=4 + 8 + 2 * 4 + 2 * 8)
def small_resnet():
    return resnet(BasicBlock, (2, 2), 4)


@case("resnet18", image(3, 16, 4), least=60 + 120, most=60 + 120)
def reduced_resnet18():
    return resnet(BasicBlock, (2, 2, 2, 2), 4)


@case("resnet18_full", image(3, 32, 2), least=960 + 1920, most=960 + 1920, slow=True)
def full_resnet18():
    return resnet(BasicBlock, (2, 2, 2, 2), 64, 10)


# stem, four streams of four times the width, and two inner widths in each block
RESNET50 = 1 + 4 * (1 + 2 + 4 + 8) + 2 * (3 * 1 + 4 * 2 + 6 * 4 + 3 * 8)


@case("resnet50", image(3, 16, 4), least=2 * RESNET50, most=2 * RESNET50)
def reduced_resnet50():
    return resnet(Bottleneck, (3, 4, 6, 3), 2)


@case("resnet50_full", image(3, 32, 2), least=64 * RESNET50, most=64 * RESNET50, slow=True)
def full_resnet50():
    return resnet(Bottleneck, (3, 4, 6, 3), 64, 10)


# stem, two streams; in each of two blocks per stage one class per offset within a group, in and out
@case("resnext", image(3), least=8 + 32 + 64 + 2 * (2 + 2) + 2 * (4 + 4))
def resnext():
    return resnet(Bottleneck, (2, 2), 8, groups=4)


@case("resnet_preactivation", image(3), least=4 + 8 + 4 + 8, most=4 + 8 + 4 + 8)
class PreactivationNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (4, 4, 4, 8))
        self.convs = nn.ModuleList([conv(4, 4), conv(4, 4), conv(4, 8, 3, 2), conv(8, 8)])
        self.shortcut, self.norm, self.head = conv(4, 8, 1, 2), nn.BatchNorm2d(8), pooled_head(8)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.convs[1](F.relu(self.norms[1](self.convs[0](F.relu(self.norms[0](x))))))
        y = F.relu(self.norms[2](x))
        x = self.shortcut(y) + self.convs[3](F.relu(self.norms[3](self.convs[2](y))))
        return self.head(F.relu(self.norm(x)))


@case("resnet_padded_shortcut", image(3), least=4 + 4 + 8)
class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every second place, with zeros for the new channels on both sides."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second, self.head = (
            conv_norm(3, 4),
            conv_norm(4, 8, 3, 2),
            conv_norm(8, 8),
            pooled_head(8),
        )
        self.inner, self.outer = conv_norm(4, 4), conv_norm(4, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(F.relu(self.second(F.relu(self.first(x))) + shortcut))


@case("convnext", image(3, 8), least=6 + 9, most=6 + 9)
class ConvNeXt(nn.Module):
    """Depthwise convolution, then layer norm and linear layers with the channels last."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.inner, self.outer = nn.LayerNorm(6, eps=1e-6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.gamma, self.last, self.head = nn.Parameter(torch.ones(6)), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.outer(F.gelu(self.inner(self.norm(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.last(x.mean([-2, -1])))
