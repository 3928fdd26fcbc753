"""Attention: fused, separate, grouped, rotary, written by hand or torch's own. Whole heads may leave."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


@case("single_head_attention", real(3, 5, 6), least=4 + 5 + 4)
class SingleHeadAttention(nn.Module):
    """Scores between tokens, scaled by a number: queries and keys share their channels."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        weights = (self.query(x) @ self.key(x).transpose(1, 2) * 0.5).softmax(-1)
        return self.head(F.relu(self.inner(weights @ self.value(x))))


@case("scaled_attention", real(3, 5, 6), least=8 + 7)
class ScaledAttention(nn.Module):
    """The fused attention divides by the square root of the head's size: queries and keys cannot be made narrower."""

    def __init__(self):
        super().__init__()
        self.inputs, self.output, self.inner, self.head = (
            nn.Linear(6, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        query, key, value = (part.view(3, 5, 2, 4).transpose(1, 2) for part in self.inputs(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(3, 5, 8)
        return self.head(F.relu(self.inner(self.output(x))))


@case("multihead_attention", real(3, 5, 6), least=8 + 7 + 2)
class MultiheadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.inner, self.head = (
            nn.Linear(6, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(self.inner(x + self.attention(x, x, x, need_weights=False)[0])))


@case("transformer_layer", real(3, 5, 6), least=8 + 10 + 2)
def transformer_layer():
    return nn.Sequential(
        nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 10, dropout=0.0, batch_first=True), nn.Linear(8, 3)
    )


# ------------------------------------------------------------------------------------- heads that are asked to leave


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


@around("heads_fused_unbind", least=AROUND + 3, most=AROUND + 3)
class FusedUnbind(Heads):
    """One projection for all, as vision transformers have it."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1))


@around("heads_fused_unbind_attributes", least=AROUND + 3, most=AROUND + 3)
class FusedUnbindAttributes(Heads):
    """The number of heads and their width are integers of the module."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))


@around("heads_fused_inner", least=AROUND + 3)
class FusedInner(Heads):
    """The product of the number of heads and their width is an integer of the module."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).split(self.inner, dim=-1)
        q, k, v = (one.view(batch, tokens, self.heads, self.head_dim).transpose(1, 2) for one in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x.transpose(1, 2).contiguous().view(batch, tokens, self.inner))


@around("heads_fused_chunk", least=AROUND + 3, most=AROUND + 3)
class FusedChunk(Heads):
    """Three equal parts; the view infers the number of heads."""

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@around("heads_fused_interleaved", least=AROUND + 3, most=AROUND + 3)
class FusedInterleaved(Heads):
    """Each head's queries, keys and values lie side by side (GPT-NeoX)."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, -1, 3 * self.head_dim).transpose(1, 2).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1))


@around("heads_fused_channels_first", least=AROUND + 3)
class FusedChannelsFirst(Heads):
    """The products are written out, with the tokens in the last dimension."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).transpose(1, 2).reshape(batch, 3, -1, self.head_dim, tokens).unbind(1)
        weights = (q.transpose(-2, -1) @ k * self.head_dim**-0.5).softmax(-1)
        return self.out((v @ weights.transpose(-2, -1)).reshape(batch, -1, tokens).transpose(1, 2))


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


around("heads_separate", least=AROUND + 3, most=AROUND + 3)(Separate)
around("heads_as_wide_as_many", least=AROUND + 2, most=AROUND + 2)(lambda: Separate(2, 2))
around("heads_as_many_as_tokens", least=AROUND + 5, most=AROUND + 5)(lambda: Separate(5, 5))
around("heads_of_one_channel", least=AROUND + 4)(lambda: Separate(4, 1))
around("head_alone", least=AROUND)(lambda: Separate(1, 4))


@around("heads_separate_attributes", least=AROUND + 3, most=AROUND + 3)
class SeparateAttributes(Separate):
    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_dim).permute(0, 2, 1, 3)


@around("heads_by_division", least=AROUND + 3)
class SeparateDivided(Separate):
    """The heads' width follows from the number of heads: with one head fewer, all would be wider."""

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)


@around("heads_by_hand", least=AROUND + 3, most=AROUND + 3)
class ByHand(Separate):
    """Softmax of scaled products, a causal mask as a buffer."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)
        self.register_buffer("causal", torch.ones(7, 7, dtype=torch.bool).tril())

    def attend(self, q, k, v):
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~self.causal[: q.shape[2], : q.shape[2]], -torch.inf)
        return self.drop(scores.softmax(-1)) @ v


@around("heads_by_hand_folded", least=AROUND + 3)
class Folded(Separate):
    """Heads are folded into the batch, as in fairseq's and torch's own attention."""

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = (
            one.view(batch, tokens, -1, self.head_dim).transpose(1, 2).reshape(-1, tokens, self.head_dim)
            for one in (self.q(x), self.k(x), self.v(x))
        )
        x = torch.bmm(torch.bmm(q * 0.7, k.transpose(1, 2)).softmax(-1), v)
        return self.out(x.view(batch, -1, tokens, self.head_dim).transpose(1, 2).reshape(batch, tokens, -1))


@around("heads_scale_pinned", least=AROUND + 3)
class ScalePinned(Separate):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=0.4)


@around("heads_scale_learned", least=AROUND + 3, most=AROUND + 3)
class ScaleLearned(Separate):
    """The cosine of queries and keys, with a temperature for each head (Swin V2)."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.randn(3, 1, 1))

    def attend(self, q, k, v):
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return (scores * self.temperature.clamp(max=4.0).exp()).softmax(-1) @ v


@around("heads_normalised", least=AROUND + 3, most=AROUND + 3)
class Normalised(Separate):
    """A layer norm of the queries and an RMS norm of the keys, within each head."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = nn.LayerNorm(2), nn.RMSNorm(2, eps=1e-3)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


@around("heads_linear", least=AROUND + 3)
class LinearAttention(Separate):
    """Keys and values are multiplied first; there is no softmax."""

    def attend(self, q, k, v):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        return (q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(-2).unsqueeze(-1))


@around("heads_talking", least=AROUND, whole=("attention.q.bias",))
class TalkingHeads(Separate):
    """A softmax over the heads mixes them."""

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(1) @ v


@around("heads_mixed_by_layer", least=AROUND + 3 + 3 + 3)
class MixedByLayer(Separate):
    """A linear layer mixes the heads before the softmax and another one after it (Shazeer et al., 2020)."""

    def __init__(self):
        super().__init__()
        self.before, self.behind = nn.Linear(3, 3), nn.Conv2d(3, 3, 1)

    def attend(self, q, k, v):
        scores = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.behind(scores.softmax(-1)) @ v


@around("heads_sized_in_one_view", least=AROUND)
class LiteralHeads(Separate):
    """The number of heads is a literal in the code."""

    def split(self, x):
        return x.reshape(x.shape[0], x.shape[1], 3, 2).transpose(1, 2)


# ------------------------------------------------------------------------------------------- grouped and shared keys


@around("grouped_query_interleave", least=AROUND + 2)
class GroupedInterleave(Separate):
    """Two heads of queries share a head of keys and values, which is repeated."""

    def __init__(self):
        super().__init__(4, 2, groups=2)

    def attend(self, q, k, v):
        k, v = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


@around("grouped_query_expand", least=AROUND + 2)
class GroupedExpand(GroupedInterleave):
    def attend(self, q, k, v):
        batch, groups, tokens, width = k.shape
        k, v = (
            one[:, :, None].expand(batch, groups, self.heads // self.groups, tokens, width).reshape(q.shape)
            for one in (k, v)
        )
        return F.scaled_dot_product_attention(q, k, v)


@around("grouped_query_fused", least=AROUND + 2)
class GroupedFused(GroupedInterleave):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@around("grouped_query_by_view", least=AROUND + 2)
class GroupedView(GroupedInterleave):
    """The queries are seen as (groups, heads of a group)."""

    def attend(self, q, k, v):
        batch, _, tokens, width = q.shape
        q = q.reshape(batch, -1, self.heads // self.groups, tokens, width)
        weights = (q @ k.unsqueeze(2).transpose(-2, -1) * 0.7).softmax(-1)
        return (weights @ v.unsqueeze(2)).reshape(batch, -1, tokens, width)


@around("multi_query", least=AROUND + 3)
class MultiQuery(Separate):
    """One head of keys and values for all heads of queries, by broadcasting."""

    def __init__(self):
        super().__init__(3, 2, groups=1)

    def attend(self, q, k, v):
        return (q @ k.transpose(-2, -1) * 0.7).softmax(-1) @ v


@around("multi_query_expand", least=AROUND)
class MultiQueryExpand(MultiQuery):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k.expand(-1, q.shape[1], -1, -1), v.expand_as(q))


# -------------------------------------------------------------------------------------------------------- positions


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


@around("rotary_complex", least=AROUND, named=("view_as_complex",))
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


# ------------------------------------------------------------------------------------------------------ other forms


@around("heads_einsum", least=AROUND + 3 + 2 + 2)
class EinsumHeads(nn.Module):
    """Weights with a dimension for the heads, and every product an einsum."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(8, 3, 2)) for _ in range(3))
        self.out = nn.Parameter(torch.randn(3, 2, 8))

    def forward(self, x):
        q, k, v = (torch.einsum("btc,chd->bhtd", x, weight) for weight in (self.q, self.k, self.v))
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(0.7).softmax(-1)
        return torch.einsum("bhqk,bhkd,hdc->bqc", weights, v, self.out)


@around("heads_einops", least=AROUND + 3, needs="einops")
class EinopsHeads(Heads):
    """The number of heads and their width are given by name."""

    def forward(self, x):
        from einops import rearrange

        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, d=self.head_dim)
        weights = torch.softmax(q @ k.mT * self.head_dim**-0.5, -1)
        return self.out(rearrange(weights @ v, "b h t d -> b t (h d)"))


@around("heads_einops_counted", least=AROUND + 3, needs="einops")
class EinopsCounted(Heads):
    """The number of heads is given and their width follows."""

    def forward(self, x):
        from einops import rearrange

        q, k, v = (rearrange(part, "b t (h d) -> b h t d", h=self.heads) for part in self.qkv(x).chunk(3, -1))
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b t (h d)"))


@around("heads_in_list", least=AROUND + 2 * 3)
class HeadsInList(nn.Module):
    """A module for each head: the width of each head's values may shrink on its own."""

    def __init__(self):
        super().__init__()
        self.each = nn.ModuleList(nn.ModuleList(nn.Linear(8, 3) for _ in range(3)) for _ in range(2))
        self.out = nn.Linear(6, 8)

    def forward(self, x):
        heads = [F.scaled_dot_product_attention(q(x), k(x), v(x)) for q, k, v in self.each]
        return self.out(torch.cat(heads, -1))


@around("cross_attention", real(3, 4, 5), least=AROUND + 3)
class CrossAttention(Separate):
    """Keys and values come from another sequence, which is an input."""

    def __init__(self):
        super().__init__(context=5)

    def forward(self, x, context):
        x = self.attend(self.split(self.q(x)), self.split(self.k(context)), self.split(self.v(context)))
        return self.out(x.transpose(1, 2).flatten(2))


@around("extra_key", least=AROUND + 3)
class ExtraKey(Separate):
    """A learned key and a value of zeros are added to those of the tokens."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Parameter(torch.randn(1, 3, 1, 2))

    def attend(self, q, k, v):
        k = torch.cat([self.extra.expand(len(k), -1, -1, -1), k], 2)
        v = torch.cat([torch.zeros_like(v[:, :, :1]), v], 2)
        return F.scaled_dot_product_attention(q, k, v)


@case("non_local", image(3, 4), least=6 + 4 + 5)
class NonLocal(nn.Module):
    """Attention between places, by 1×1 convolutions, without a scale: queries and keys may leave in pairs."""

    def __init__(self):
        super().__init__()
        self.stem, self.q, self.k, self.v = conv(3, 6), conv(6, 4, 1), conv(6, 4, 1), conv(6, 5, 1)
        self.out, self.norm, self.head = conv(5, 6, 1), nn.BatchNorm2d(6), pooled_head(6)

    def forward(self, x):
        x = F.relu(self.stem(x))
        q, k, v = (one(x).flatten(2) for one in (self.q, self.k, self.v))
        y = v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)
        y = y.view(x.shape[0], -1, *x.shape[2:])
        return self.head(x + self.norm(self.out(y)))


@case("products_of_open_channels", real(3, 5, 6), least=4 + 5 + 5, whole=("open.bias",))
class ProductsOfOpenChannels(nn.Module):
    """With features plus one in both factors of a product closed channels count; with zeros in one they do not."""

    def __init__(self):
        super().__init__()
        self.open, self.closed, self.plain = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4)
        self.v, self.inner, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        kernel = F.elu(self.open(x)) + 1
        x = (kernel @ kernel.mT + self.plain(x) @ torch.sigmoid(self.closed(x)).mT) @ self.v(x)
        return self.head(F.relu(self.inner(x)))


@case("latent_queries", real(3, 5, 6), least=8 + 8 + 3 + 7)
class LatentQueries(nn.Module):
    """Learned queries read the tokens (Perceiver, DETR): their width is the stream's."""

    def __init__(self):
        super().__init__()
        self.stem, self.latents = nn.Linear(6, 8), nn.Parameter(torch.randn(4, 8))
        self.attention, self.norm = Separate(), nn.LayerNorm(8)
        self.inner, self.classes, self.boxes = nn.Linear(8, 7), nn.Linear(7, 3), nn.Linear(7, 4)

    def forward(self, x):
        own, tokens = self.attention, self.stem(x)
        latents = self.latents.unsqueeze(0).expand(len(x), -1, -1)
        y = own.attend(own.split(own.q(latents)), own.split(own.k(tokens)), own.split(own.v(tokens)))
        x = F.relu(self.inner(self.norm(latents + own.out(y.transpose(1, 2).flatten(2)))))
        return self.classes(x), self.boxes(x).sigmoid()


# ------------------------------------------------------------------------------------------------- torch's own layers


@case("multihead_weights", real(3, 5, 6), least=8 + 8 + 7)
class MultiheadWeights(nn.Module):
    """The averaged weights are an output too; time is the first dimension."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 4, bias=False)
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.stem(x)
        x, weights = self.attention(x, x, x)
        return self.head(F.relu(self.inner(x))), weights


@case("multihead_cross", real(3, 5, 6), real(3, 4, 5), real(3, 4, 7), least=8 + 8 + 7 + 2)
class MultiheadCross(nn.Module):
    """Keys and values of other widths, an extra learned key and value, and a causal mask."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, 0.1, kdim=5, vdim=7, add_bias_kv=True, batch_first=True)
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x, key, value):
        mask = torch.zeros(5, 4, dtype=torch.bool).triu(1)
        x = self.attention(self.stem(x), key, value, need_weights=False, attn_mask=mask)[0]
        return self.head(F.relu(self.inner(x)))


@case("multihead_zero_key", real(3, 5, 6), least=8 + 7)
class MultiheadZeroKey(nn.Module):
    """A key of zeros beside the tokens' keys; each head's weights are an output."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, add_zero_attn=True, batch_first=True)
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.stem(x)
        y, weights = self.attention(x, x, x, average_attn_weights=False)
        return self.head(F.relu(self.inner(x + y))), weights.amax(2)


class Encoder(nn.Module):
    def __init__(self, layers: int = 2, **options):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        norm_first = options.get("norm_first", False)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 10, dropout=0.2, batch_first=True, **options),
            layers,
            norm=nn.LayerNorm(8) if norm_first else None,
            enable_nested_tensor=False,
        )

    def forward(self, x):
        return self.head(self.encoder(self.stem(x)))


case("transformer_encoder", real(3, 5, 6), least=8 + 10 + 2)(lambda: Encoder(1))
case("transformer_encoder_norm_first", real(3, 5, 6), least=8 + 20 + 4)(
    lambda: Encoder(norm_first=True, activation="gelu")
)


@case("transformer_encoder_masked", real(3, 5, 6), least=8 + 10 + 2, slow=True)
class EncoderMasked(Encoder):
    """A causal mask and padded tokens."""

    def __init__(self):
        super().__init__(1, bias=False)

    def forward(self, x):
        causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
        padded = torch.arange(5) > torch.tensor([4, 3, 4])[:, None]
        return self.head(self.encoder(self.stem(x), mask=causal, src_key_padding_mask=padded, is_causal=True))


@case("transformer_decoder", real(3, 4, 6), real(3, 5, 8), least=10 + 2 + 2)
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 10, dropout=0.0, batch_first=True), 1)

    def forward(self, x, memory):
        return self.head(self.decoder(self.stem(x), memory, tgt_is_causal=False))


@case("transformer", real(3, 4, 6), real(3, 5, 6), least=20 + 6, slow=True)
class Transformer(nn.Module):
    """Encoder and decoder of torch's own class."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.both = nn.Transformer(8, 2, 1, 1, 10, dropout=0.0, batch_first=True)
        self.both.encoder.enable_nested_tensor = False

    def forward(self, source, target):
        return self.head(self.both(self.stem(source), self.stem(target)))
