"""LeNet-5 (LeCun et al., 1998) with ReLUs and max-pools, as it is used today."""

from collections import OrderedDict

from torch import nn


def lenet(*, classes: int, channels_in: int = 1, size: int = 32, width: int = 6) -> nn.Sequential:
    """Two 5x5 convolutions and three linear layers for images of `size` pixels per side, at least 16.

    >>> sum(p.numel() for p in lenet(classes=10).parameters())
    61706
    """
    second, side = round(width * 16 / 6), ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels_in, width, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(width, second, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(second * side**2, 20 * width),
            relu3=nn.ReLU(),
            fc2=nn.Linear(20 * width, 14 * width),
            relu4=nn.ReLU(),
            fc3=nn.Linear(14 * width, classes),
        )
    )
