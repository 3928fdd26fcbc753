"""Networks that enlarge pictures: transposed convolutions, unpooling, pyramids."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import case, conv, conv_norm, image, real


@case("transposed", real(3, 3, 5, 5), least=6 + 4, most=6 + 4)
def transposed():
    return nn.Sequential(
        conv(3, 6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3, padding=1),
    )


@case("transposed_groups", real(3, 2, 7), least=3 + 4 + 5)
def transposed_groups():
    """Transposed convolutions in groups, in one dimension, among them a depthwise one."""
    return nn.Sequential(
        nn.Conv1d(2, 6, 3),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 6, 4, 2, groups=6),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 8, 3, groups=2),
        nn.ReLU(),
        nn.Conv1d(8, 5, 1),
        nn.ReLU(),
        nn.Conv1d(5, 2, 1),
    )


@case("transposed_groups_2d", image(3, 4), least=2 + 3)
def transposed_groups_2d():
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 9, 2, 2, groups=3), nn.BatchNorm2d(9), nn.ReLU(), conv(9, 2)
    )


@case("unet", image(3), least=2 * (3 + 5 + 7) + 5 + 3 + 2 * (5 + 3), most=54)
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([self.twice(3, 3), self.twice(3, 5), self.twice(5, 7)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(7, 5, 2, 2), nn.ConvTranspose2d(5, 3, 2, 2)])
        self.join = nn.ModuleList([self.twice(10, 5), self.twice(6, 3)])
        self.head = nn.Conv2d(3, 2, 1)

    @staticmethod
    def twice(inside: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            *conv_norm(inside, width), nn.ReLU(inplace=True), *conv_norm(width, width), nn.ReLU(inplace=True)
        )

    def forward(self, x):
        skips = []
        for level in self.down:
            x = level(x if not skips else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class UpProjection(nn.Module):
    """Unpool, then two branches that are added (Laina et al., 2016)."""

    def __init__(self, inside: int, outside: int, upsample: Callable[[Tensor], Tensor]):
        super().__init__()
        self.upsample = upsample
        self.main = nn.Sequential(*conv_norm(inside, outside, 5), nn.ReLU(), *conv_norm(outside, outside))
        self.side = conv_norm(inside, outside, 5)

    def forward(self, x):
        x = self.upsample(x)
        return F.relu(self.main(x) + self.side(x))


def unpool(x: Tensor) -> Tensor:
    """Each place becomes the upper left of a 2×2 field of zeros."""
    batch, channels, height, width = x.shape
    fields = x.new_zeros(batch, channels, height, 2, width, 2)
    fields[:, :, :, 0, :, 0] = x
    return fields.view(batch, channels, 2 * height, 2 * width)


def unpool_transposed(x: Tensor) -> Tensor:
    """The same as a transposed convolution with a constant kernel, one group per channel."""
    kernel = torch.zeros(x.shape[1], 1, 2, 2, dtype=x.dtype, device=x.device)
    kernel[:, :, 0, 0] = 1
    return F.conv_transpose2d(x, kernel, stride=2, groups=x.shape[1])


def decoder(upsample: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(3, 4, 3, 2),
        nn.ReLU(),
        *conv_norm(4, 7, 3, 2),
        nn.ReLU(),
        *conv_norm(7, 6, 1),
        UpProjection(6, 5, upsample),
        UpProjection(5, 4, upsample),
        conv(4, 1, bias=True),
        nn.ReLU(),
        nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
    )


DECODER = 4 + 7 + 6 + 2 * 5 + 2 * 4


@case("decoder_nearest", image(3), least=DECODER, most=DECODER)
def decoder_nearest():
    return decoder(nn.Upsample(scale_factor=2))


@case("decoder_bilinear", image(3), least=DECODER, most=DECODER)
def decoder_bilinear():
    return decoder(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


@case("decoder_unpool_pad", image(3), least=DECODER)
def decoder_unpool_pad():
    """Unpooling by stacking with zeros, without a number of channels in the code."""

    def upsample(x):
        x = torch.stack([x, torch.zeros_like(x)], dim=-1).flatten(-2)
        return torch.stack([x, torch.zeros_like(x)], dim=-2).flatten(-3, -2)

    return decoder(upsample)


@case("decoder_unpool", image(3), least=4 + 7 + 5 + 4 + 4)
def decoder_unpool():
    return decoder(unpool)


@case("decoder_unpool_transposed", image(3), least=4 + 7 + 5 + 4 + 4)
def decoder_unpool_transposed():
    return decoder(unpool_transposed)


@case("max_unpool", image(3), least=0)
class MaxUnpool(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(3, 4), conv(4, 4), conv(4, 2)

    def forward(self, x):
        x, places = F.max_pool2d(self.first(x), 2, return_indices=True)
        return self.last(F.relu(F.max_unpool2d(self.second(x), places, 2)))


@case("pyramid", image(3), least=4 + 6 + 5, most=4 + 6 + 5)
class Pyramid(nn.Module):
    """A feature pyramid: lateral layers are added to up-sampled ones; every level has an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv_norm(3, 4), conv_norm(4, 6, 3, 2)
        self.lateral = nn.ModuleList([conv(4, 5, 1, bias=True), conv(6, 5, 1, bias=True)])
        self.head = conv(5, 2, bias=True)

    def forward(self, x):
        fine = F.relu(self.first(x))
        coarse = F.relu(self.second(fine))
        top = self.lateral[1](coarse)
        low = self.lateral[0](fine) + F.interpolate(top, size=fine.shape[-2:], mode="nearest")
        return [self.head(low), self.head(top)]


@case("pixel_shuffle", image(3, 4), least=0)
def pixel_shuffle():
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.PixelShuffle(2), conv(2, 5), nn.PixelUnshuffle(2), nn.ReLU(), conv(20, 2)
    )
