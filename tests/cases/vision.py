"""Vision networks with tokens or with several constructions at once: mixers, ViT, Swin, EfficientNet and others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head, real


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


# ------------------------------------------------------------------------------------------------------------- Swin


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


# ----------------------------------------------------------------------------------------------------- convolutional


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, squeeze and excite, project (EfficientNet, MobileNetV3)."""

    def __init__(self, inside: int, hidden: int, squeeze: int, outside: int, act: nn.Module, gate: nn.Module):
        super().__init__()
        self.residual, self.act, self.gate = inside == outside, act, gate
        self.expand, self.depthwise = conv_norm(inside, hidden, 1), conv_norm(hidden, hidden, 3, 1, hidden)
        self.reduce, self.excite = nn.Conv2d(hidden, squeeze, 1), nn.Conv2d(squeeze, hidden, 1)
        self.project = conv_norm(hidden, outside, 1)

    def forward(self, x):
        y = self.act(self.depthwise(self.act(self.expand(x))))
        y = self.project(y * self.gate(self.excite(self.act(self.reduce(y.mean((2, 3), keepdim=True))))))
        return x + y if self.residual else y


@case("efficientnet", image(3, 8), least=4 + (8 + 2) + 6 + (12 + 3) + 9, most=4 + 10 + 6 + 15 + 9)
def efficientnet():
    return nn.Sequential(
        conv_norm(3, 4, 3, 2),
        nn.SiLU(),
        InvertedBottleneck(4, 8, 2, 6, nn.SiLU(), nn.Sigmoid()),
        InvertedBottleneck(6, 12, 3, 6, nn.SiLU(), nn.Sigmoid()),
        conv_norm(6, 9, 1),
        nn.SiLU(),
        pooled_head(9),
    )


@case("mobilenet_v3", image(3, 8), least=4 + (8 + 2) + (9 + 3) + 6 + 7, most=4 + 10 + 12 + 6 + 7)
def mobilenet_v3():
    return nn.Sequential(
        conv_norm(3, 4, 3, 2),
        nn.Hardswish(),
        InvertedBottleneck(4, 8, 2, 4, nn.ReLU(), nn.Hardsigmoid()),
        InvertedBottleneck(4, 9, 3, 6, nn.Hardswish(), nn.Hardsigmoid()),
        nn.AdaptiveAvgPool2d(1),
        conv(6, 7, 1, bias=True),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(7, 3),
    )


