"""Heads whose queries, keys and values come from one projection, reshaped in every way that libraries write."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.attention.blocks import AROUND, Heads, around
from tests.cases.case import case, real


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
