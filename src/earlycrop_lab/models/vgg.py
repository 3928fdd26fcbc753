"""VGG16 with batch norm (Simonyan and Zisserman, 2015), as used on small images and in the authors' form."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop_lab.models import paper

POOL = "pool"
SMALL = (1, 1, POOL, 2, 2, POOL, 4, 4, 4, POOL, 8, 8, 8, POOL, 8, 8, 8, POOL)  # channels in units of the width
PAPER = (1, 1, POOL, 2, 2, POOL, 4, 4, 4, POOL, 8, 8, 8, POOL, 8, 8, 16)  # twice as wide at the end, four pools


class VGG(nn.Module):
    """`features`, a pool and a `classifier`, whose layers are numbered as in the published networks."""

    def __init__(self, features: nn.Sequential, pool: int, classifier: nn.Module):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = classifier

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg16(form: Literal["small", "paper"] = "small", *, classes: int, channels_in: int = 3, width: int = 64) -> VGG:
    """VGG16 with a single Linear as its head ("small"), or in the authors' form ("paper").

    The authors' form ends in a convolution of twice the channels without a pool, and has LeakyReLU(0.05) throughout, an
    average pool to 2x2, two hidden layers with dropout and orthogonal initial weights.

    >>> sum(p.numel() for p in vgg16(classes=10).parameters())
    14728266
    """
    if form == "paper":
        features = convolutions(PAPER, channels_in, width, paper.leaky)
        classifier = paper.head(4 * 16 * width, 64 * width, 64 * width, classes=classes)
        model = VGG(features, pool=2, classifier=classifier)
        paper.initialise(model)
        return model
    model = VGG(convolutions(SMALL, channels_in, width, nn.ReLU), pool=1, classifier=nn.Linear(8 * width, classes))
    for module in model.features:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def convolutions(
    plan: tuple[int | str, ...], channels_in: int, width: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """The 3x3 convolutions of a plan, each with norm and activation, and its 2x2 max-pools."""
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            channels = step * width
            layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), activation()]
            channels_in = channels
    return nn.Sequential(*layers)
