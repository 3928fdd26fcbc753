"""A method is one answer to each of five questions, and the table of methods is a table.

What may leave (`units`), what is each worth (`score`), when is the moment (`timing`), in how many steps
(`steps`), and how is the budget shared between layers (`allocation`).
"""

from dataclasses import dataclass, replace

from earlycrop.allocation import Allocation, Global, Uniform, WidthsOf
from earlycrop.errors import nearest
from earlycrop.evaluation import BatchNormMode
from earlycrop.scores import (
    READINGS,
    AbstractLossScore,
    AbstractNetworkScore,
    Crop,
    CropGroupSum,
    CropMixed,
    FilterNorm,
    GateDecorator,
    Grasp,
    Magnitude,
    NormScale,
    NtkSap,
    PathNorm,
    Px,
    Random,
    Reading,
    Snip,
    SynFlow,
)
from earlycrop.steps import Exponential, Halving, OneShot, Steps
from earlycrop.timing import (
    AbstractTiming,
    AfterTraining,
    AtInit,
    EarlyBird,
    LazyRegime,
    Never,
    NtkSettled,
    RateSettled,
    Rewinding,
    ScoreSettled,
    TickTock,
)
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
        min_channels: What each layer keeps by default: channels (int) or a fraction of them (float).
        bn_mode: What norms with running statistics do while the method scores, see `MeanLoss`.
    """

    name: str
    score: AbstractLossScore | AbstractNetworkScore
    units: Weights | Channels
    timing: AbstractTiming
    steps: Steps
    allocation: Allocation = Global()  # noqa: RUF009 - frozen, without state
    min_channels: int | float = 1
    bn_mode: BatchNormMode = "auto"

    def __post_init__(self) -> None:
        of_channels = NormScale | FilterNorm | GateDecorator | PathNorm
        if isinstance(self.score, of_channels) and not isinstance(self.units, Channels):
            raise ValueError(f"{self.name}: {type(self.score).__name__} is a score of channels, not of single weights.")
        if isinstance(self.timing, Rewinding) and not isinstance(self.units, Weights):
            raise ValueError(f"{self.name}: what left in whole channels cannot be rewound; `Rewinding` is for weights.")
        if isinstance(self.score, CropMixed | CropGroupSum) and not isinstance(self.units, Channels):
            raise ValueError(
                f"{self.name}: {type(self.score).__name__} is a reading of CroP for channels; "
                f"weights have only one, `Crop()`."
            )

    @property
    def scores(self) -> tuple[AbstractLossScore | AbstractNetworkScore, ...]:
        """The score that chooses, and the one that decides the widths where that is another."""
        return (self.score, self.allocation.score) if isinstance(self.allocation, WidthsOf) else (self.score,)

    def total_epochs(self, epochs: float, sparsity: float) -> float:
        """All epochs that are trained where the budget of one training is `epochs`.

        >>> get_method("earlycrop-s").total_epochs(30, 0.98), get_method("ltr").total_epochs(30, 0.98)
        (30, 204)
        """
        return self.timing.total(epochs, len(self.steps.towards(sparsity)))

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
SUMMED = Channels(reduce="sum_abs")

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
        Method("earlybird",        NormScale(),          Channels(), EarlyBird(),    OneShot()),
        Method("gate-decorators",  GateDecorator(),      SUMMED,     TickTock(),     Exponential(20), min_channels=0.1),
        Method("efficient-convnets", FilterNorm(),       Channels(), AfterTraining(), OneShot(),       Uniform()),
        Method("ltr",              Magnitude(),          Weights(),  Rewinding(1),   Exponential(6)),
        Method("imp",              Magnitude(),          Weights(),  Rewinding(0),   Exponential(6)),
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
