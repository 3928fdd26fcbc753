"""Pictures as tokens: vision transformers, Swin, and mixers of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head


@case("mixer", image(3, 4), least=6 + 5 + 7)
class Mixer(nn.Module):
    """Linear layers over places and over channels in turn."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1, self.norm2, self.head = conv(3, 6, 1), nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.places, self.channels = (
            nn.Sequential(nn.Linear(16, 5), nn.GELU(), nn.Linear(5, 16)),
            nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)),
        )

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class VisionAttention(nn.Module):
    """Fused projections with a literal three; the number of heads is an integer of the module (timm)."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.qkv, self.proj = nn.Linear(width, 3 * heads * head_dim), nn.Linear(heads * head_dim, width)

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


class VisionBlock(nn.Module):
    def __init__(self, width: int, hidden: int, attention: nn.Module):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@case("vit", image(3, 8), least=8 + 2 * (3 + 10), most=8 + 2 * (3 + 10))
class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, two blocks."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.Sequential(*(VisionBlock(8, 10, VisionAttention(8, 3, 2)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@case("vit_mean", image(3, 8), least=8 + 3 + 10, most=8 + 3 + 10)
class VisionTransformerMean(nn.Module):
    """The mean of the tokens instead of a class token; layer scale in the branches."""

    def __init__(self):
        super().__init__()
        self.patches, self.position = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 4, 8))
        self.attention, self.gamma = VisionAttention(8, 3, 2), nn.Parameter(torch.randn(8))
        self.mlp = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.norm, self.head = nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.gamma * self.attention(x)
        x = x + self.mlp(self.norm(x))
        return self.head(x.mean(dim=1))


def windows(x, size: int):
    """Reshape (batch, height, width, channels) to (windows, size², channels)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)


def unwindows(x, size: int, height: int, width: int):
    batch = x.shape[0] // (height * width // size**2)
    x = x.view(batch, height // size, width // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, -1)


class WindowAttention(nn.Module):
    """Attention within windows of 2×2 with a table of relative biases; `divided`: the heads' width is computed."""

    def __init__(self, width: int, heads: int, head_dim: int, divided: bool):
        super().__init__()
        self.heads, self.head_dim, self.divided = heads, head_dim, divided
        self.qkv, self.proj = nn.Linear(width, 3 * heads * head_dim), nn.Linear(heads * head_dim, width)
        self.table = nn.Parameter(torch.randn(9, heads))
        places = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        offsets = places[:, :, None] - places[:, None, :] + 1
        self.register_buffer("index", 3 * offsets[0] + offsets[1])

    def forward(self, x, mask=None):
        count, tokens, width = x.shape
        sizes = (self.heads, width // self.heads) if self.divided else (-1, self.head_dim)
        q, k, v = self.qkv(x).reshape(count, tokens, 3, *sizes).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        scores = scores + self.table[self.index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            scores = scores.view(count // len(mask), len(mask), -1, tokens, tokens) + mask[:, None]
            scores = scores.view(count, -1, tokens, tokens)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, -1))


class SwinBlock(nn.Module):
    def __init__(self, width: int, hidden: int, shift: int, attention: WindowAttention):
        super().__init__()
        self.shift, self.attention = shift, attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.register_buffer("mask", torch.where(torch.rand(4, 4, 4) > 0.7, -100.0, 0.0) if shift else None)

    def forward(self, x):
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2))
        y = unwindows(self.attention(windows(y, 2), self.mask), 2, x.shape[1], x.shape[2])
        if self.shift:
            y = torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """Two blocks, one of them shifted, patches merged by fours, one block."""

    def __init__(self, divided: bool):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 6, 2, 2), nn.LayerNorm(6)
        self.first = nn.Sequential(
            SwinBlock(6, 7, 0, WindowAttention(6, 3, 2, divided)), SwinBlock(6, 7, 1, WindowAttention(6, 3, 2, divided))
        )
        self.merge, self.reduce = nn.LayerNorm(24), nn.Linear(24, 8, bias=False)
        self.second, self.last, self.head = (
            SwinBlock(8, 9, 0, WindowAttention(8, 4, 2, divided)),
            nn.LayerNorm(8),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = self.first(self.norm(self.patches(x).permute(0, 2, 3, 1)))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        x = self.second(self.reduce(self.merge(x)))
        return self.head(self.last(x).flatten(1, 2).transpose(1, 2).mean(2))


case("swin", image(3, 8), least=6 + 7 + 7 + 8 + 9 + 3 + 3 + 4)(lambda: Swin(False))
case("swin_divided", image(3, 8), least=7 + 7 + 9)(lambda: Swin(True))


@case("mixer_twice", image(3, 8), least=2 * (5 + 7), most=6 + 2 * (5 + 7))
class MixerTwice(nn.Module):
    """Two mixer blocks with a convolution over the tokens."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(4))
        self.tokens = nn.ModuleList(
            nn.Sequential(nn.Conv1d(16, 5, 1), nn.GELU(), nn.Conv1d(5, 16, 1)) for _ in range(2)
        )
        self.channels = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)) for _ in range(2))

    def forward(self, x):
        x = self.stem(x).flatten(2).mT
        for block in range(2):
            x = x + self.tokens[block](self.norms[2 * block](x))
            x = x + self.channels[block](self.norms[2 * block + 1](x))
        return self.head(x.mean(1))


@case("conv_mixer", image(3, 8), least=6 + 6, most=6 + 6)
class ConvMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.GELU(), nn.BatchNorm2d(6)), pooled_head(6)
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, padding="same"), nn.GELU(), nn.BatchNorm2d(6))
        self.point = nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU(), nn.BatchNorm2d(6))

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.point(x + self.depthwise(x)))


@case("patches_by_unfold", image(3, 8), least=6)
class PatchesByUnfold(nn.Module):
    """Patches of features become rows (MobileViT, a convolution written by hand)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 4), nn.Linear(16, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.unfold(F.relu(self.first(x)), 2, stride=2).transpose(1, 2)
        return self.head(F.relu(self.third(F.relu(self.second(x)))).mean(1))
