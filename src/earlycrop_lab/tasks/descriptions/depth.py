"""The runs of depth from one image: their options, and what is usual for their data."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from earlycrop_lab.names import DEPTHS, Names
from earlycrop_lab.tasks.description import Description, Metric, option


@dataclass(frozen=True)
class Usual:
    """The usual settings of a data set; images are three quarters as high as they are wide."""

    width: int
    image_width: int
    epochs: int
    recipe: Literal["usual", "paper"]


USUAL = {
    "scenes": Usual(width=8, image_width=76, epochs=12, recipe="usual"),
    "nyu-depth-v2": Usual(width=64, image_width=304, epochs=20, recipe="paper"),
}
"""The usual settings by data set: for the rendered rooms what a minute allows, for NYU-Depth-v2 the paper's."""

LEARNING_RATES = {"usual": 5e-3, "paper": 1e-2}
"""The peak learning rates by recipe."""

NETWORK = "fcrn"


@dataclass(frozen=True)
class Depth(Description):
    """One training run. Fields that are not given get the data set's usual values on construction.

    >>> usual = Depth()
    >>> usual.data, usual.network, usual.width, usual.image_width, usual.epochs, usual.recipe, usual.learning_rate
    ('scenes', 'fcrn', 8, 76, 12, 'usual', 0.005)
    """

    task: ClassVar[str] = "depth"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("rms_metres", "rms error", "lower", "m"),
        Metric("rel", "relative error", "lower"),
        Metric("log10", "log10 error", "lower"),
        *(Metric(f"delta{i}", f"δ < 1.25{power}", "higher", "%") for i, power in ((1, ""), (2, "²"), (3, "³"))),
    )
    names: ClassVar[Names] = DEPTHS
    samples: ClassVar[str] = "training pairs"
    logits: ClassVar[bool] = False

    data: str = option("scenes", help=str(DEPTHS))
    train_size: int | None = option(tag="train", help="train on a fixed part of this many pairs")
    network: str = option(choices=(NETWORK,), help="the only network of this task")
    batch_size: int = option(16, tag="batch", help="pairs in a training batch")
    image_width: int = option(tag="size", help="width of the images in pixels (default: the data set's usual one)")
    recipe: Literal["usual", "paper"] = option(
        tag="",
        choices=("usual", "paper"),
        help="optimizer, schedule and augmentation, instead of the data set's usual ones",
    )

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = USUAL[self.data]
        rate = LEARNING_RATES.get(self.recipe or usual.recipe)
        return {"network": NETWORK, **vars(usual), "learning_rate": rate}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return max(round(0.75 * self.image_width), 1), self.image_width
