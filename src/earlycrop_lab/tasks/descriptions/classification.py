"""The runs of image classification: their options, and what is usual for their data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from earlycrop_lab.models import NETWORKS, get_network
from earlycrop_lab.names import IMAGES, Names
from earlycrop_lab.tasks.description import Description, Metric, option


@dataclass(frozen=True)
class Usual:
    """The usual network and its width, epochs and batch size of a data set."""

    network: str = "resnet18"
    width: int | None = None
    epochs: int = 80
    batch_size: int = 128


USUAL = {
    "digits": Usual(width=32, epochs=20, batch_size=64),
    "cifar10": Usual(batch_size=256),
    "cifar100": Usual(batch_size=256),
    "tiny-imagenet": Usual("vgg16"),
}
"""The usual settings by data set; a folder of class folders gets the defaults. Batches and epochs are the authors'."""


@dataclass(frozen=True)
class Classification(Description):
    """One training run. Fields that are not given get the data set's usual values on construction.

    >>> usual = Classification(data="digits")
    >>> usual.method, usual.sparsity, usual.network, usual.width, usual.epochs, usual.batch_size
    ('earlycrop-s', 0.95, 'resnet18', 32, 20, 64)
    """

    task: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("test_accuracy", "test accuracy", "higher", "%"),)
    names: ClassVar[Names] = IMAGES
    samples: ClassVar[str] = "training images"
    mergeable: ClassVar[bool] = True

    data: str = option("digits", help=str(IMAGES))
    train_size: int | None = option(tag="train", help="train on a fixed class-balanced part of this many images")
    network: str = option(help=f"{', '.join(NETWORKS)} (default: the data set's usual one)")
    learning_rate: float = option(2e-3, tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    weight_decay: float = option(5e-5, tag="decay", help="L2, added to the gradient that Adam sees")
    schedule: Literal["one_cycle", "constant"] = option(
        "one_cycle", tag="", choices=("one_cycle", "constant"), help="the learning rate after the cut"
    )
    image_size: int | None = option(tag="size", help="pixels per side of the images (default: their own size)")
    recipe: Literal["usual", "paper"] = option(
        "usual", tag="", choices=("usual", "paper"), help="image sizes and augmentation"
    )
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        tag="",
        choices=("float32", "bfloat16"),
        help="of the training steps' forward pass; weights, scores and tests stay in float32",
    )
    channels_last: bool = option(False, tag="last", help="keep a pixel's channels together in memory")
    compiled: bool = option(
        False,
        tag="compiled",
        help="train with torch.compile, on a GPU with captured graphs; compiled again after the cut",
    )

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = USUAL.get(self.data, Usual())
        network = self.network or usual.network
        width = usual.width if network == usual.network else None
        return {
            "network": network,
            "width": width or get_network(network).width,
            "epochs": usual.epochs,
            "batch_size": usual.batch_size,
        }

    @classmethod
    def check_fields(cls, given: Mapping[str, Any]) -> None:
        """See `Description`."""
        super().check_fields(given)
        if given.get("network") is not None:
            get_network(given["network"])
