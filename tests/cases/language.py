"""Embeddings, tied heads and language models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, integers


@case("embedding", integers(9, 4, 5), least=6 + 7)
class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(9, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(F.relu(self.inner(self.embedding(x))).mean(1))


@case("embedding_tied", integers(9, 4, 5), least=6 + 7)
class TiedEmbedding(nn.Module):
    """The decoder's rows are the embedding's: their width may shrink, but not their number."""

    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.outer, self.decoder = (
            nn.Embedding(9, 6),
            nn.Linear(6, 7),
            nn.Linear(7, 6),
            nn.Linear(6, 9),
        )
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        x = self.embedding(x)
        return self.decoder(x + self.outer(F.relu(self.inner(x))))


@case("embedding_padded", integers(9, 4, 5), least=6 + 7)
class EmbeddingPadded(nn.Module):
    """An embedding with a row of zeros for padding, scaled by the square root of a number, plus positions."""

    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(9, 6, padding_idx=0), nn.Embedding(5, 6)
        self.inner, self.head = nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        positions = self.position(torch.arange(x.shape[1]))
        return self.head(F.relu(self.inner(2.5 * self.embedding(x) + positions)).amax(1))


@case("embedding_bag", integers(9, 4, 5), least=6 + 7)
class EmbeddingBag(nn.Module):
    """Means of rows (fastText)."""

    def __init__(self):
        super().__init__()
        self.bag, self.inner, self.head = nn.EmbeddingBag(9, 6, mode="mean"), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(F.relu(self.inner(self.bag(x))))


@case("embedding_factorised", integers(9, 4, 5), least=4 + 6, most=4 + 6)
class EmbeddingFactorised(nn.Module):
    """A narrow table and a layer that widens it; the decoder uses both in reverse (ALBERT)."""

    def __init__(self):
        super().__init__()
        self.embedding, self.wide, self.narrow = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm, self.decoder = nn.LayerNorm(4), nn.Linear(4, 9)
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        x = torch.tanh(self.wide(self.embedding(x)))
        return self.decoder(self.norm(F.gelu(self.narrow(x))))


@case("embedding_tied_by_function", integers(9, 4, 5), least=6 + 7, most=6 + 7)
class TiedByFunction(nn.Module):
    """The decoder has no module of its own; a layer norm precedes it."""

    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.outer = nn.Embedding(9, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.norm, self.bias = nn.LayerNorm(6), nn.Parameter(torch.randn(9))

    def forward(self, x):
        x = self.embedding(x)
        x = self.norm(x + self.outer(F.relu(self.inner(x))))
        return F.linear(x, self.embedding.weight, self.bias)


@case("text_convolution", integers(9, 4, 7), least=5 + 3 + 4 + 2, most=5 + 3 + 4 + 2)
class TextConvolution(nn.Module):
    """Kernels of three sizes over the words, each pooled by its maximum (Kim, 2014)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.kernels = nn.ModuleList(nn.Conv1d(5, width, size) for width, size in ((3, 2), (4, 3), (2, 4)))
        self.head = nn.Linear(9, 3)

    def forward(self, x):
        x = self.embedding(x).transpose(1, 2)
        return self.head(torch.cat([F.relu(kernel(x)).amax(2) for kernel in self.kernels], 1))


class TransposedLinear(nn.Module):
    """GPT-2's layer: the weight is (in, out)."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.nf = outside
        self.weight, self.bias = nn.Parameter(torch.randn(inside, outside)), nn.Parameter(torch.randn(outside))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], -1)


@case("language_model_attention", integers(9, 3, 5), least=8 + 2 * (3 + 10))
class LanguageModel(nn.Module):
    """Two blocks of causal attention, tied embeddings, layers with transposed weights."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions, self.norm = nn.Embedding(9, 8), nn.Embedding(6, 8), nn.LayerNorm(8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.qkv = nn.ModuleList(TransposedLinear(8, 18) for _ in range(2))
        self.out = nn.ModuleList(TransposedLinear(6, 8) for _ in range(2))
        self.up = nn.ModuleList(TransposedLinear(8, 10) for _ in range(2))
        self.down = nn.ModuleList(TransposedLinear(10, 8) for _ in range(2))

    def forward(self, x):
        x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in range(2):
            q, k, v = self.qkv[block](self.norms[2 * block](x)).unflatten(-1, (3, -1, 2)).unbind(2)
            y = F.scaled_dot_product_attention(*(one.transpose(1, 2) for one in (q, k, v)), is_causal=True)
            x = x + self.out[block](y.transpose(1, 2).flatten(2))
            x = x + self.down[block](F.gelu(self.up[block](self.norms[2 * block + 1](x)), approximate="tanh"))
        return F.linear(self.norm(x), self.tokens.weight)


@case("language_model_divided", integers(9, 3, 5), least=12 + 4, most=12 + 4)
class LanguageModelDivided(nn.Module):
    """nanoGPT's attention: `C // n_head` in the code ties the stream's width to the heads', so they leave together."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm1, self.norm2 = nn.Embedding(9, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.n_head, self.n_embd = 4, 8
        self.c_attn, self.c_proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.c_fc, self.mlp_proj, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 9)

    def forward(self, x):
        x = self.tokens(x)
        B, T, C = x.size()
        q, k, v = self.c_attn(self.norm1(x)).split(self.n_embd, dim=2)
        q, k, v = (one.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for one in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return self.head(x + self.mlp_proj(F.gelu(self.c_fc(self.norm2(x)))))


@case("layers_shared_over_depth", integers(9, 3, 5), least=8 + 3 + 10)
class SharedOverDepth(nn.Module):
    """One block is used at every depth (ALBERT, universal transformers)."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm1, self.norm2 = nn.Embedding(9, 8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.out = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)
        self.up, self.down, self.head = nn.Linear(8, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.tokens(x)
        for _ in range(2):
            q, k, v = (one(x).unflatten(-1, (-1, 2)).transpose(1, 2) for one in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = self.norm1(x + self.out(y))
            x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return self.head(x[:, 0])


@case("token_types", integers(9, 3, 5), integers(2, 3, 5), least=8 + 6)
class TokenTypes(nn.Module):
    """Words, places and sentences are added and normalised; a pooled output and one for each word (BERT)."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.types, self.norm = (
            nn.Embedding(9, 8),
            nn.Embedding(5, 8),
            nn.Embedding(2, 8),
            nn.LayerNorm(8, eps=1e-6),
        )
        self.pooler, self.head, self.words_head = nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(8, 9)
        self.register_buffer("position_ids", torch.arange(5).expand(1, -1))

    def forward(self, x, types):
        x = self.norm(self.words(x) + self.places(self.position_ids[:, : x.shape[1]]) + self.types(types))
        return self.head(torch.tanh(self.pooler(x[:, 0]))), self.words_head(x)
