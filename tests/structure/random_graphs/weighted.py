"""Operations with weights of their own or shared ones: layers, products with parameters, norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.structure.random_graphs.operation import MOST, operation

# ------------------------------------------------------------------------------------------------- layers with weights


@operation(2, 3, 4)
def layer(at):
    """The plainest creator of channels, of any kind of value."""
    return at.layer(at.channels, at.pick(4, 6, 3, 8, 5), bias=at.pick(True, False))


@operation(4)
def conv(at):
    groups = at.pick(1, 1, 2) if at.channels % 2 == 0 else 1
    outside = at.pick(4, 6, 8, 2) if groups == 2 else at.pick(4, 6, 3, 5)
    stride = at.pick(1, 1, 2) if at.x.shape[-1] > 2 else 1
    return nn.Conv2d(at.channels, outside, at.pick(3, 1), stride, padding=1, groups=groups, bias=at.pick(True, False))


@operation(4)
def depthwise(at):
    multiple = at.pick(1, 2) if at.channels <= MOST // 2 else 1
    return nn.Conv2d(at.channels, at.channels * multiple, 3, padding=1, groups=at.channels, bias=at.pick(False, True))


@operation(4, suits=lambda x: x.shape[-1] <= 2)
def transposed(at):
    groups = at.pick(1, 2, at.channels) if at.channels % 2 == 0 else at.pick(1, at.channels)
    return nn.ConvTranspose2d(at.channels, groups * at.pick(2, 1) if groups > 1 else 4, 2, 2, groups=groups)


class Tied(nn.Module):
    """A layer of its own whose weight is another layer's."""

    def __init__(self, own: nn.Module, other: nn.Module):
        super().__init__()
        self.own = own
        self.own.weight = other.weight

    def forward(self, x):
        return self.own(x)


@operation(2, 3, 4)
def again(at):
    """A layer that is there already, once more, or another with its weight; else a new one."""
    kind = nn.Conv2d if at.x.dim() == 4 else nn.Linear
    known = [m for m in at.modules if type(m) is kind and m.weight.shape[1] == at.channels and m.weight.dim() < 4]
    if kind is nn.Conv2d:
        known = [m for m in at.modules if type(m) is kind and m.in_channels == at.channels and m.stride == (1, 1)]
    if not known:
        return at.layer(at.channels, at.channels)
    old = known[at.other % len(known)]
    if at.pick(True, False) or getattr(old, "groups", 1) > 1:
        return old
    if kind is nn.Linear:
        return Tied(nn.Linear(*old.weight.shape[::-1]), old)
    return Tied(nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding), old)


class Functional(nn.Module):
    """A product with a parameter that belongs to no layer."""

    def __init__(self, inside: int, outside: int, form: str):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inside, outside)), nn.Parameter(torch.randn(outside))
        self.form = form

    def forward(self, x):
        if self.form == "matmul":
            return x @ self.weight
        if self.form == "linear":
            return F.linear(x, self.weight.t(), self.bias)
        if self.form == "einsum":
            return torch.einsum("...i,ij->...j", x, self.weight) + self.bias
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)


@operation(2, 3)
def functional(at):
    return Functional(at.channels, at.pick(4, 6, 3, 5), at.pick("matmul", "linear", "einsum", "addmm"))


class Scaled(nn.Module):
    """Parameters for each channel, for each place, or one for all, as factor or summand."""

    def __init__(self, shape: tuple[int, ...], form: str):
        super().__init__()
        self.form, self.scale = form, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x * self.scale if self.form == "times" else x + self.scale


@operation(2, 3, 4)
def scaled(at):
    channels = (at.channels, 1, 1) if at.x.dim() == 4 else (at.channels,)
    return Scaled(at.pick(channels, tuple(at.x.shape[1:]), (1,)), at.pick("times", "plus"))


# -------------------------------------------------------------------------------------------------------------- norms


class ChannelsLast(nn.Module):
    """A norm or layer over the channels of a picture."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@operation(2, 3, 4)
def norm(at):
    c = at.channels
    if at.x.dim() == 4:
        group = nn.GroupNorm(at.pick(*[g for g in (1, 2, 3, 4, c) if c % g == 0]), c)
        return at.pick(
            nn.BatchNorm2d(c), group, ChannelsLast(nn.LayerNorm(c)), nn.InstanceNorm2d(c, affine=True, eps=1e-2)
        )
    rows = nn.BatchNorm1d(c, eps=1e-2) if at.x.dim() == 2 else nn.BatchNorm1d(at.x.shape[1])
    return at.pick(nn.LayerNorm(c, eps=1e-3), nn.RMSNorm(c, eps=1e-3), rows, nn.LayerNorm(c, eps=1e-3, bias=False))
