"""Random networks from short descriptions: any list of steps is a network, so any part of one is one, too.

A step is `(operation, which, other, number)`. `which` counts the values that the operation accepts, from the newest;
`other` does so for a second operand; `number` is read digit by digit for widths, groups and forms. A step that no value
suits does nothing. Values nobody reads become outputs, the three newest of them, each through a layer of its own; what
is older stays a dead end, as dead ends must not disturb either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Apply

Step = tuple[str, int, int, int]
BATCH = 3
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


class Net(nn.Module):
    """The network of a description; `repr(net.source)` builds it again."""

    def __init__(self, kind: str, steps: Sequence[Step]):
        super().__init__()
        self.source = f"Net({kind!r}, {list(steps)!r})"
        values = [example(kind)]
        self.kind, self.plan, layers = kind, [], []
        read: set[int] = set()
        with torch.no_grad():
            for name, which, other, number in steps:
                accepts, make = OPERATIONS[name]
                found = [i for i in reversed(range(len(values))) if accepts(values[i])]
                if not found:
                    continue
                maker = Maker(values, layers, found[which % len(found)], other, number)
                layer = make(maker).double().eval()
                results = layer(*(values[i] for i in maker.reads))
                self.plan.append((layers.index(layer) if layer in layers else len(layers), tuple(maker.reads)))
                if layer not in layers:
                    layers.append(layer)
                values += results if isinstance(results, tuple) else [results]
                read |= set(maker.reads)
        self.layers = nn.ModuleList(layers)
        self.ends = [i for i in range(len(values)) if i not in read][-3:]
        self.heads = nn.ModuleList(head(values[i]) for i in self.ends)

    def forward(self, x):
        values = [x]
        for layer, reads in self.plan:
            results = self.layers[layer](*(values[i] for i in reads))
            values += results if isinstance(results, tuple) else [results]
        return tuple(head(values[i]) for head, i in zip(self.heads, self.ends, strict=True))


def example(kind: str) -> Tensor:
    shape = {"image": (3, 4, 4), "tokens": (4, 5), "vector": (5,)}[kind]
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def head(x: Tensor) -> nn.Module:
    if x.dim() == 4 and x[0, 0].numel() > 4:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(x.shape[1], 2))
    if x.dim() == 4:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2))
    return nn.Linear(x.shape[-1], 2)


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


# --------------------------------------------------------------------------------------------------------- blocks


class Squeeze(nn.Module):
    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


@operation(4)
def squeeze(at):
    return Squeeze(at.channels, at.pick(2, 3))


class Modulate(nn.Module):
    """A vector scales and shifts the channels of another value."""

    def __init__(self, channels: int, condition: int):
        super().__init__()
        self.both = nn.Linear(condition, 2 * channels)

    def forward(self, x, condition):
        scale, shift = self.both(condition).chunk(2, -1)
        extend = (slice(None), slice(None), None, None) if x.dim() == 4 else (slice(None), None)
        return x * (1 + scale[extend]) + shift[extend]


@operation(3, 4)
def modulate(at):
    condition = at.beside(lambda y: y.dim() == 2)
    return nn.Identity() if condition is None else Modulate(at.channels, condition.shape[1])


class RandomAttention(nn.Module):
    """Heads in several forms of code."""

    def __init__(self, channels: int, context: int, heads: int, head_dim: int, form: str, causal: bool):
        super().__init__()
        self.heads, self.head_dim, self.form, self.causal = heads, head_dim, form, causal
        groups = heads // 2 if form == "grouped" else heads
        self.q, self.out = nn.Linear(channels, heads * head_dim), nn.Linear(heads * head_dim, channels)
        self.kv = nn.Linear(context, 2 * groups * head_dim)

    def forward(self, x, context=None):
        q = self.q(x)
        k, v = self.kv(x if context is None else context).chunk(2, -1)
        if self.form == "attributes":
            q, k, v = (y.view(y.shape[0], y.shape[1], self.heads, self.head_dim).transpose(1, 2) for y in (q, k, v))
        elif self.form == "divided":
            q, k, v = (y.unflatten(-1, (self.heads, y.shape[-1] // self.heads)).transpose(1, 2) for y in (q, k, v))
        else:
            q, k, v = (y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in (q, k, v))
        if self.form == "grouped":
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        if self.form == "by hand":
            y = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


@operation(3)
def attention(at):
    context = at.beside(lambda y: y.dim() == 3) if at.pick(False, True) else None
    heads, form = at.pick(2, 4, 3), at.pick("rest", "attributes", "by hand", "grouped", "divided")
    heads = 4 if form == "grouped" else heads
    within = at.channels if context is None else context.shape[-1]
    return RandomAttention(at.channels, within, heads, at.pick(2, 1, 3), form, context is None and at.pick(False, True))


class OwnAttention(nn.Module):
    """Torch's attention of a value with itself."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


@operation(3, suits=even)
def own_attention(at):
    if at.pick(True, False):
        return OwnAttention(at.channels, 2)
    return nn.TransformerEncoderLayer(at.channels, 2, 5, 0.0, batch_first=True, norm_first=at.pick(False, True))


class RandomRecurrence(nn.Module):
    def __init__(self, kind: str, channels: int, hidden: int, **options):
        super().__init__()
        self.layer = getattr(nn, kind)(channels, hidden, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x)[0]


@operation(3)
def recurrence(at):
    kind, hidden = at.pick("LSTM", "GRU", "RNN"), at.pick(4, 3, at.channels)
    return RandomRecurrence(kind, at.channels, min(hidden, MOST // 2), bidirectional=at.pick(False, True))


class MixTokens(nn.Module):
    """A layer over the rows instead of the channels."""

    def __init__(self, rows: int, hidden: int):
        super().__init__()
        self.first, self.second = nn.Linear(rows, hidden), nn.Linear(hidden, rows)

    def forward(self, x):
        return x + self.second(F.gelu(self.first(x.transpose(1, 2)))).transpose(1, 2)


@operation(3)
def mix_tokens(at):
    return MixTokens(at.x.shape[1], at.pick(3, 4))


@operation(3)
def product(at):
    """Rows against rows: of another value, or of itself."""
    if at.beside(lambda y: y.dim() == 3 and y.shape[-1] == at.channels) is not None:
        return Apply(lambda x, y: (x @ y.mT).softmax(-1) @ y)
    return Apply(lambda x: (x.mT @ x).tanh())


CREATORS = ("layer", "conv", "functional", "attention", "recurrence", "add")
"""What makes channels: it is drawn more often than the rest."""


def random_steps(generator: random.Random) -> tuple[str, list[Step]]:
    """A description without hypothesis, for a benchmark."""
    names = [*CREATORS, *sorted(OPERATIONS)]
    chosen = ["layer", *generator.choices(names, k=generator.randint(4, 10))]
    steps = [(name, generator.randint(0, 3), generator.randint(0, 3), generator.randint(0, 199)) for name in chosen]
    return generator.choice(["image", "tokens", "vector"]), steps
