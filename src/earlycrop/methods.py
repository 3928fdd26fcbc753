"""A method is one answer to each of five questions, and the table of methods is a table.

What may leave (`units`), what is each worth (`score`), when is the moment (`timing`), in how many steps
(`steps`), and how is the budget shared between layers (`allocation`).
"""

from dataclasses import dataclass, replace

from earlycrop.allocation import Allocation, Global, Uniform
from earlycrop.errors import nearest
from earlycrop.scores import (
    READINGS,
    AbstractLossScore,
    AbstractNetworkScore,
    Crop,
    CropGroupSum,
    CropMixed,
    Grasp,
    Magnitude,
    NtkSap,
    Px,
    Random,
    Reading,
    Snip,
    SynFlow,
)
from earlycrop.steps import Exponential, Halving, OneShot, Steps
from earlycrop.timing import AbstractTiming, AtInit, LazyRegime, Never, NtkSettled, RateSettled, ScoreSettled
from earlycrop.units import Channels, Weights


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Args:
        name: Its name.
        score: What each unit is worth; a higher score stays.
        units: What may leave.
        timing: When.
        steps: In how many steps.
        allocation: How the budget is shared between layers.
    """

    name: str
    score: AbstractLossScore | AbstractNetworkScore
    units: Weights | Channels
    timing: AbstractTiming
    steps: Steps
    allocation: Allocation = Global()  # noqa: RUF009 - frozen, without state

    def __post_init__(self) -> None:
        if isinstance(self.score, CropMixed | CropGroupSum) and not isinstance(self.units, Channels):
            raise ValueError(
                f"{self.name}: {type(self.score).__name__} is a reading of CroP for channels; "
                f"weights have only one, `Crop()`."
            )

    def reading(self, reading: Reading) -> "Method":
        """The same method with another reading of CroP's channel score.

        >>> get_method("crop-s").reading("mixed").score
        CropMixed()
        """
        if reading not in READINGS:
            raise ValueError(
                f"No reading is called {reading!r}. Did you mean {nearest(reading, READINGS)!r}? "
                f"There are: {', '.join(READINGS)}."
            )
        if not isinstance(self.score, Crop | CropMixed | CropGroupSum):
            raise ValueError(f"{self.name} does not score with CroP, so it has no readings to choose from.")
        return replace(self, score=READINGS[reading])


LAZY = LazyRegime()

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        # name                     score                 units       timing          steps             allocation
        Method("dense",            Magnitude(),          Weights(),  Never(),        OneShot()),
        Method("random-u",         Random(),             Weights(),  AtInit(),       OneShot()),
        Method("random-s",         Random(),             Channels(), AtInit(),       OneShot(),        Uniform()),
        Method("magnitude-u",      Magnitude(),          Weights(),  AtInit(),       OneShot()),
        Method("magnitude-s",      Magnitude(),          Channels(), AtInit(),       OneShot()),
        Method("snip",             Snip(),               Weights(),  AtInit(),       OneShot()),
        Method("snap",             Snip(),               Channels(), AtInit(),       OneShot()),
        Method("grasp",            Grasp(),              Weights(),  AtInit(),       OneShot()),
        Method("grasp-inverted",   Grasp(inverted=True), Weights(),  AtInit(),       OneShot()),
        Method("crop-u",           Crop(),               Weights(),  AtInit(),       OneShot()),
        Method("crop-s",           Crop(),               Channels(), AtInit(),       OneShot()),
        Method("cropit-u",         Crop(),               Weights(),  AtInit(),       Halving(5)),
        Method("cropit-s",         Crop(),               Channels(), AtInit(),       Halving(5)),
        Method("earlycrop-u",      Crop(),               Weights(),  LAZY,           Halving(5)),
        Method("earlycrop-s",      Crop(),               Channels(), LAZY,           OneShot()),
        Method("earlycrop-u-rate", Crop(),               Weights(),  RateSettled(),  Halving(5)),
        Method("earlycrop-s-rate", Crop(),               Channels(), RateSettled(),  OneShot()),
        Method("earlycrop-u-score", Crop(),              Weights(),  ScoreSettled(), Halving(5)),
        Method("earlycrop-s-score", Crop(),              Channels(), ScoreSettled(), OneShot()),
        Method("earlycrop-u-ntk",  Crop(),               Weights(),  NtkSettled(),   Halving(5)),
        Method("earlycrop-s-ntk",  Crop(),               Channels(), NtkSettled(),   OneShot()),
        Method("synflow",          SynFlow(),            Weights(),  AtInit(),       Exponential(100)),
        Method("ntk-sap",          NtkSap(),             Weights(),  AtInit(),       Exponential(20)),
        Method("px",               Px(),                 Weights(),  AtInit(),       Exponential(100)),
    )
}  # fmt: skip
"""The methods by name; a new method is a new row."""


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in METHODS:
        raise ValueError(
            f"No method is called {name!r}. Did you mean {nearest(name, METHODS)!r}? There are: {', '.join(METHODS)}."
        )
    return METHODS[name]
