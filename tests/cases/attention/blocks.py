"""The layers around an attention, and the two kinds of projections that most of the family share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, real


class Around(nn.Module):
    """A stream of 8 channels, an attention that adds to it, and an inner layer of 7."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.stem, self.norm, self.attention = nn.Linear(6, 8), nn.LayerNorm(8), attention
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x, *others):
        x = self.stem(x)
        x = x + self.attention(self.norm(x), *others)
        return self.head(F.relu(self.inner(x)))


AROUND = 8 + 7  # the stream and the inner layer; the heads come on top


def around(name: str, *inputs, **promises):
    """Register an attention over 8 channels between the layers of `Around`."""

    def register(attention):
        case(name, real(3, 5, 6), *inputs, **promises)(lambda: Around(attention()))
        return attention

    return register


class Heads(nn.Module):
    """Three heads of two channels over a stream of eight."""

    def __init__(self, heads: int = 3, head_dim: int = 2, width: int = 8, bias: bool = True):
        super().__init__()
        self.heads, self.head_dim, self.inner = heads, head_dim, heads * head_dim
        self.qkv, self.out = nn.Linear(width, 3 * self.inner, bias=bias), nn.Linear(self.inner, width)


class Separate(nn.Module):
    """Queries, keys and values have a projection each."""

    def __init__(self, heads: int = 3, head_dim: int = 2, width: int = 8, context: int = 8, groups: int | None = None):
        super().__init__()
        self.heads, self.head_dim, self.groups = heads, head_dim, groups or heads
        self.q, self.out = nn.Linear(width, heads * head_dim), nn.Linear(heads * head_dim, width, bias=False)
        self.k, self.v = nn.Linear(context, self.groups * head_dim), nn.Linear(context, self.groups * head_dim)

    def split(self, x):
        """To (batch, heads, tokens, channels of a head)."""
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x):
        x = self.attend(self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x)))
        return self.out(x.transpose(1, 2).flatten(2))