class RegNetBlock(nn.Module):
    def __init__(self, inside: int, width: int, groups: int, stride: int):
        super().__init__()
        self.first, self.second = conv_norm(inside, width, 1), conv_norm(width, width, 3, stride, groups)
        self.reduce, self.excite = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)
        self.last = conv_norm(width, width, 1)
        self.shortcut = conv_norm(inside, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = F.relu(self.second(F.relu(self.first(x))))
        y = y * torch.sigmoid(self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        return F.relu(self.last(y) + self.shortcut(x))


# stem 4; stream 8, its groups' offsets 4 in and 4 out, squeeze 2; stream 12, groups' offsets 4 and 4, squeeze 2
@case("regnet", image(3, 8), least=4 + 8 + 4 + 4 + 2 + 12 + 4 + 4 + 2)
def regnet():
    return nn.Sequential(conv_norm(3, 4), nn.ReLU(), RegNetBlock(4, 8, 2, 2), RegNetBlock(8, 12, 3, 2), pooled_head(12))


class ShuffleUnit(nn.Module):
    """One half passes, the other is convolved, and both are shuffled together (ShuffleNetV2)."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv_norm(half, half, 1), nn.ReLU(), conv_norm(half, half, 3, 1, half), conv_norm(half, half, 1), nn.ReLU()
        )

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(x.shape)


@case("shufflenet_v2", image(3, 8), least=4 + 4 + 5)
def shufflenet_v2():
    return nn.Sequential(
        conv_norm(3, 8), nn.ReLU(), ShuffleUnit(8), ShuffleUnit(8), conv_norm(8, 5, 1), nn.ReLU(), pooled_head(5)
    )


class GhostModule(nn.Module):
    """Cheap functions compute half of the channels from the other half."""

    def __init__(self, inside: int, outside: int, act: bool = True):
        super().__init__()
        half = outside // 2
        self.act = nn.ReLU() if act else nn.Identity()
        self.primary, self.cheap = conv_norm(inside, half, 1), conv_norm(half, half, 3, 1, half)

    def forward(self, x):
        x = self.act(self.primary(x))
        return torch.cat([x, self.act(self.cheap(x))], 1)


@case("ghostnet", image(3, 8), least=4 + 3)
class GhostNet(nn.Module):
    """The stream takes a primary and a cheap half together, so its channels leave in pairs."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (
            conv_norm(3, 8),
            GhostModule(8, 6),
            GhostModule(6, 8, act=False),
            pooled_head(8),
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(x + self.outer(self.inner(x)))


@case("convnext_v2", image(3, 8), least=6, whole=("inner.bias",))
class ConvNeXtV2(nn.Module):
    """Global response normalization divides each channel's length by the mean over channels, which mixes them."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.inner, self.outer = nn.LayerNorm(6, eps=1e-6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.gamma, self.beta, self.head = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(9)), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = F.gelu(self.inner(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
        length = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = y + self.gamma * (y * length / (length.mean(-1, keepdim=True) + 1e-6)) + self.beta
        return self.head((x + self.outer(y).permute(0, 3, 1, 2)).mean((2, 3)))


@case("res2net", image(3, 8), least=4 + 4)
class Res2Net(nn.Module):
    """Quarters of a width, each convolved after the result of the one before is added."""

    def __init__(self):
        super().__init__()
        self.stem, self.split = conv_norm(3, 4), conv_norm(4, 8, 1)
        self.parts = nn.ModuleList(conv_norm(2, 2) for _ in range(3))
        self.join, self.head = conv_norm(8, 4, 1), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        first, *others = F.relu(self.split(x)).chunk(4, 1)
        outputs, last = [first], 0
        for part, layer in zip(others, self.parts, strict=True):
            last = F.relu(layer(part + last))
            outputs.append(last)
        return self.head(F.relu(x + self.join(torch.cat(outputs, 1))))


@case("squeezenet", image(3, 8), least=4 + 2 + 3 + 4 + 3, most=4 + 2 + 3 + 4 + 3)
class SqueezeNet(nn.Module):
    """Fire modules, and a convolution whose maps are the classes."""

    def __init__(self):
        super().__init__()
        self.stem, self.squeeze = conv(3, 4, bias=True), conv(4, 2, 1, bias=True)
        self.one, self.three = conv(2, 3, 1, bias=True), conv(2, 4, bias=True)
        self.last, self.classes = conv(7, 3, bias=True), conv(3, 3, 1, bias=True)

    def forward(self, x):
        x = F.relu(self.squeeze(F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)))
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)
        return F.adaptive_avg_pool2d(self.classes(F.relu(self.last(x))), 1).flatten(1)


@case("pyramid_pooling", image(3, 8), least=4 + 2 + 3 + 2 + 5, most=4 + 2 + 3 + 2 + 5)
class PyramidPooling(nn.Module):
    """Segmentation: pooled, dilated and plain branches side by side, enlarged at the end."""

    def __init__(self):
        super().__init__()
        self.stem, self.plain = conv_norm(3, 4, 3, 2), conv_norm(4, 2, 1)
        self.dilated = nn.Sequential(nn.Conv2d(4, 3, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(3))
        self.pooled = nn.Conv2d(4, 2, 1)
        self.join, self.head = conv_norm(7, 5), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        size = x.shape[-2:]
        x = F.relu(self.stem(x))
        pooled = F.relu(self.pooled(F.adaptive_avg_pool2d(x, 1)))
        pooled = F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([F.relu(self.plain(x)), F.relu(self.dilated(x)), pooled], 1)
        return F.interpolate(self.head(F.relu(self.join(x))), size, mode="bicubic")


@case("cross_stage_partial", image(3, 8), least=5 + 4 + 3 + 2 + 4, most=5 + 4 + 3 + 2 + 4)
class CrossStagePartial(nn.Module):
    """Even and odd places become channels (focus); then two paths, one with a residual block (YOLO)."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = conv_norm(12, 5), conv_norm(5, 4, 1), conv_norm(5, 3, 1)
        self.inner, self.outer = conv_norm(4, 2, 1), conv_norm(2, 4)
        self.join, self.head = conv_norm(7, 4, 1), conv(4, 2, 1, bias=True)

    def forward(self, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        x = F.silu(self.stem(x))
        left = F.silu(self.left(x))
        left = left + F.silu(self.outer(F.silu(self.inner(left))))
        return self.head(F.silu(self.join(torch.cat([left, F.silu(self.right(x))], 1))))


@case("attention_unet", image(3, 8), least=4 + 5 + 3 + 4, most=4 + 5 + 3 + 4)
class AttentionUNet(nn.Module):
    """A coarse map gates the skip connection."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = conv_norm(3, 4), conv_norm(4, 5, 3, 2)
        self.signal, self.skip, self.gate = nn.Conv2d(5, 3, 1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 1, 1)
        self.join, self.head = conv_norm(9, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        fine = F.relu(self.fine(x))
        up = F.interpolate(F.relu(self.coarse(fine)), scale_factor=2)
        gate = torch.sigmoid(self.gate(F.relu(self.signal(up) + self.skip(fine))))
        return self.head(F.relu(self.join(torch.cat([fine * gate, up], 1))))


@case("super_resolution", image(3, 4), least=4 + 3, most=4 + 3 + 1)
class SuperResolution(nn.Module):
    """Residual blocks, then a pixel shuffle into the larger picture (EDSR, ESPCN)."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = conv(3, 4), conv(4, 3, bias=True), conv(3, 4)
        self.up, self.shuffle = conv(4, 12, bias=True), nn.PixelShuffle(2)

    def forward(self, x):
        y = self.stem(x)
        y = y + 0.1 * self.outer(F.relu(self.inner(y)))
        return self.shuffle(self.up(y)) + F.interpolate(x, scale_factor=2, mode="bilinear")


@case("spatial_transformer", image(2, 6), least=3 + 4 + 5)
class SpatialTransformer(nn.Module):
    """A localisation network computes where the features are sampled."""

    def __init__(self):
        super().__init__()
        self.stem, self.where, self.six = conv(2, 3), nn.Linear(2 * 36, 4), nn.Linear(4, 6)
        self.last, self.head = conv(3, 5), pooled_head(5)

    def forward(self, x):
        turn = self.six(torch.tanh(self.where(x.flatten(1)))).view(-1, 2, 3)
        y = F.relu(self.stem(x))
        grid = F.affine_grid(turn, [x.shape[0], 1, 6, 6], align_corners=False)
        return self.head(F.relu(self.last(F.grid_sample(y, grid, align_corners=False))))


@case("point_net", real(3, 4, 9), least=6 + 7 + 5, most=6 + 7 + 5)
class PointNet(nn.Module):
    """Pointwise layers; the maximum over the points is concatenated to each point."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.Conv1d(6, 7, 1)
        self.third, self.head = nn.Conv1d(6 + 7, 5, 1), nn.Conv1d(5, 3, 1)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        whole = self.second(x).max(2, keepdim=True)[0].expand(-1, -1, x.shape[2])
        return self.head(F.relu(self.third(torch.cat([x, whole], 1))))


@case("feature_modulation", image(3), real(3, 5), least=6 + 5)
class FeatureModulation(nn.Module):
    """A condition scales and shifts channels (FiLM): the halves of its layer leave with them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv_norm(3, 6), conv_norm(6, 5), pooled_head(5)
        self.condition = nn.Linear(5, 12)

    def forward(self, x, condition):
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        x = F.relu(self.first(x) * (1 + scale) + shift)
        return self.head(F.relu(self.second(x)))


@case("adaptive_instance_norm", image(3), real(3, 5), least=6 + 6 + 5)
class AdaptiveInstanceNorm(nn.Module):
    """Each channel is normalised on its own, and then gets a mean and deviation computed from a condition."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)
        self.style, self.mean, self.deviation = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x, condition):
        x, style = self.first(x), F.relu(self.style(condition))
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-3).sqrt()
        x = x * self.deviation(style)[..., None, None] + self.mean(style).unsqueeze(-1).unsqueeze(-1)
        return self.head(F.relu(self.second(F.relu(x))))


@case("modulated_convolution", image(3), real(3, 5), least=5)
class ModulatedConvolution(nn.Module):
    """Filters are scaled for each example and convolved as groups (StyleGAN2)."""

    def __init__(self):
        super().__init__()
        self.first, self.style = conv(3, 6), nn.Linear(5, 6)
        self.weight, self.last, self.head = nn.Parameter(torch.randn(4, 6, 3, 3)), conv(4, 5), pooled_head(5)

    def forward(self, x, condition):
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        weight = self.weight * self.style(condition)[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-3).rsqrt()
        x = x.reshape(1, batch * channels, height, width)
        x = F.conv2d(x, weight.flatten(0, 1), padding=1, groups=batch).view(batch, -1, height, width)
        return self.head(F.relu(self.last(F.relu(x))))


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


@case("masked_picture_model", image(1, 5), least=4 + 3)
class MaskedPictureModel(nn.Module):
    """Convolutions that see only what came before (PixelCNN), with a gate of halves."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(1, 4, bias=True), conv(4, 6, bias=True), conv(3, 2, 1, bias=True)
        mask = torch.ones(1, 1, 3, 3)
        mask[..., 1, 2:] = mask[..., 2, :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.first.weight * self.mask, self.first.bias, padding=1))
        x = F.conv2d(x, self.second.weight * self.mask, self.second.bias, padding=1)
        value, gate = x.chunk(2, 1)
        return self.head(torch.tanh(value) * torch.sigmoid(gate))


@case("high_resolution", image(3, 8), least=4 + 6, most=4 + 6)
class HighResolution(nn.Module):
    """Two resolutions that exchange their features (HRNet)."""

    def __init__(self):
        super().__init__()
        self.high, self.low = conv_norm(3, 4), conv_norm(4, 6, 3, 2)
        self.up, self.down, self.head = conv_norm(6, 4, 1), conv_norm(4, 6, 3, 2), nn.Conv2d(10, 2, 1)

    def forward(self, x):
        high = F.relu(self.high(x))
        low = F.relu(self.low(high))
        up = F.interpolate(self.up(low), scale_factor=2, mode="nearest")
        high, low = F.relu(high + up), F.relu(low + self.down(high))
        return self.head(torch.cat([high, F.interpolate(low, scale_factor=2.0, mode="bilinear")], 1))


@case("compact_bilinear", image(3), least=6 + 4)
class CompactBilinear(nn.Module):
    """Products of projections instead of all pairs of channels (bilinear pooling of low rank)."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.head = conv_norm(3, 6), conv(6, 4, 1), conv(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = (self.left(x) * self.right(x)).sum((2, 3))
        return self.head(x.sign() * (x.abs() + 1e-3).sqrt())
