"""Residual networks: ResNet18 and ResNet50 (He et al., 2016), ResNeXt-101 (Xie et al., 2017).

One class, two blocks, two stems. Parameters have the usual names (`conv1`, `layer1.0.bn2`, `fc`), so published weights
load where the architecture is the published one, that is into the forms "imagenet".
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop_lab.models import paper


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        bias: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(channels_in, channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolutions beside a shortcut; the 3x3 has the stride."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int, groups: int = 1, group_width: int = 64):
        super().__init__()
        inner, rest = divmod(channels * group_width, 64)
        if rest or not inner:
            raise ValueError(
                f"A base of {channels} channels gives groups of {channels * group_width / 64:g} channels, not a whole "
                f"number. Use a base width for which width x {group_width} is a multiple of 64."
            )
        inner *= groups
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.relu = nn.ReLU()
        self.downsample = projection(channels_in, self.expansion * channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """The shortcut's 1x1 convolution, where the block changes its input's shape."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class ResNet(nn.Module):
    """A stem, four stages of blocks whose channels double as the map halves, a pool and a head.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: Blocks in each of the four stages.
        classes: Number of logits.
        channels_in: Channels of an image.
        width: Channels of the stem and base of the first stage.
        stem: "small" (3x3, stride 1) or "large" (7x7, stride 2, and a max-pool).
        pool: Side of the map that the head reads.
        head: Makes the head from its number of inputs; by default one Linear.
        activation: Makes the stem's activation.
        **block_options: Further arguments of every block.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        classes: int,
        channels_in: int = 3,
        width: int = 64,
        stem: Literal["small", "large"] = "small",
        pool: int = 1,
        head: Callable[[int], nn.Module] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
        **block_options,
    ):
        super().__init__()
        if stem == "small":
            self.conv1 = nn.Conv2d(channels_in, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels_in, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = activation()
        self.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)

        features = width

        def stage(depth: int, channels: int, stride: int) -> nn.Sequential:
            nonlocal features
            blocks = []
            for i in range(depth):
                blocks.append(block(features, channels, stride if i == 0 else 1, **block_options))
                features = block.expansion * channels
            return nn.Sequential(*blocks)

        self.layer1 = stage(depths[0], width, stride=1)
        self.layer2 = stage(depths[1], 2 * width, stride=2)
        self.layer3 = stage(depths[2], 4 * width, stride=2)
        self.layer4 = stage(depths[3], 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        features *= pool**2
        self.fc = nn.Linear(features, classes) if head is None else head(features)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(
    form: Literal["small", "paper", "imagenet"] = "small", *, classes: int, channels_in: int = 3, width: int = 64
) -> ResNet:
    """ResNet18 for images of 32 pixels ("small"), in the authors' form ("paper"), or as published ("imagenet").

    The authors' form has biases in its 3x3 convolutions, LeakyReLU(0.05), a 2x2 pool, a hidden layer with dropout in
    its head and orthogonal initial weights; its stem is the large one, so they enlarge CIFAR-10 to 64 pixels.

    >>> sum(p.numel() for p in resnet18(classes=10).parameters())
    11173962
    """
    if form != "paper":
        stem = "small" if form == "small" else "large"
        return ResNet(BasicBlock, (2, 2, 2, 2), classes=classes, channels_in=channels_in, width=width, stem=stem)
    model = ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        classes=classes,
        channels_in=channels_in,
        width=width,
        stem="large",
        pool=2,
        head=lambda features: paper.head(features, 4 * width, classes=classes),
        activation=paper.leaky,
        bias=True,
    )
    paper.initialise(model)
    return model


def resnet50(
    form: Literal["small", "imagenet"] = "small", *, classes: int, channels_in: int = 3, width: int = 64
) -> ResNet:
    """ResNet50 with strides in the 3x3 convolutions and the stem for small images or the published one."""
    stem = "small" if form == "small" else "large"
    return ResNet(Bottleneck, (3, 4, 6, 3), classes=classes, channels_in=channels_in, width=width, stem=stem)


def resnext101(group_width: Literal[16, 48], *, classes: int, channels_in: int = 3, width: int = 64) -> ResNet:
    """ResNeXt-101 with 32 groups: 32x16d and 32x48d are the poster's RN16 and RN48.

    The authors keep the 1000-way head for ten classes; here the head has as many outputs as there are classes.
    """
    return ResNet(
        Bottleneck,
        (3, 4, 23, 3),
        classes=classes,
        channels_in=channels_in,
        width=width,
        stem="large",
        groups=32,
        group_width=group_width,
    )
