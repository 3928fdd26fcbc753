"""Operations of several layers: squeeze and excitation, modulation, attention, recurrences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import Apply
from tests.structure.random_graphs.operation import MOST, even, operation


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
