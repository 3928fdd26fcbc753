"""Heads whose queries, keys and values have a projection each: split, scaled, masked, normalised and mixed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.attention.blocks import AROUND, Separate, around
from tests.cases.case import case, real


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
