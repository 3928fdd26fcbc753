"""Networks whose output is a map or a picture, or has an entry for each point: segmentation, detection, enlargement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, real


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
