"""A method is one answer to each of five questions, so the methods form a table.

What may leave (`units`), what each unit is worth (`score`), when to cut (`timing`), in how many steps (`steps`), and
how the budget is shared between layers (`allocation`).
"""

from dataclasses import dataclass, replace
from typing import Any

from earlycrop.allocation import Global, PerCost, Sharing, Uniform
from earlycrop.errors import nearest
from earlycrop.evaluation import BatchNormMode
from earlycrop.names import no_method
from earlycrop.scores import (
    READINGS,
    AbstractScore,
    Crop,
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
from earlycrop.steps import Bounded, Exponential, Halving, OneShot, Steps
from earlycrop.timing import (
    AbstractPruningSchedule,
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
    Spread,
    TickTock,
)
from earlycrop.units import AbstractUnitKind, Channels, Weights
from earlycrop.widths import Allocation, WidthsOf


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Args:
        name: Its name.
        score: What each unit is worth; a higher score stays.
        units: What may leave.
        timing: When units leave.
        steps: In how many steps.
        allocation: How the budget is shared between layers.
        min_channels: The least that each layer keeps by default: channels (int) or a fraction of them (float).
        bn_mode: What norms with running statistics do while the method scores, see `MeanLoss`.
        rescale: Whether weights that no norm follows get back the scale that the cut took from them, see `rescaling`.

    Raises:
        ValueError: a score or a reading of CroP that is only for channels is given to single weights, or a timing that
            is only for weights (`Rewinding`) to channels; or widths of the first check to several cuts.
    """

    name: str
    score: AbstractScore
    units: AbstractUnitKind
    timing: AbstractTiming
    steps: Steps
    allocation: Allocation = Global()  # noqa: RUF009 - frozen, without state
    min_channels: int | float = 1
    bn_mode: BatchNormMode = "auto"
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.score.channels_only and not self.units.whole_channels:
            raise ValueError(f"{self.name}: {type(self.score).__name__} is a score of channels, not of single weights.")
        if self.timing.weights_only and self.units.whole_channels:
            raise ValueError(
                f"{self.name}: a network that lost whole channels cannot be rewound; `{type(self.timing).__name__}` is "
                f"for weights."
            )

        if self.widths_first and isinstance(self.timing, AbstractPruningSchedule) and len(self.steps.towards(0.5)) > 1:
            raise ValueError(
                f"{self.name}: widths that are taken at the first check are those of the last cut, and would all be "
                f"reached in the first: give `WidthsOf(..., taken='cut')`."
            )

    @property
    def saved(self) -> str:
        """How a saved state names it: as its source without `rescale`, which states of version 0.10 do not have."""
        return repr(self).removesuffix(f", rescale={self.rescale})") + ")"

    @property
    def widths(self) -> WidthsOf | None:
        """The scoring that decides how wide each layer becomes; None where the method's own score decides that too."""
        return self.allocation if isinstance(self.allocation, WidthsOf) else None

    @property
    def widths_first(self) -> bool:
        """Whether the widths are taken at the first check, before training."""
        return self.widths is not None and self.widths.taken == "first"

    @property
    def sharing(self) -> Sharing:
        """How layers share the budget wherever units are ranked over all of them."""
        return self.allocation.allocation if isinstance(self.allocation, WidthsOf) else self.allocation

    @property
    def scores(self) -> tuple[AbstractScore, ...]:
        """The score that chooses, and the one that decides the widths if that is another."""
        return (self.score,) if self.widths is None else (self.score, self.widths.score)

    @property
    def needs_data(self) -> bool:
        """Whether it needs a loss and a scoring set."""
        return self.timing.needs_data or any(score.needs_data for score in self.scores)

    @property
    def reads(self) -> bool:
        """Whether it scores channels with CroP, which has several readings for them."""
        return self.units.whole_channels and any(map(_is_crop, self.scores))

    def total_epochs(self, epochs: float, sparsity: float) -> float:
        """The total number of training epochs, where the budget of one training is `epochs`.

        Args:
            epochs: The budget of one training.
            sparsity: The requested sparsity, on which the number of cuts depends.

        >>> get_method("earlycrop-s").total_epochs(30, 0.98), get_method("ltr").total_epochs(30, 0.98)
        (30, 204)
        """
        return self.timing.total(epochs, len(self.steps.towards(sparsity)))

    def reading(self, reading: Reading) -> "Method":
        """The same method with another reading of CroP's channel score.

        Args:
            reading: One of `READINGS`.

        Raises:
            ValueError: there is no such reading, or the method does not score channels with CroP.

        >>> get_method("crop-s").reading("mixed").allocation.score
        CropMixed()
        """
        if reading not in READINGS:
            raise ValueError(
                f"No reading is called {reading!r}. Did you mean {nearest(reading, READINGS)!r}? "
                f"The readings are: {', '.join(READINGS)}."
            )
        if not self.units.whole_channels and any(map(_is_crop, self.scores)):
            raise ValueError(
                f"{self.name}: {reading} is a reading of CroP for channels; weights have no readings to choose from."
            )
        if not self.reads:
            raise ValueError(f"{self.name} does not score with CroP, so it has no readings to choose from.")
        now, allocation = READINGS[reading], self.allocation
        if self.widths is not None and _is_crop(self.widths.score):
            allocation = replace(self.widths, score=now)
        return replace(self, score=now if _is_crop(self.score) else self.score, allocation=allocation)


def _is_crop(score: AbstractScore) -> bool:
    """Whether it is CroP, in one of its readings."""
    return score in READINGS.values()


LAZY, ONE, SEVEN = LazyRegime(), OneShot(), Halving(5)
CODE = LazyRegime(power=1, reference="epoch1", params="all")
CHANNEL, WEIGHT, PRE_NORM, SUMMED = Channels(), Weights(), Channels("pre_norm"), Channels(reduce="sum_abs")
WIDTHS, SHARES = WidthsOf(Crop(), Bounded(), PerCost()), WidthsOf(Crop(), ONE)  # of channels and of weights
WIDTHS_7, SHARES_7 = WidthsOf(Crop(), SEVEN, PerCost()), WidthsOf(Crop(), SEVEN)
WIDTHS_BOTH = WidthsOf(Crop(), Bounded(), PerCost(("weight", "flops")))
WIDTHS_NOW, SHARES_NOW = WidthsOf(Crop(), Bounded(), PerCost(), taken="cut"), WidthsOf(Crop(), ONE, taken="cut")
SHARES_SYNFLOW = WidthsOf(SynFlow(), Exponential(100))


def _scaled(name: str, *row: Any) -> Method:
    """A row whose norms only scale while it scores, and whose layers get back their scale (docs/results.md)."""
    return Method(name, *row, bn_mode="scaled", rescale=True)


def _running(name: str, *row: Any) -> Method:
    """A row that scores in evaluation mode, as the authors' code does."""
    return Method(name, *row, bn_mode="running")


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        # name                      score                 units     timing          steps   allocation
        Method("dense",             Magnitude(),          WEIGHT,   Never(),        ONE),
        Method("random-u",          Random(),             WEIGHT,   AtInit(),       ONE,    rescale=True),
        Method("random-s",          Random(),             CHANNEL,  AtInit(),       ONE,    Uniform(), rescale=True),
        Method("magnitude-u",       Magnitude(),          WEIGHT,   AtInit(),       ONE),
        Method("magnitude-s",       Magnitude(),          CHANNEL,  AtInit(),       ONE),
        Method("snip",              Snip(),               WEIGHT,   AtInit(),       ONE),
        _scaled("snap",             Snip(),               CHANNEL,  AtInit(),       ONE),
        Method("grasp",             Grasp(),              WEIGHT,   AtInit(),       ONE),
        Method("grasp-inverted",    Grasp(inverted=True), WEIGHT,   AtInit(),       ONE),
        # CroP decides how wide each layer becomes. Before training, no score chooses its units better than chance;
        # later, those on the strongest paths have learned most
        _scaled("crop-u",           Random(),             WEIGHT,   AtInit(),       ONE,    SHARES),
        _scaled("crop-s",           Random(),             CHANNEL,  AtInit(),       ONE,    WIDTHS),
        _scaled("cropit-u",         Random(),             WEIGHT,   AtInit(),       ONE,    SHARES_7),
        _scaled("cropit-s",         Random(),             CHANNEL,  AtInit(),       ONE,    WIDTHS_7),
        _scaled("earlycrop-u",      Magnitude(),          WEIGHT,   LAZY,           ONE,    SHARES),
        _scaled("earlycrop-s",      PathNorm(),           CHANNEL,  LAZY,           ONE,    WIDTHS),
        _scaled("earlycrop-u-rate", Magnitude(),          WEIGHT,   RateSettled(),  ONE,    SHARES),
        _scaled("earlycrop-s-rate", PathNorm(),           CHANNEL,  RateSettled(),  ONE,    WIDTHS),
        _scaled("earlycrop-u-score", Magnitude(),         WEIGHT,   ScoreSettled(), ONE,    SHARES),
        _scaled("earlycrop-s-score", PathNorm(),          CHANNEL,  ScoreSettled(), ONE,    WIDTHS),
        _scaled("earlycrop-u-ntk",  Magnitude(),          WEIGHT,   NtkSettled(),   ONE,    SHARES),
        _scaled("earlycrop-s-ntk",  PathNorm(),           CHANNEL,  NtkSettled(),   ONE,    WIDTHS),
        # controls: the same widths with a random choice; magnitude over all layers, and within SynFlow's shares
        _scaled("earlycrop-u-random", Random(),           WEIGHT,   LAZY,           ONE,    SHARES),
        _scaled("earlycrop-s-random", Random(),           CHANNEL,  LAZY,           ONE,    WIDTHS),
        _scaled("earlymagnitude-u", Magnitude(),          WEIGHT,   LAZY,           ONE),
        _scaled("earlysynflow-u",   Magnitude(),          WEIGHT,   LAZY,           ONE,    SHARES_SYNFLOW),
        # the same, for few weights and few FLOPs at once
        _scaled("crop-s-balanced",  Random(),             CHANNEL,  AtInit(),       ONE,    WIDTHS_BOTH),
        _scaled("earlycrop-s-balanced", PathNorm(),       CHANNEL,  LAZY,           ONE,    WIDTHS_BOTH),
        # the same, in several cuts while training goes on
        _scaled("crop-u-spread",    Magnitude(),          WEIGHT,   Spread(),       Exponential(8), SHARES_NOW),
        _scaled("crop-s-spread",    PathNorm(),           CHANNEL,  Spread(),       Exponential(8), WIDTHS_NOW),
        # CroP as published, one ranking over all layers, but in steps of bounded size, or in seven
        _scaled("crop-s-bounded",   Crop(),               CHANNEL,  AtInit(),       Bounded()),
        _scaled("earlycrop-s-steps", Crop(),              CHANNEL,  LAZY,           SEVEN),
        _scaled("earlycrop-u-steps", Crop(),              WEIGHT,   LAZY,           SEVEN),
        # to the letter: the poster; the authors' code of the paper's year (2022), and of the year before
        Method("crop-u-poster",     Crop(),               WEIGHT,   AtInit(),       ONE),
        Method("crop-s-poster",     Crop(),               CHANNEL,  AtInit(),       ONE),
        Method("cropit-u-poster",   Crop(),               WEIGHT,   AtInit(),       SEVEN),
        Method("cropit-s-poster",   Crop(),               CHANNEL,  AtInit(),       SEVEN),
        Method("earlycrop-u-poster", Crop(),              WEIGHT,   LAZY,           SEVEN),
        Method("earlycrop-s-poster", Crop(),              CHANNEL,  LAZY,           ONE),
        _running("crop-s-authors-2022", CropMixed(),      PRE_NORM, AtInit(),       ONE),
        _running("earlycrop-s-authors-2022", CropMixed(), PRE_NORM, CODE,           ONE),
        _running("earlycrop-s-authors-2021", CropMixed(), PRE_NORM, CODE,           SEVEN),
        _running("earlycrop-u-authors-2022", Crop(),      WEIGHT,   CODE,           SEVEN),
        Method("synflow",           SynFlow(),            WEIGHT,   AtInit(),       Exponential(100)),
        Method("earlybird",         NormScale(),          CHANNEL,  EarlyBird(),    ONE),
        Method("gate-decorators",   GateDecorator(),      SUMMED,   TickTock(),     Exponential(20), min_channels=0.1),
        Method("efficient-convnets", FilterNorm(),        CHANNEL,  AfterTraining(), ONE,   Uniform()),
        Method("ltr",               Magnitude(),          WEIGHT,   Rewinding(1),   Exponential(6)),
        Method("imp",               Magnitude(),          WEIGHT,   Rewinding(0),   Exponential(6)),
        Method("ntk-sap",           NtkSap(),             WEIGHT,   AtInit(),       Exponential(20)),
        Method("px",                Px(),                 WEIGHT,   AtInit(),       Exponential(100)),
    )
}  # fmt: skip
"""The methods by name; a new method is a new row, and its name is in `names.METHODS`."""


def get_method(name: str) -> Method:
    """The method of that name in `METHODS`.

    Raises:
        ValueError: there is none; suggests the nearest.
    """
    if name not in METHODS:
        raise no_method(name)
    return METHODS[name]
