"""Attention in other forms: einsums, a module for each head, other sequences, learned queries, places of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.attention.blocks import AROUND, Separate, around
from tests.cases.case import case, conv, image, pooled_head, real


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
