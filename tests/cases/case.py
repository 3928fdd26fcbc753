"""The description of a network of the zoo, and a few building blocks that many of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One network of the zoo and what the engine must find in it."""

    family: str  # the file or folder that holds it
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    least: int = 0  # this many classes, at least, must be able to leave
    most: int | None = None  # if more can leave, something is cut that must not be
    whole: tuple[str, ...] = ()  # tensors that no cut may make smaller
    named: tuple[str, ...] = ()  # words that the list of frozen dimensions must contain
    norms: dict[str, tuple[str, int]] = field(default_factory=dict)  # for a norm without weight: whose channels it has
    needs: str | None = None  # a package that the tests can do without
    refused: bool = False  # the engine must refuse to trace it
    slow: bool = False


CASES: dict[str, Case] = {}


def case(name: str, *inputs: Callable[[torch.Generator], Tensor], **promises):
    def register(build):
        def draw():
            generator = torch.Generator().manual_seed(len(name))
            return tuple(make(generator) for make in inputs)

        assert name not in CASES
        family = build.__module__.removeprefix("tests.cases.").partition(".")[0]
        CASES[name] = Case(family, build, draw, **promises)
        return build

    return register


def real(*shape: int):
    return lambda generator: torch.randn(*shape, dtype=torch.float64, generator=generator)


def integers(high: int, *shape: int):
    return lambda generator: torch.randint(high, shape, generator=generator)


def image(channels: int = 3, size: int = 8, batch: int = 3):
    return real(batch, channels, size, size)


class Apply(nn.Module):
    """A function as a module, for use in `nn.Sequential`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def conv(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=bias)


def conv_norm(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inside, outside, size, stride, groups), nn.BatchNorm2d(outside))


def pooled_head(width: int, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
