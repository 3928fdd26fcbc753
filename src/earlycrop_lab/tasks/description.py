"""The description of a run of any task: what is removed and when, the data, the network, the training.

A task adds its own fields, its metrics, and what is usual for its data. The options of a run are known without PyTorch,
which the library imports when a run is described.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import ceil, inf, isfinite
from typing import Any, ClassVar, Literal, Self, get_args

import earlycrop
from earlycrop.errors import nearest
from earlycrop.names import BatchNormMode, Reading, Target
from earlycrop_lab.names import Names


@dataclass(frozen=True)
class Metric:
    """A metric by which a task is judged.

    Args:
        name: Its name in records, with its unit if it has one.
        label: Its name in tables and figures.
        better: Whether higher or lower is better.
        unit: "%" for a metric between 0 and 1, which is shown in percent; otherwise its unit, if it has one.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest possible value: fractions are between 0 and 1; errors and costs are at least 0.

        >>> Metric("test_accuracy", "test accuracy", unit="%").bounds, Metric("mean_return", "mean return").bounds
        ((0.0, 1.0), (-inf, inf))
        """
        if self.unit == "%":
            return 0.0, 1.0
        return (0.0 if self.better == "lower" else -inf), inf

    def gain(self, of: float, over: float) -> float:
        """How much better one value is than another; negative if it is worse."""
        return of - over if self.better == "higher" else over - of


class TooShort(ValueError):
    """The method needs more epochs; the other fields of the description are fine.

    Attributes:
        run: The description. It can be named and reported, but not trained.
    """

    def __init__(self, run: "Description", why: str):
        super().__init__(why)
        self.run = run


def option(
    default: Any = None,
    *,
    tag: str | None = None,
    choices: tuple[str, ...] = (),
    several: str | None = None,
    help: str,
) -> Any:
    """A field of a description that is an option of the command.

    Args:
        default: Its default.
        tag: What precedes its value in a folder's name.
        choices: Its values, if they are few.
        several: For an option that may be given several times, and whose values are then joined by commas: the form of
            one of them.
        help: What it means.
    """
    return field(default=default, metadata={"help": help, "tag": tag, "choices": choices, "several": several})


@dataclass(frozen=True)
class Description:
    """One training run. Fields that are not given get the data's usual values on construction.

    Raises:
        TooShort: The method needs more epochs.
        ValueError: A field is invalid, or some do not fit together.
    """

    task: ClassVar[str]
    """The task's name on the command line."""
    metrics: ClassVar[tuple[Metric, ...]]
    """The metrics by which the task is judged; the first is the main one."""
    names: ClassVar[Names]
    """What its data may be called."""
    samples: ClassVar[str]
    """What `train_size` counts, in words."""
    logits: ClassVar[bool] = True
    """Whether the network's first output are logits, which a temperature may divide."""
    embeddings: ClassVar[bool] = False
    """Whether sparsity counts the weights of embeddings, and unstructured methods mask them."""
    mergeable: ClassVar[bool] = False
    """Whether several processes can train one run together."""

    method: str = option("earlycrop-s", help="what is removed, by which score and when: see `earlycrop methods`")
    sparsity: float = option(0.95, help="the fraction to remove, between 0 and 1")
    part: str | None = option(
        tag="parts-",
        several="NAME=X",
        help="a sparsity for a part of the network, by the name of a module or parameter; names joined by + are one "
        "part; may be given several times, and --sparsity is then that of the rest",
    )
    target: Target | Literal["latency"] = option(  # noqa: RUF009 - frozen
        "weight",
        tag="",
        choices=(*get_args(Target), "latency"),
        help="what sparsity counts; latency is measured on the run's device before training",
    )
    reading: Reading | None = option(  # noqa: RUF009 - frozen
        tag="",
        choices=get_args(Reading),
        help="how CroP computes a channel's score, instead of the method's own way",
    )
    prune_at: float | None = option(
        tag="at", help="prune after this many whole epochs, whenever the method itself would prune"
    )
    rounds: int | None = option(tag="rounds", help="for a method of several cuts: their number, with equal fractions")
    per_round: float | None = option(
        tag="each", help="for a method of several cuts: the fraction of what is left that each cut removes"
    )
    equal_budget: bool = option(
        False, tag="equal", help="divide the epochs between the trainings of a method that needs several"
    )
    round_to: int = option(1, tag="round", help="round the layers' widths to multiples of this")
    min_channels: int = option(1, tag="least", help="channels that every layer keeps; some methods keep more")
    min_part: float | None = option(
        tag="part", help="the fraction of its channels that every layer keeps, instead of --min-channels"
    )
    optimizer_state: Literal["slice", "reset"] = option(
        "slice",
        tag="state",
        choices=("slice", "reset"),
        help="keep the optimizer's state of what is left after the cut, or reset it",
    )
    bn_mode: BatchNormMode | None = option(  # noqa: RUF009 - frozen
        tag="norms",
        choices=tuple(mode for mode in get_args(BatchNormMode) if mode != "auto"),
        help="what norms with running statistics do during scoring, instead of what the method prescribes",
    )
    rescale: Literal["yes", "no"] | None = option(
        tag="rescale",
        choices=("yes", "no"),
        help="whether layers without a norm behind them get back the scale that the cut took, whatever the method says",
    )
    data: str = option(help="the data set")
    train_size: int | None = option(tag="train", help="train on a fixed part of this many samples")
    network: str = option(help="the network (default: the data's usual one)")
    width: int | None = option(tag="width", help="channels of the first layer (default: the network's usual width)")
    epochs: int = option(tag="epochs", help="all epochs, before and after the cut (default: the data's usual number)")
    batch_size: int = option(tag="batch", help="samples in a training batch (default: the data's usual number)")
    learning_rate: float = option(tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    weight_decay: float = option(0.0, tag="decay", help="L2, added to the gradient that the optimizer sees")
    clip_norm: float = option(10.0, tag="clip", help="the greatest norm of the gradient; larger ones are scaled down")
    max_steps: int | None = option(
        tag="smoke",
        help="smoke run, no valid result: every epoch, evaluation and scoring ends after this many batches; reduce "
        "--epochs too to make it short",
    )
    seed: int = option(0, help="seed of initial weights, order of samples, augmentation and scoring batches")

    def __post_init__(self):
        self.check_fields(vars(self))
        earlycrop.get_method(self.method)
        if self.part is not None:
            said = {"+".join(names): sparsity for names, sparsity in self.parts.items()}
            object.__setattr__(self, "part", ",".join(f"{name}={said[name]}" for name in sorted(said)))
        for name, value in self.usually().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check()
        self._check_budget()

    def usually(self) -> dict[str, Any]:
        """The data's usual values for fields that are not given."""
        raise NotImplementedError

    @classmethod
    def check_fields(cls, given: Mapping[str, Any]) -> None:
        """Check each field by itself, without PyTorch: its name, its choices, its range.

        Args:
            given: Some of the fields; None is a field that is not given.

        Raises:
            ValueError: A value is none that the field can have.
        """
        said = {name: value for name, value in given.items() if value is not None}
        if "data" in said:
            cls.names.check(said["data"])
        for each in fields(cls):
            value, choices = said.get(each.name), each.metadata["choices"]
            if choices and value is not None and value not in choices:
                near = nearest(value, choices)
                raise ValueError(f"{each.name} cannot be {value!r}. Did you mean {near!r}? {', '.join(choices)}.")
        if not 0 < said.get("min_part", 0.5) < 1:
            raise ValueError(
                f"min_part is the fraction of its channels that each layer keeps, between 0 and 1; "
                f"{said['min_part']:g} is not."
            )
        if not 0 <= said.get("sparsity", 0) < 1:
            raise _no_sparsity(said["sparsity"])
        for name, value in said.items():
            least = 0 if name in ("seed", "prune_at") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{name} has to be {least} or more, not {value}.")
        if said.get("seed", 0) >= 2**63:
            raise ValueError(f"seed has to be below 2**63, not {said['seed']}.")
        for name, least in (("learning_rate", 0), ("clip_norm", 0), ("weight_decay", -1)):
            if not (isfinite(said.get(name, 1)) and said.get(name, 1) > least):
                raise ValueError(f"{name} cannot be {said[name]:g}.")

    def _check(self) -> None:
        """Check what the fields mean together."""
        if self.highest == 0:
            raise _no_sparsity(self.sparsity)
        method = earlycrop.get_method(self.method)
        several = isinstance(method.timing, earlycrop.timing.AbstractPruningSchedule) and self.prune_at is None
        for name in ("rounds", "per_round"):
            if getattr(self, name) is not None and not several:
                raise ValueError(f"{self.method} cuts at one moment: leave out {name}.")
        if self.equal_budget and not (several and divisible(method)):
            raise ValueError(f"{self.method} is trained once, and has all epochs: leave out equal_budget.")
        if self.rounds is not None and self.per_round is not None:
            raise ValueError("rounds and per_round both say how much leaves in each cut: leave out one of them.")
        if self.prune_at is not None:
            if isinstance(method.timing, earlycrop.timing.Rewinding | earlycrop.timing.TickTock):
                raise ValueError(
                    f"{self.method} cuts where its trainings end, which cannot be moved: leave out prune_at."
                )
            if not 0 <= self.prune_at < self.epochs or self.prune_at % 1:
                raise ValueError(
                    f"prune_at is a whole number of epochs from 0 to {self.epochs - 1}, for cuts come between epochs; "
                    f"{self.prune_at:g} is not."
                )
        if not prunes(method):
            said = [name for name in PRUNING if getattr(self, name) != self._default(name)]
            if said:
                raise ValueError(f"{self.method} removes nothing: leave out {' and '.join(said)}, or choose a method.")
        if self.target in OF_SIZES and isinstance(method.units, earlycrop.units.Weights):
            raise ValueError(
                f"{self.method} masks weights, which makes no layer smaller: its target is weight or params, not "
                f"{self.target}. Or choose a method that removes channels."
            )
        pruning_method(self)  # raises for a reading that the method's score does not have

    def _check_budget(self) -> None:
        method = pruning_method(self)
        if self.budget < 1:
            raise TooShort(
                self,
                f"{self.epochs} epochs cannot be divided between the trainings of {self.method}: ask for more epochs, "
                "or leave out equal_budget.",
            )
        try:
            method.total_epochs(self.budget, self.highest)
        except ValueError as error:  # too short to be rewound
            raise TooShort(self, str(error)) from error
        timing = method.timing
        if isinstance(timing, earlycrop.timing.AbstractDetector) and (cap := timing.cap(self.epochs)) >= self.epochs:
            raise TooShort(
                self,
                f"{self.method} may watch until epoch {cap:g} and then needs epochs to train what is left: "
                f"epochs has to be more than {cap:g}, not {self.epochs}.",
            )

    def _default(self, name: str) -> Any:
        return next(each.default for each in fields(self) if each.name == name)

    @property
    def metric(self) -> Metric:
        """The task's main metric."""
        return self.metrics[0]

    @property
    def head(self) -> tuple[str | float, ...]:
        """The beginning of the folder's name: the data, the network, the method and the sparsity."""
        pruned = (self.sparsity,) if prunes(earlycrop.get_method(self.method)) else ()
        return (self.data, self.network, self.method, *pruned)

    @property
    def floor(self) -> int | float | None:
        """The least that each layer keeps: channels (int) or a fraction of them (float); None: the method's own."""
        return self.min_part or (None if self.min_channels == self._default("min_channels") else self.min_channels)

    @property
    def parts(self) -> dict[tuple[str, ...], float]:
        """The sparsities of parts of the network, by the names that are one part together.

        Raises:
            ValueError: `part` is not such a list, a sparsity is out of range, or a name is given twice.
        """
        found: dict[tuple[str, ...], float] = {}
        for said in [] if self.part is None else self.part.split(","):
            name, _, number = said.rpartition("=")
            names = tuple(sorted(each.strip() for each in name.split("+")))
            try:
                sparsity = float(number)
            except ValueError:
                names, sparsity = (), 0.0
            if not all(names) or not names:
                raise ValueError(f"part is NAME=SPARSITY, as in layer1=0.5 or layer1+layer2=0.5; {said!r} is not.")
            if not 0 <= sparsity < 1:
                raise ValueError(
                    f"The sparsity of the part {name} is the fraction of it to remove, at least 0 and below 1; "
                    f"{number} is not."
                )
            if twice := {each for known in found for each in known}.intersection(names):
                raise ValueError(f"The name {min(twice)!r} is given to two parts: leave out one of them.")
            found[names] = sparsity
        return found

    @property
    def highest(self) -> float:
        """The highest sparsity of any part: the number of cuts depends on it."""
        return max([self.sparsity, *self.parts.values()])

    @property
    def budget(self) -> int:
        """Epochs of one training: `epochs`, unless these are to be divided between several trainings."""
        if not self.equal_budget:
            return self.epochs
        method, fitting = pruning_method(self), 0
        for epochs in range(1, self.epochs + 1):
            try:
                if method.total_epochs(epochs, self.highest) <= self.epochs:
                    fitting = epochs
            except ValueError:  # too short to be rewound
                pass
        return fitting

    @property
    def total_epochs(self) -> int:
        """Epochs of all trainings together."""
        return ceil(pruning_method(self).total_epochs(self.budget, self.highest))

    def usual(self) -> Self:
        """The description of the same data, network, method and sparsity, with all other fields at their defaults."""
        # a sparsity of 0 is one only beside those of parts, which are not usual
        asked = self.sparsity > 0 and prunes(earlycrop.get_method(self.method))
        pruned: dict[str, Any] = {"sparsity": self.sparsity} if asked else {}
        return type(self)(method=self.method, data=self.data, network=self.network, **pruned)

    def dense_twin(self) -> Self:
        """The same training without pruning."""
        return replace(self, method="dense", **{name: self._default(name) for name in PRUNING})


def _no_sparsity(value: float) -> ValueError:
    return ValueError(f"sparsity is the fraction to remove, between 0 and 1; {value:g} is not.")


PRUNING = (
    *("sparsity", "part", "target", "reading", "prune_at", "rounds", "per_round", "equal_budget"),
    *("round_to", "min_channels", "min_part", "optimizer_state", "bn_mode", "rescale"),
)
"""The fields that do not apply to a run that does not prune."""

OF_CHANNELS = ("round_to", "min_channels", "min_part")
"""The fields that do not apply to a run that masks weights."""

OF_SIZES = ("node", "flops", "memory", "latency")
"""The targets that can only be met by making layers smaller."""


def prunes(method: "earlycrop.Method") -> bool:
    """Whether a method removes anything."""
    return not isinstance(method.timing, earlycrop.timing.Never)


def divisible(method: "earlycrop.Method") -> bool:
    """Whether a method trains for more epochs than one budget, so that its trainings can share one.

    >>> [divisible(earlycrop.get_method(name)) for name in ("ltr", "efficient-convnets", "crop-s-spread", "crop-s")]
    [True, True, False, False]
    """
    return method.total_epochs(LONG, 0.5) > LONG


LONG = 1000
"""A number of epochs that is enough for any method."""


def pruning_method(d: Description) -> "earlycrop.Method":
    """The description's method, with the reading of CroP, the epoch and the number of cuts that it asks for."""
    method = earlycrop.get_method(d.method)
    if isinstance(method.score, earlycrop.scores.Grasp) and not d.logits:
        method = replace(method, score=replace(method.score, temperature=1.0))
    if d.embeddings:
        method = replace(method, units=replace(method.units, embeddings=True))
    if d.reading is not None:
        method = method.reading(d.reading)
    if d.rescale is not None:
        method = replace(method, rescale=d.rescale == "yes")
    if d.prune_at is not None:
        method = replace(method, timing=earlycrop.timing.AtEpoch(d.prune_at))
    if d.per_round is not None:
        return replace(method, steps=earlycrop.steps.Remaining(d.per_round))
    return method if d.rounds is None else replace(method, steps=earlycrop.steps.Exponential(d.rounds))
