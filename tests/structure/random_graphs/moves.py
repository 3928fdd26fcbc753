"""Operations that move, join, part and mix what is there, or turn one kind of value into another."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import Apply
from tests.structure.random_graphs.operation import MOST, channel_dim, even, operation, wide, width

# ---------------------------------------------------------------------------------------------------- without weights


@operation(2, 3, 4)
def act(at):
    return at.pick(nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Sigmoid(), nn.PReLU(), nn.SiLU(inplace=False), nn.Hardswish())


@operation(4)
def place(at):
    """Functions of space: pools, paddings, enlargements."""
    small, even_size = at.x.shape[-1] <= 4, at.x.shape[-1] % 2 == 0
    choices: list[nn.Module] = [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)]
    choices += [nn.Upsample(scale_factor=2), nn.ZeroPad2d(1)] if at.x.shape[-1] <= 2 else []
    choices += (
        [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.PixelUnshuffle(2)] if even_size and at.channels <= 4 else []
    )
    choices += [nn.ReflectionPad2d(1)] if small and at.x.shape[-1] > 1 else []
    return at.pick(*choices)


@operation(2, 3, 4)
def add(at):
    """Two values of one shape, or a value and what a layer makes of it."""
    form = at.pick(
        lambda x, y: x + y,
        lambda x, y: x * torch.sigmoid(y),
        lambda x, y: x - 0.5 * y,
        lambda x, y: torch.maximum(x, y),
    )
    if at.beside(lambda y: y.shape == at.x.shape) is not None:
        return Apply(form)
    return Branch(form, at.layer(at.channels, at.pick(3, 5, 2)), at.layer)


class Branch(nn.Module):
    """A residual block of two layers."""

    def __init__(self, form, first: nn.Module, make: Callable[..., nn.Module]):
        super().__init__()
        outside, inside = first.weight.shape[:2]
        self.form, self.first, self.second = form, first, make(outside, inside)

    def forward(self, x):
        return self.form(x, self.second(F.relu(self.first(x))))


@operation(2, 3, 4)
def joined(at):
    """Side by side with another value, or with itself."""
    dim = channel_dim(at.x)

    def fits(y):
        places = [size for d, size in enumerate(y.shape) if d != dim] if y.dim() == at.x.dim() else None
        return places == [size for d, size in enumerate(at.x.shape) if d != dim] and width(y) + at.channels <= MOST

    if at.beside(fits) is not None:
        return Apply(at.pick(lambda x, y: torch.cat([x, y], dim), lambda x, y: torch.cat([y.tanh(), x], dim)))
    if 2 * at.channels > MOST:
        return nn.Identity()
    return Apply(lambda x: torch.cat([x, -x], dim))


@operation(2, 3, 4, suits=even)
def halves(at):
    """Two equal parts, as values of their own or as gates of each other."""
    dim = channel_dim(at.x)
    half = at.channels // 2
    return Apply(
        at.pick(
            lambda x: torch.chunk(x, 2, dim),
            lambda x: F.glu(x, dim),
            lambda x: torch.split(x, half, dim),
            lambda x: torch.cat(x.chunk(2, dim)[::-1], dim),
            lambda x: (x.narrow(dim, 0, half), x.narrow(dim, half, half)),
            lambda x: x.unflatten(dim, (2, -1)).sum(dim),
            lambda x: x.unflatten(dim, (-1, 2)).amax(dim + 1),
            lambda x: x.unflatten(dim, (2, half)).transpose(dim, dim + 1).flatten(dim, dim + 1),
        )
    )


@operation(2, 3, 4, suits=wide)
def pieces(at):
    """Parts by literal positions."""
    dim, c = channel_dim(at.x), at.channels
    return Apply(
        at.pick(
            lambda x: torch.split(x, [1, c - 1], dim),
            lambda x: x.narrow(dim, 1, c - 1),
            lambda x: torch.cat([x.narrow(dim, 0, 2) * 2, x.narrow(dim, 2, c - 2)], dim),
            lambda x: torch.stack(x.unbind(dim), dim),
            lambda x: x.select(dim, 0).unsqueeze(dim) + x,
            lambda x: x.index_select(dim, torch.tensor([c - 1, 0, 1])),
            lambda x: x[..., ::2] if dim == x.dim() - 1 else x[:, ::2],
            lambda x: x.flip(dim),
            lambda x: x.roll(1, dim),
        )
    )


@operation(2, 3, 4)
def spread(at):
    """More channels without weights: zeros beside them, each one twice, all of them twice."""
    dim, c = channel_dim(at.x), at.channels
    before = (0, 0) * (at.x.dim() - 1 - dim)
    if 2 * c > MOST:
        return nn.Identity()
    return Apply(
        at.pick(
            lambda x: F.pad(x, (*before, 1, 2)),
            lambda x: x.repeat_interleave(2, dim),
            lambda x: torch.cat([x, x], dim),
            lambda x: torch.stack([x, x.tanh()], dim + 1).flatten(dim, dim + 1),
            lambda x: torch.stack([x, x.tanh()], dim).sum(dim),
        )
    )


@operation(2, 3, 4)
def mixed(at):
    """Statistics over the channels, over the rest, and literal sizes: what may not be cut without care."""
    dim, shape = channel_dim(at.x), at.x.shape
    return Apply(
        at.pick(
            lambda x: x * x.flatten(1).mean(1).view(-1, *[1] * (x.dim() - 1)),
            lambda x: x - x.mean(dim, keepdim=True),
            lambda x: x.softmax(dim),
            lambda x: x * x.sum(dim, keepdim=True).tanh(),
            lambda x: x.reshape(-1, *shape[1:]) * 2,
            lambda x: F.normalize(x, dim=dim, eps=1e-2),
            lambda x: x / x.shape[dim],
            lambda x: x.cumsum(dim),
        )
    )


# ----------------------------------------------------------------------------------------------- from kind to kind


@operation(4)
def to_tokens(at):
    return Apply(at.pick(lambda x: x.flatten(2).transpose(1, 2), lambda x: x.permute(0, 2, 3, 1).flatten(1, 2)))


@operation(3, suits=lambda x: x.shape[1] in (4, 16))
def to_image(at):
    side = int(at.x.shape[1] ** 0.5)
    return Apply(lambda x: x.transpose(1, 2).unflatten(2, (side, side)))


@operation(3, 4)
def to_vector(at):
    if at.x[0].numel() <= 64 and at.pick(True, False):
        return Apply(at.pick(lambda x: x.flatten(1), lambda x: x.transpose(1, -1).flatten(1)))
    if at.x.dim() == 4:
        return Apply(at.pick(lambda x: x.mean((2, 3)), lambda x: x.amax((-2, -1)), lambda x: x.flatten(2).sum(-1)))
    return Apply(at.pick(lambda x: x.mean(1), lambda x: x[:, 0], lambda x: x.max(1).values, lambda x: x[:, -1]))


@operation(2, suits=lambda x: width(x) % 2 == 0 and width(x) > 2)
def to_steps(at):
    """A vector's features become rows of two or two rows."""
    return Apply(at.pick(lambda x: x.unflatten(1, (-1, 2)), lambda x: x.view(x.shape[0], 2, -1)))
