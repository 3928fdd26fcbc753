"""Norms of every kind, with and without weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


def norm_net(make: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv(3, 8), make(8), nn.ReLU(), conv(8, 6), make(6), nn.ReLU(), pooled_head(6))


@case("group_norm_one", image(3), least=14, most=14)
def group_norm_one():
    """One group, which makes it a layer norm over channels and places."""
    return norm_net(lambda width: nn.GroupNorm(1, width))


@case("group_norm_each", image(3), least=14, most=14)
def group_norm_each():
    """As many groups as channels, which makes it an instance norm."""
    return norm_net(lambda width: nn.GroupNorm(width, width))


@case("group_norm_two", image(3), least=4 + 3, most=14)
def group_norm_two():
    return norm_net(lambda width: nn.GroupNorm(2, width))


@case("group_norm_pairs", image(3), least=4 + 3, most=14)
def group_norm_pairs():
    return norm_net(lambda width: nn.GroupNorm(width // 2, width))


@case("group_norm_bare", image(3), norms={"1": ("0.weight", 0)})
def group_norm_bare():
    return nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8, affine=False), nn.ReLU(), conv(8, 2))


@case("group_norm_residual", image(3), least=2)
class GroupNormResidual(nn.Module):
    """The stream meets norms of 2 and of 4 groups, and a convolution of 2 groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv(3, 8), conv(8, 8), conv(8, 8, groups=2)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.GroupNorm(8, 8)])
        self.head = pooled_head(8)

    def forward(self, x):
        x = self.norms[0](self.stem(x))
        x = x + self.norms[1](self.first(F.relu(x)))
        return self.head(F.relu(x + self.norms[2](self.second(F.relu(x)))))


@case("group_norm_concat", image(3), least=0)
class GroupNormConcat(nn.Module):
    """A group that spans two layers."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.head = conv(3, 3), conv(3, 5), nn.GroupNorm(2, 8), pooled_head(8)

    def forward(self, x):
        return self.head(F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


@case("instance_norm", image(3), least=14, most=14)
def instance_norm():
    return norm_net(lambda width: nn.InstanceNorm2d(width, affine=True))


@case("instance_norm_tracked", image(3), least=14, most=14)
def instance_norm_tracked():
    return norm_net(lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True))


@case("instance_norm_bare", image(3), least=14, most=14)
def instance_norm_bare():
    return norm_net(lambda width: nn.InstanceNorm2d(width))


@case("local_response_norm", image(3), least=4, whole=("0.weight",))
def local_response_norm():
    """Neighbouring channels are averaged, so the function depends on which channels are neighbours."""
    return nn.Sequential(conv(3, 6), nn.LocalResponseNorm(3), nn.ReLU(), conv(6, 4), nn.ReLU(), pooled_head(4))


@case("unit_vectors", real(4, 6), least=7)
class UnitVectors(nn.Module):
    """Features divided by their length, and a head of unit rows (cosine similarity)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = F.normalize(self.second(F.relu(self.first(x))), dim=1)
        return F.linear(x, F.normalize(self.head.weight, dim=1))
