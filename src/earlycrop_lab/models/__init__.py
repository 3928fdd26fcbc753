"""The networks of the tasks, by name.

`NETWORKS` is the table, `build` makes a network of it:

>>> from earlycrop_lab.models import NETWORKS, build
>>> model = build("resnet18", classes=10, channels=1, size=8, width=16, seed=0)
>>> NETWORKS["resnet18-paper"].least  # the smallest image, in pixels per side, that its layers can process
32

The files: `resnet` (ResNet18, ResNet50, ResNeXt-101), `vgg`, `lenet`, `cnn`, `mlp`, and `paper` for what the authors'
variants have in common. For tasks other than image classification there are `fcrn` (depth), `actor_critic` (control),
`psmm` and `lstm` (language). Each is plain torch; nothing here knows about pruning.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from earlycrop.errors import nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LANGUAGE", "NETWORKS", "Make", "Network", "build", "get_network"]


class Make:
    """Makes a network by a function of a file of this package, which is imported when the first one is made.

    Args:
        file: The file's name.
        function: The function's name.
        first: The function's first arguments, which come before those of the call.
    """

    def __init__(self, file: str, function: str, *first: Any):
        self.file, self.function, self.first = file, function, first

    def __call__(self, *args: Any, **options: Any) -> "nn.Module":
        """A new network."""
        file = import_module(f"earlycrop_lab.models.{self.file}")
        return getattr(file, self.function)(*self.first, *args, **options)


@dataclass(frozen=True)
class Network:
    """A network of the table.

    Args:
        make: Makes it from `classes`, `channels_in`, `width` and, if `sized`, `size`.
        least: The smallest image it accepts, in pixels per side: below it a stride or pool would have nothing to halve.
        width: Its usual base width: channels of the first layer (hidden units of the MLP).
        sized: Whether its parameters depend on the size of the images.
    """

    make: Make
    least: int
    width: int = 64
    sized: bool = False


NETWORKS = {
    "resnet18": Network(Make("resnet", "resnet18"), least=8),
    "resnet18-paper": Network(Make("resnet", "resnet18", "paper"), least=32),
    "resnet18-imagenet": Network(Make("resnet", "resnet18", "imagenet"), least=32),
    "resnet50": Network(Make("resnet", "resnet50"), least=8),
    "resnet50-imagenet": Network(Make("resnet", "resnet50", "imagenet"), least=32),
    "resnext101-32x16d": Network(Make("resnet", "resnext101", 16), least=32),
    "resnext101-32x48d": Network(Make("resnet", "resnext101", 48), least=32),
    "vgg16": Network(Make("vgg", "vgg16"), least=32),
    "vgg16-paper": Network(Make("vgg", "vgg16", "paper"), least=16),
    "cnn": Network(Make("cnn", "cnn"), least=1, width=16),
    "lenet": Network(Make("lenet", "lenet"), least=16, width=6, sized=True),
    "mlp": Network(Make("mlp", "mlp"), least=1, width=128, sized=True),
}
"""The networks of image classification."""

LANGUAGE = {"psmm": Make("psmm", "Psmm"), "lstm": Make("lstm", "LstmLanguageModel")}
"""Those of language modelling, made from the size of the vocabulary, the width and the dropout rate."""


def get_network(name: str) -> Network:
    """The network of that name.

    Raises:
        ValueError: There is no such network; the message suggests the nearest.
    """
    if name not in NETWORKS:
        near = nearest(name, NETWORKS)
        raise ValueError(f"No network is called {name!r}. Did you mean {near!r}? There are {', '.join(NETWORKS)}.")
    return NETWORKS[name]


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: int = 32,
    width: int | None = None,
    seed: int | None = None,
) -> "nn.Module":
    """A new network of the table, on the current default device, in training mode.

    Args:
        name: Its name in `NETWORKS`.
        classes: Number of logits.
        channels: Channels of an image.
        size: Pixels per side of an image.
        width: Base width; by default the network's usual one.
        seed: Seed of its initial weights, which leaves the global random state as it was. Without a seed they are drawn
            from the global random state.

    Raises:
        ValueError: The name is unknown, the images are too small, or the width, channels or classes are too few.
    """
    network = get_network(name)
    if size < network.least:
        raise ValueError(
            f"{name} cannot take images of {size}x{size} pixels: it halves a map more often than that allows. "
            f"The least is {network.least}x{network.least}; enlarge the images or choose another network."
        )
    if width is None:
        width = network.width
    for what, value, least in (("width", width, 1), ("classes", classes, 2), ("channels", channels, 1)):
        if value < least:
            raise ValueError(f"{name} cannot have {what}={value}; the least is {least}.")
    options = {"classes": classes, "channels_in": channels, "width": width}
    if network.sized:
        options["size"] = size
    from earlycrop_lab.models.seeded import seeded

    with seeded(seed):
        return network.make(**options)
