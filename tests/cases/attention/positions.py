"""Positions inside an attention: rotations of queries and keys, and biases for each head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.attention.blocks import AROUND, Separate, around


def rotate_half(x):
    left, right = x.chunk(2, -1)
    return torch.cat([-right, left], -1)


@around("rotary", least=AROUND + 3)
class Rotary(Separate):
    """Rotary positions turn halves of a head: they stay within heads, so whole heads may leave."""

    def __init__(self, turn=None):
        super().__init__(3, 4)
        angles = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1])
        angles = torch.cat([angles, angles], -1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x):
        return x * self.cos + rotate_half(x) * self.sin

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)


@around("rotary_interleaved", least=AROUND + 3)
class RotaryInterleaved(Rotary):
    """Neighbouring channels turn together."""

    def rotate(self, x):
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * self.cos + turned * self.sin


@around("rotary_complex", least=AROUND)
class RotaryComplex(Rotary):
    """Pairs of channels are complex numbers (the first Llama)."""

    def rotate(self, x):
        turns = torch.polar(torch.ones(5, 2, dtype=x.dtype), torch.arange(5.0, dtype=x.dtype)[:, None].expand(5, 2))
        x = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(x * turns).flatten(-2)


@around("head_biases", least=AROUND + 3, most=AROUND + 3)
class HeadBiases(Separate):
    """A learned bias for each head and pair of tokens, and each head's slope times their distance."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3, 5, 5))
        self.register_buffer("slopes", torch.rand(3))

    def attend(self, q, k, v):
        places = torch.arange(q.shape[2], dtype=q.dtype)
        distance = (places[:, None] - places).abs()
        bias = self.bias - self.slopes.view(-1, 1, 1) * distance
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))


@around("head_bias_table", least=AROUND + 3)
class HeadBiasTable(Separate):
    """Biases are looked up by relative position in a table with a column for each head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 3))
        places = torch.arange(5)
        self.register_buffer("index", places[:, None] - places + 4)

    def attend(self, q, k, v):
        bias = self.table[self.index.view(-1)].view(5, 5, -1).permute(2, 0, 1)
        return (q @ k.transpose(-2, -1) * 0.7 + bias).softmax(-1) @ v


@around("head_bias_embedding", least=AROUND + 3)
class HeadBiasEmbedding(Separate):
    """The same, with an embedding of distances (T5)."""

    def __init__(self):
        super().__init__()
        self.relative = nn.Embedding(9, 3)

    def attend(self, q, k, v):
        places = torch.arange(q.shape[2])
        bias = self.relative(places[:, None] - places + 4).permute(2, 0, 1)[None]
        return (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
