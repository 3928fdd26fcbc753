"""Torch's own layers: multi-head attention, the transformer's encoder, its decoder and both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, real


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
