"""Streams behind norms that are written out, and heads whose width is computed from the stream's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import Apply, case, conv, image, pooled_head, real


class WrittenOut(nn.Module):
    """A norm over dimension `dim`; the relatives write it in different ways."""

    centred, dim = False, -1

    def __init__(self, width: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = 1e-6


class Rsqrt(WrittenOut):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Casts(WrittenOut):
    """The order and the casts of Llama; here to the precision that it has anyway."""

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Root(WrittenOut):
    def forward(self, x):
        return x / torch.sqrt(torch.mean(x * x, dim=-1, keepdim=True) + self.eps) * self.weight


class ScaleFirst(WrittenOut):
    """The statistic meets the weight before it meets the channels."""

    def forward(self, x):
        return x * (torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight)


class Centred(WrittenOut):
    centred = True

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


class Moments(WrittenOut):
    """The variance as E[x²] − E[x]²."""

    centred = True

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        variance = x.pow(2).mean(-1, keepdim=True) - mean.pow(2)
        return (x - mean) * (variance + self.eps).pow(-0.5) * self.weight + self.bias


class Planes(WrittenOut):
    """Over the channels of images, as in ConvNeXt and in SAM."""

    centred, dim = True, 1

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Unit(nn.Module):
    """A unit vector times √width and a weight; closed channels add nothing to its length."""

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.gain = math.sqrt(width), nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.normalize(x, dim=-1) * self.scale * self.gain


class Residual(nn.Module):
    """A stream with two branches, each of which reads it through a norm, and a norm before the head."""

    def __init__(self, norm, width: int = 8):
        super().__init__()
        self.stem, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.norms = nn.ModuleList(norm(width) for _ in range(3))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, width)) for _ in range(2)
        )

    def forward(self, x):
        x = self.stem(x)
        for norm, branch in zip(self.norms, self.branches, strict=False):
            x = x + branch(norm(x))
        return self.head(self.norms[-1](x))


TOKENS = real(3, 5, 3)


@case("rms_by_rsqrt", TOKENS, least=8 + 6 + 6)
def rms_by_rsqrt():
    return Residual(Rsqrt)


@case("rms_with_casts", TOKENS, least=8 + 6 + 6)
def rms_with_casts():
    return Residual(Casts)


@case("rms_by_root", TOKENS, least=8 + 6 + 6)
def rms_by_root():
    return Residual(Root)


@case("rms_scale_first", TOKENS, least=8 + 6 + 6)
def rms_scale_first():
    return Residual(ScaleFirst)


@case("layer_norm_by_hand", TOKENS, least=8 + 6 + 6)
def layer_norm_by_hand():
    return Residual(lambda width: Centred(width, bias=True))


@case("layer_norm_by_moments", TOKENS, least=8 + 6 + 6)
def layer_norm_by_moments():
    return Residual(lambda width: Moments(width, bias=True))


@case("stream_of_unit_vectors", TOKENS, least=8 + 6 + 6)
def unit_vectors():
    return Residual(Unit)


@case("layer_norm_of_planes", image(), least=8 + 6)
def layer_norm_of_planes():
    return nn.Sequential(conv(3, 8), Planes(8, bias=True), nn.ReLU(), conv(8, 6), Planes(6, bias=True), pooled_head(6))


# What looks like a norm and is none: the channels over which it is taken stay


def around(function, width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), Apply(function), nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 2))


@case("mean_as_factor", TOKENS, least=4, most=4, named=("divided by the number",))
def mean_as_factor():
    return around(lambda x: x * x.mean(-1, keepdim=True))


@case("mean_through_sigmoid", TOKENS, least=4, most=4)
def mean_through_sigmoid():
    return around(lambda x: x * x.mean(-1, keepdim=True).sigmoid())


@case("softmax_by_hand", TOKENS, least=4, most=4)
def softmax_by_hand():
    return around(lambda x: x.exp() / x.exp().sum(-1, keepdim=True))


@case("mean_beside_its_norm", TOKENS, least=4, most=4)
def mean_beside_its_norm():
    """The mean is subtracted, as in a norm, and then stands as a channel of its own."""

    def both(x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        return torch.cat([x - mean, mean], -1)

    return nn.Sequential(nn.Linear(3, 5), Apply(both), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


@case("squashed", TOKENS, least=4, most=4)
def squashed():
    """A number that is not small is added to the variance, so the scale of the channels counts."""
    return around(lambda x: x / (1 + x.var(-1, keepdim=True)))


class Functional(WrittenOut):
    """The function, which is told the width by an integer of the module."""

    centred = True

    def __init__(self, width: int):
        super().__init__(width)
        self.width = width

    def forward(self, x):
        return F.layer_norm(x, (self.width,), self.weight, None, self.eps)


class Depthwise(nn.Module):
    """A convolution of bare filters, which is told their number by an integer of the module."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.filters = width, nn.Parameter(torch.randn(width, 1, 3))

    def forward(self, x):
        return F.conv1d(x.transpose(1, 2), self.filters, padding=1, groups=self.width).transpose(1, 2)


