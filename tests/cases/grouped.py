"""Grouped and depthwise convolutions, and shuffles between groups."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head


@case("grouped", image(3), least=2 + 2 + 6)
def grouped():
    """Convolutions in groups: 8 in, 8 out by 4 groups; 8 in, 12 out by 2 groups."""
    return nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 8, groups=4, bias=True),
        nn.ReLU(),
        conv(8, 12, groups=2),
        pooled_head(12),
    )


@case("grouped_end", image(4), least=4 + 3)
def grouped_end():
    """Groups at the input, whose channels cannot leave, and groups at the output."""
    return nn.Sequential(conv(4, 8, groups=2), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 4, groups=2))


@case("depthwise", image(3), least=6 + 5, most=6 + 5)
def depthwise():
    return nn.Sequential(
        conv(3, 6),
        nn.ReLU(),
        conv(6, 6, groups=6, bias=True),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        conv(6, 5, 1),
        nn.ReLU(),
        pooled_head(5),
    )


@case("depthwise_multiplier", image(3), least=4 + 5, most=4 + 5)
def depthwise_multiplier():
    """Each of 4 channels becomes 2, which leave with it."""
    return nn.Sequential(
        conv(3, 4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 5, 1),
        nn.ReLU(),
        pooled_head(5),
    )


@case("depthwise_of_input", image(3), least=5)
def depthwise_of_input():
    return nn.Sequential(conv(3, 6, groups=3), nn.ReLU(), conv(6, 5, 1), nn.ReLU(), pooled_head(5))


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int):
        super().__init__()
        hidden = inside * expansion
        self.residual = stride == 1 and inside == outside
        self.body = nn.Sequential(
            *conv_norm(inside, hidden, 1),
            nn.ReLU6(inplace=True),
            *conv_norm(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(inplace=True),
            *conv_norm(hidden, outside, 1),
        )

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


@case("mobilenet", image(3), least=4 + 6 + 8 + 12 + 18 + 10, most=4 + 6 + 8 + 12 + 18 + 10)
def mobilenet():
    return nn.Sequential(
        *conv_norm(3, 4, 3),
        nn.ReLU6(),
        InvertedResidual(4, 4, 1, 2),
        InvertedResidual(4, 6, 2, 3),
        InvertedResidual(6, 6, 1, 3),
        *conv_norm(6, 10, 1),
        nn.ReLU6(),
        pooled_head(10),
    )


@case("channel_shuffle", image(3), least=4)
class ShuffleNet(nn.Module):
    """Grouped 1×1 convolutions with a shuffle between the groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv_norm(3, 8), conv(8, 8, 1, groups=2), conv(8, 8, 1, groups=2)
        self.depthwise, self.last, self.head = conv_norm(8, 8, 3, 1, 8), conv(8, 4, 1), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(F.relu(self.stem(x))))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(F.relu(self.last(self.second(self.depthwise(x)))))


@case("channel_shuffle_module", image(3), least=9, most=9)
def channel_shuffle_module():
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.ChannelShuffle(2), conv(8, 5), nn.ReLU(), pooled_head(5))
