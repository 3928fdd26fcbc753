"""What an operation is: for which values, and how it makes its module; all are listed in `OPERATIONS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

MOST = 16  # channels


@dataclass
class Maker:
    """What an operation needs to make its module: the values so far, the operands, and the number's digits."""

    values: list[Tensor]
    modules: list[nn.Module]
    source: int
    other: int
    number: int
    reads: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.reads = [self.source]

    @property
    def x(self) -> Tensor:
        return self.values[self.source]

    @property
    def channels(self) -> int:
        return self.x.shape[channel_dim(self.x)]

    def pick(self, *choices):
        self.number, digit = divmod(self.number, len(choices))
        return choices[digit]

    def beside(self, suits: Callable[[Tensor], bool]) -> Tensor | None:
        """Another value as a second operand."""
        found = [i for i in reversed(range(len(self.values))) if i != self.source and suits(self.values[i])]
        if not found:
            return None
        self.reads.append(found[self.other % len(found)])
        return self.values[self.reads[-1]]

    def layer(self, inside: int, outside: int, **options) -> nn.Module:
        """The layer of one place (of a picture) or of one row that leads from a width to another."""
        return nn.Conv2d(inside, outside, 1, **options) if self.x.dim() == 4 else nn.Linear(inside, outside, **options)


def channel_dim(x: Tensor) -> int:
    return x.dim() - 1 if x.dim() < 4 else 1


Make = Callable[[Maker], nn.Module]
OPERATIONS: dict[str, tuple[Callable[[Tensor], bool], Make]] = {}


def operation(*dims: int, suits: Callable[[Tensor], bool] = lambda x: True):
    """Register what makes an operation's module, for values of these numbers of dimensions."""

    def register(make: Make) -> Make:
        OPERATIONS[make.__name__.rstrip("_")] = (lambda x: x.dim() in dims and suits(x), make)
        return make

    return register


def width(x: Tensor) -> int:
    return x.shape[channel_dim(x)]


def even(x: Tensor) -> bool:
    return width(x) % 2 == 0


def wide(x: Tensor) -> bool:
    return width(x) >= 3
