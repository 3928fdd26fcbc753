"""Channels that are multiplied by factors computed from them (squeeze and excite)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head


class SqueezeConv(nn.Module):
    def __init__(self, width: int, hidden: int, gate: nn.Module):
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1), gate

    def forward(self, x):
        return x * self.gate(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class SqueezeLinear(nn.Module):
    def __init__(self, width: int, hidden: int, gate: nn.Module):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), gate)

    def forward(self, x):
        batch, channels = x.shape[:2]
        gate = self.body(F.adaptive_avg_pool2d(x, 1).view(batch, channels)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


def squeeze_net(squeeze, gate: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(3, 6), nn.ReLU(), squeeze(6, 4, gate), *conv_norm(6, 5), nn.Hardswish(), pooled_head(5)
    )


@case("squeeze_conv", image(3), least=15, most=15)
def squeeze_conv():
    return squeeze_net(SqueezeConv, nn.Sigmoid())


@case("squeeze_conv_hard", image(3), least=15, most=15)
def squeeze_conv_hard():
    return squeeze_net(SqueezeConv, nn.Hardsigmoid())


@case("squeeze_linear", image(3), least=15, most=15)
def squeeze_linear():
    return squeeze_net(SqueezeLinear, nn.Sigmoid())


@case("squeeze_linear_hard", image(3), least=15, most=15)
def squeeze_linear_hard():
    return squeeze_net(SqueezeLinear, nn.Hardswish())


@case("spatial_gate", image(3), least=6 + 4, most=6 + 4, whole=("gate.bias",))
class SpatialGate(nn.Module):
    """One channel multiplies six: it is broadcast over them and is not one of them."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.gate, self.head = (
            conv_norm(3, 6),
            conv(6, 4),
            conv(4, 1, bias=True),
            pooled_head(6),
        )

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(x * torch.sigmoid(self.gate(F.relu(self.inner(x)))))


@case("attention_map", image(3), least=4)
class AttentionMap(nn.Module):
    """The mean and maximum over the channels give a map (convolutional block attention): they mix the channels."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.second, self.head = conv_norm(3, 6), conv(2, 1), conv(6, 4), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(x))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(F.relu(self.second(x * torch.sigmoid(self.gate(pooled)))))
