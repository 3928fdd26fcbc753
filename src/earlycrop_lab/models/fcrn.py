"""FCRN, a map of depths from one image (Laina et al., 2016): ResNet50's maps, then four up-projections.

Each up-projection doubles the map's sides and halves its channels. Laina et al. put zeros between the map's pixels and
then convolve with a 5x5 kernel. That equals one transposed convolution of stride 2, padding 2 and output padding 1 with
the same kernel, rotated by 180 degrees, which skips the three quarters of the products that are with zeros.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from earlycrop_lab.models.resnet import resnet50


class UpProjection(nn.Module):
    """Doubles the sides of a map: a 5x5 and a 3x3 convolution beside a shortcut of one 5x5; each 5x5 is `doubling`."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv1 = doubling(channels_in, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential(doubling(channels_in, channels), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def doubling(channels_in: int, channels: int) -> nn.ConvTranspose2d:
    """Zeros between the pixels of a map, then a 5x5 convolution, without computing the products with zeros."""
    return nn.ConvTranspose2d(channels_in, channels, 5, stride=2, padding=2, output_padding=1, bias=False)


class Fcrn(nn.Module):
    """ResNet50 without its pool and head, half its channels by 1x1, four up-projections, dropout and one channel.

    A map of h x w becomes one of 16 ⌈h / 32⌉ x 16 ⌈w / 32⌉ depths: 228 x 304 becomes 128 x 160.

    Args:
        width: Channels of the encoder's first layer and of the last map; the published network has 64.
        channels_in: Channels of an image.
        dropout: Dropout rate on the last map; the paper does not give it.
    """

    def __init__(self, *, width: int = 64, channels_in: int = 3, dropout: float = 0.0):
        super().__init__()
        resnet = resnet50("imagenet", classes=1, channels_in=channels_in, width=width)
        self.encoder = nn.Sequential(OrderedDict(list(resnet.named_children())[:-2]))  # all but the pool and the head
        self.conv = nn.Conv2d(32 * width, 16 * width, 1, bias=False)
        self.bn = nn.BatchNorm2d(16 * width)
        self.up = nn.Sequential(*(UpProjection(2 * channels * width, channels * width) for channels in (8, 4, 2, 1)))
        self.dropout = nn.Dropout(dropout)
        self.depth = nn.Conv2d(width, 1, 3, padding=1)
        for module in (*self.up.modules(), self.conv):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 i j"]:
        x = self.bn(self.conv(self.encoder(x)))
        return self.depth(self.dropout(self.up(x)))


def depth_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the depth map for an image of that size.

    >>> depth_size(228, 304), depth_size(114, 152), depth_size(57, 76)
    ((128, 160), (64, 80), (32, 48))
    """
    return 16 * -(-height // 32), 16 * -(-width // 32)
