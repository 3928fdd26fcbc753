"""A small multi-layer perceptron on pixels."""

from collections import OrderedDict

from torch import nn


def mlp(*, classes: int, channels_in: int = 1, size: int = 8, width: int = 128) -> nn.Sequential:
    """Two hidden layers of `width` ReLU units on images of `size` pixels per side."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels_in * size**2, width),
            relu1=nn.ReLU(),
            fc2=nn.Linear(width, width),
            relu2=nn.ReLU(),
            fc3=nn.Linear(width, classes),
        )
    )
