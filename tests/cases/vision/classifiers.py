"""Convolutional classifiers: EfficientNet, MobileNet, RegNet, ShuffleNet, GhostNet, ConvNeXt and others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, squeeze and excite, project (EfficientNet, MobileNetV3)."""

    def __init__(self, inside: int, hidden: int, squeeze: int, outside: int, act: nn.Module, gate: nn.Module):
        super().__init__()
        self.residual, self.act, self.gate = inside == outside, act, gate
        self.expand, self.depthwise = conv_norm(inside, hidden, 1), conv_norm(hidden, hidden, 3, 1, hidden)
        self.reduce, self.excite = nn.Conv2d(hidden, squeeze, 1), nn.Conv2d(squeeze, hidden, 1)
        self.project = conv_norm(hidden, outside, 1)

    def forward(self, x):
        y = self.act(self.depthwise(self.act(self.expand(x))))
        y = self.project(y * self.gate(self.excite(self.act(self.reduce(y.mean((2, 3), keepdim=True))))))
        return x + y if self.residual else y


@case("efficientnet", image(3, 8), least=4 + (8 + 2) + 6 + (12 + 3) + 9, most=4 + 10 + 6 + 15 + 9)
def efficientnet():
    return nn.Sequential(
        conv_norm(3, 4, 3, 2),
        nn.SiLU(),
        InvertedBottleneck(4, 8, 2, 6, nn.SiLU(), nn.Sigmoid()),
        InvertedBottleneck(6, 12, 3, 6, nn.SiLU(), nn.Sigmoid()),
        conv_norm(6, 9, 1),
        nn.SiLU(),
        pooled_head(9),
    )


@case("mobilenet_v3", image(3, 8), least=4 + (8 + 2) + (9 + 3) + 6 + 7, most=4 + 10 + 12 + 6 + 7)
def mobilenet_v3():
    return nn.Sequential(
        conv_norm(3, 4, 3, 2),
        nn.Hardswish(),
        InvertedBottleneck(4, 8, 2, 4, nn.ReLU(), nn.Hardsigmoid()),
        InvertedBottleneck(4, 9, 3, 6, nn.Hardswish(), nn.Hardsigmoid()),
        nn.AdaptiveAvgPool2d(1),
        conv(6, 7, 1, bias=True),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(7, 3),
    )


class RegNetBlock(nn.Module):
    def __init__(self, inside: int, width: int, groups: int, stride: int):
        super().__init__()
        self.first, self.second = conv_norm(inside, width, 1), conv_norm(width, width, 3, stride, groups)
        self.reduce, self.excite = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.last = conv_norm(width, width, 1)
        self.shortcut = conv_norm(inside, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = F.relu(self.second(F.relu(self.first(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        return F.relu(self.last(y) + self.shortcut(x))


# stem 4; stream 8, its groups' offsets 4 in and 4 out, squeeze 2; stream 12, groups' offsets 4 and 4, squeeze 2
@case("regnet", image(3, 8), least=4 + 8 + 4 + 4 + 2 + 12 + 4 + 4 + 2)
def regnet():
    return nn.Sequential(conv_norm(3, 4), nn.ReLU(), RegNetBlock(4, 8, 2, 2), RegNetBlock(8, 12, 3, 2), pooled_head(12))


class ShuffleUnit(nn.Module):
    """One half passes, the other is convolved, and both are shuffled together (ShuffleNetV2)."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1), nn.ReLU(), conv_norm(half, half, 3, 1, half), conv_norm(half, half, 1), nn.ReLU()
        )

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(x.shape)


@case("shufflenet_v2", image(3, 8), least=4 + 4 + 5)
def shufflenet_v2():
    return nn.Sequential(
        conv_norm(3, 8), nn.ReLU(), ShuffleUnit(8), ShuffleUnit(8), conv_norm(8, 5, 1), nn.ReLU(), pooled_head(5)
    )


class GhostModule(nn.Module):
    """Cheap functions compute half of the channels from the other half."""

    def __init__(self, inside: int, outside: int, act: bool = True):
        super().__init__()
        half = outside // 2
        self.act = nn.ReLU() if act else nn.Identity()
        self.primary, self.cheap = conv_norm(inside, half, 1), conv_norm(half, half, 3, 1, half)

    def forward(self, x):
        x = self.act(self.primary(x))
        return torch.cat([x, self.act(self.cheap(x))], 1)


@case("ghostnet", image(3, 8), least=4 + 3)
class GhostNet(nn.Module):
    """The stream takes a primary and a cheap half together, so its channels leave in pairs."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (
            conv_norm(3, 8),
            GhostModule(8, 6),
            GhostModule(6, 8, act=False),
            pooled_head(8),
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(x + self.outer(self.inner(x)))


@case("convnext_v2", image(3, 8), least=6 + 9)
class ConvNeXtV2(nn.Module):
    """Global response normalization divides each channel's length by their mean: a norm in the module's own code."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.inner, self.outer = nn.LayerNorm(6, eps=1e-6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.gamma, self.beta, self.head = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(9)), nn.Linear(6, 3)

    def averaged(self, x):
        return x.mean(-1, keepdim=True)

    def forward(self, x):
        x = self.stem(x)
        y = F.gelu(self.inner(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        length = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = y + self.gamma * (y * length / (self.averaged(length) + 1e-6)) + self.beta
        return self.head((x + self.outer(y).permute(0, 3, 1, 2)).mean((2, 3)))


@case("res2net", image(3, 8), least=4 + 4)
class Res2Net(nn.Module):
    """Quarters of a width, each convolved after the result of the one before is added."""

    def __init__(self):
        super().__init__()
        self.stem, self.split = conv_norm(3, 4), conv_norm(4, 8, 1)
        self.parts = nn.ModuleList(conv_norm(2, 2) for _ in range(3))
        self.join, self.head = conv_norm(8, 4, 1), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        first, *others = F.relu(self.split(x)).chunk(4, 1)
        outputs, last = [first], 0
        for part, layer in zip(others, self.parts, strict=True):
            last = F.relu(layer(part + last))
            outputs.append(last)
        return self.head(F.relu(x + self.join(torch.cat(outputs, 1))))


@case("squeezenet", image(3, 8), least=4 + 2 + 3 + 4 + 3, most=4 + 2 + 3 + 4 + 3)
class SqueezeNet(nn.Module):
    """Fire modules, and a convolution whose maps are the classes."""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze = conv(3, 4, bias=True), conv(4, 2, 1, bias=True)
        self.one, self.three = conv(2, 3, 1, bias=True), conv(2, 4, bias=True)
        self.last, self.classes = conv(7, 3, bias=True), conv(3, 3, 1, bias=True)

    def forward(self, x):
        x = F.relu(self.squeeze(F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)))
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)
        return F.adaptive_avg_pool2d(self.classes(F.relu(self.last(x))), 1).flatten(1)


@case("compact_bilinear", image(3), least=6 + 4)
class CompactBilinear(nn.Module):
    """Products of projections instead of all pairs of channels (bilinear pooling of low rank)."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.head = conv_norm(3, 6), conv(6, 4, 1), conv(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = (self.left(x) * self.right(x)).sum((2, 3))
        return self.head(x.sign() * (x.abs() + 1e-3).sqrt())