@case("widths_by_integer", TOKENS, least=8 + 6)
def widths_by_integer():
    return nn.Sequential(
        nn.Linear(3, 8), Functional(8), Depthwise(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
    )


class Shared(nn.Module):
    """Attention that takes the width of a head from its input's; the relatives split and merge in different ways."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x):
        b, n, c = x.shape
        return self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)

    def merge(self, x, shape):
        return x.transpose(1, 2).reshape(shape)

    def forward(self, x):
        q, k, v = self.split(x)
        return self.proj(self.merge(F.scaled_dot_product_attention(q, k, v), x.shape))


class OnlyMerges(Shared):
    """As in BEiT: the width of a head is what is left, and only the result takes the width of the stream."""

    def split(self, x):
        return self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


class OnlySplits(Shared):
    def merge(self, x, shape):
        return x.transpose(1, 2).flatten(2)


class Interleaved(Shared):
    """Queries, keys and values of a head side by side, as in GPT-NeoX."""

    def split(self, x):
        b, n, c = x.shape
        return self.qkv(x).reshape(b, n, self.num_heads, 3, c // self.num_heads).permute(3, 0, 2, 1, 4)


class LiteralHeads(Shared):
    """The number of heads is a number in the code, so no head can leave, and with it no channel of the stream."""

    def split(self, x):
        b, n, c = x.shape
        return self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)


class OwnWidth(Shared):
    """The width of a head is an integer of the module: heads and the stream leave independently."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.head_dim = width // heads

    def split(self, x):
        return self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)

    def merge(self, x, shape):
        return x.transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int, hidden: int = 6):
        super().__init__()
        self.attention = attention
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


def transformer(*attentions, width: int = 8, heads: int = 4) -> nn.Sequential:
    blocks = [Block(attention(width, heads), width) for attention in attentions]
    return nn.Sequential(nn.Linear(3, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 2))


# a head of each block leaves with two channels of the stream
@case("heads_from_the_stream", TOKENS, least=4 + 6 + 6, most=4 + 6 + 6)
def heads_from_the_stream():
    return transformer(Shared, Shared)


@case("heads_merged_to_the_stream", TOKENS, least=4 + 6, most=4 + 6)
def heads_merged_to_the_stream():
    return transformer(OnlyMerges)


@case("heads_split_by_the_stream", TOKENS, least=4 + 6, most=4 + 6)
def heads_split_by_the_stream():
    return transformer(OnlySplits)


@case("heads_interleaved", TOKENS, least=4 + 6, most=4 + 6)
def heads_interleaved():
    return transformer(Interleaved)


@case("heads_by_a_literal", TOKENS, least=6, most=6, named=("literal",))
def heads_by_a_literal():
    return transformer(LiteralHeads)


@case("heads_of_two_kinds", TOKENS, least=4 + 4 + 6 + 6)
def heads_of_two_kinds():
    """Only the heads of the first block are bound to the stream."""
    return transformer(Shared, OwnWidth)


class Places(nn.Module):
    """Attention over the places of an image, with channels first, as in diffusion models."""

    def __init__(self, width: int = 8, heads: int = 4):
        super().__init__()
        self.heads, self.stem, self.norm = heads, conv(3, width), nn.GroupNorm(width, width)
        self.qkv, self.proj, self.head = conv(width, 3 * width, 1), conv(width, width, 1), pooled_head(width)

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        q, k, v = (
            one.reshape(b, self.heads, c // self.heads, h * w).transpose(2, 3)
            for one in self.qkv(self.norm(x)).chunk(3, 1)
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return self.head(F.relu(x + self.proj(out)))


@case("heads_of_places", image(size=4), least=4)
def heads_of_places():
    return Places()


class Crossed(nn.Module):
    """Two streams of one width: queries come from one, keys and values from the other."""

    def __init__(self, width: int = 8, heads: int = 4):
        super().__init__()
        self.heads, self.first, self.second = heads, nn.Linear(3, width), nn.Linear(3, width)
        self.cross, self.head = Crossing(width, heads), nn.Linear(width, 2)

    def forward(self, x, y):
        x = self.first(x)
        return self.head(x + self.cross(x, self.second(y)))


class Crossing(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x, y):
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.num_heads, c // self.num_heads).transpose(1, 2)
        k, v = self.kv(y).reshape(b, -1, 2, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


@case("heads_across_streams", TOKENS, real(3, 4, 3), least=4)
def heads_across_streams():
    return Crossed()
