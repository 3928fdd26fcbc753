"""The plain convolutional network of a first tutorial."""

from torch import nn


def cnn(*, classes: int, channels_in: int = 1, width: int = 16) -> nn.Sequential:
    """Three 3x3 convolutions of `width`, twice and four times as many channels, norms, a pool, a linear layer.

    The weights have PyTorch's default initialisation.

    >>> sum(p.numel() for p in cnn(classes=10).parameters())
    24170
    """
    layers: list[nn.Module] = []
    for channels in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, classes))
