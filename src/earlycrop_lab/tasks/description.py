"""What describes a run, whatever its task: what leaves and when, the data, the network, the training.

A task adds its own fields, and says what it is judged by and what is usual for its data.
"""

from dataclasses import dataclass, field, fields, replace
from math import ceil, inf, isfinite
from typing import Any, ClassVar, Literal, Self, get_args

import earlycrop
from earlycrop.costs import Target
from earlycrop.errors import nearest
from earlycrop.evaluation import BatchNormMode
from earlycrop.scores import READINGS, Grasp, Reading
from earlycrop.steps import Exponential, Remaining
from earlycrop.timing import AbstractDetector, AbstractPruningSchedule, AtEpoch, Never, Rewinding, TickTock
from earlycrop.units import Weights


@dataclass(frozen=True)
class Metric:
    """A figure that a task is judged by.

    Args:
        name: In records, with its unit if it has one.
        label: In tables and pictures.
        better: Which way is better.
        unit: "%" if the figure is a part of one, which is shown in percent; else its unit, if it has one.
    """

    name: str
    label: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        """What it can be: a part is from 0 to 1, what should be low is an error, a deviation or a cost: 0 or more.

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
    """The epochs do not suffice for what the method does with them: nothing is wrong with the run's other fields.

    Attributes:
        run: What was asked. It can be named and told of, but not trained.
    """

    def __init__(self, run: "Description", why: str):
        super().__init__(why)
        self.run = run


def option(default: Any = None, *, tag: str | None = None, choices: tuple[str, ...] = (), help: str) -> Any:
    """A field of a description that is an option of the command; `tag` marks it in a folder's name."""
    return field(default=default, metadata={"help": help, "tag": tag, "choices": choices})


@dataclass(frozen=True)
class Description:
    """One training run. What is not said is the data's usual, and is filled in at once.

    Raises:
        TooShort: The epochs do not suffice for the method.
        ValueError: Something else of it cannot be.
    """

    task: ClassVar[str]
    """The task's name on the command line."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What the task is judged by; the first is the one that counts."""
    samples: ClassVar[str]
    """What `train_size` counts, in words."""
    logits: ClassVar[bool] = True
    """Whether what the network returns first are logits, which a temperature may divide."""
    embeddings: ClassVar[bool] = False
    """Whether weights of embeddings are among those that sparsity counts and that leave one by one."""
    mergeable: ClassVar[bool] = False
    """Whether several processes can train one run together."""

    method: str = option("earlycrop-s", help="what is removed, by which score and when: see `earlycrop methods`")
    sparsity: float = option(0.95, help="the part to remove, between 0 and 1")
    target: Target = option("weight", tag="", choices=get_args(Target), help="what sparsity counts")  # noqa: RUF009 - frozen
    reading: Reading | None = option(  # noqa: RUF009 - frozen
        tag="",
        choices=tuple(READINGS),
        help="how CroP reads a channel's worth; the method's own by default",
    )
    prune_at: float | None = option(
        tag="at", help="prune after so many whole epochs, whatever the method would wait for"
    )
    rounds: int | None = option(tag="rounds", help="cuts of a method that cuts often, each taking the same part")
    per_round: float | None = option(tag="each", help="the part of what is left that leaves in each of its cuts")
    equal_budget: bool = option(
        False, tag="equal", help="divide the epochs between the trainings of a method that needs several"
    )
    round_to: int = option(1, tag="round", help="widths in multiples of this")
    min_channels: int = option(1, tag="least", help="channels that every layer keeps; a method may keep more by itself")
    min_part: float | None = option(tag="part", help="the part of its channels that every layer keeps instead")
    optimizer_state: Literal["slice", "reset"] = option(
        "slice",
        tag="state",
        choices=("slice", "reset"),
        help="carry the optimizer's state through the cut, or forget it there",
    )
    bn_mode: BatchNormMode | None = option(  # noqa: RUF009 - frozen
        tag="norms",
        choices=tuple(mode for mode in get_args(BatchNormMode) if mode != "auto"),
        help="what norms with running statistics do while it scores; the method's own by default",
    )
    data: str = option(help="what it is trained on")
    train_size: int | None = option(tag="train", help="train on a fixed part of so many samples")
    network: str = option(help="the data's usual by default")
    width: int | None = option(tag="width", help="channels of its first layer; its usual width by default")
    epochs: int = option(tag="epochs", help="the whole budget, before and after the cut; the data's usual by default")
    batch_size: int = option(tag="batch", help="samples in a training batch; the data's usual by default")
    learning_rate: float = option(tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    weight_decay: float = option(0.0, tag="decay", help="L2, in the optimizer's gradient")
    clip_norm: float = option(10.0, tag="clip", help="the gradient's norm is cut to this")
    max_steps: int | None = option(
        tag="smoke",
        help="a smoke run, no result: each of all the epochs, and every evaluation and scoring, ends after so many "
        "batches; fewer --epochs make it short",
    )
    seed: int = option(0, help="of initial weights, order of samples, augmentation and scoring batches")

    def __post_init__(self):
        earlycrop.get_method(self.method)
        type(self).check_data(self.data)
        for name, value in self.usually().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check()
        self._check_budget()

    @staticmethod
    def check_data(name: str) -> None:
        """Whether there can be data of that name; no file is looked at.

        Raises:
            ValueError: If not; it names the nearest.
        """
        raise NotImplementedError

    def usually(self) -> dict[str, Any]:
        """What this data is usually trained with: values for the fields that were not said."""
        raise NotImplementedError

    def _check(self) -> None:
        for each in fields(self):
            value, choices = getattr(self, each.name), each.metadata["choices"]
            if choices and value is not None and value not in choices:
                near = nearest(value, choices)
                raise ValueError(f"{each.name} cannot be {value!r}. Did you mean {near!r}? {', '.join(choices)}.")
        if self.min_part is not None and not 0 < self.min_part < 1:
            raise ValueError(f"min_part is the part of each layer's channels that stays, not {self.min_part:g}.")
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is the part to remove, between 0 and 1; {self.sparsity:g} is not.")
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name in ("seed", "prune_at") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise ValueError(f"{each.name} has to be {least} or more, not {value}.")
        for name, least in (("learning_rate", 0), ("clip_norm", 0), ("weight_decay", -1)):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > least):
                raise ValueError(f"{name} cannot be {getattr(self, name):g}.")
        method = earlycrop.get_method(self.method)
        several = isinstance(method.timing, AbstractPruningSchedule) and self.prune_at is None
        for name in ("rounds", "per_round"):
            if getattr(self, name) is not None and not several:
                raise ValueError(f"{self.method} cuts at one moment: leave out {name}.")
        if self.equal_budget and not (several and divisible(method)):
            raise ValueError(f"{self.method} is trained once, and has all epochs: leave out equal_budget.")
        if self.rounds is not None and self.per_round is not None:
            raise ValueError("rounds and per_round both say how much leaves in each cut: leave out one of them.")
        if self.prune_at is not None:
            if isinstance(method.timing, Rewinding | TickTock):
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
        if self.target in OF_SIZES and isinstance(method.units, Weights):
            raise ValueError(
                f"{self.method} masks weights, which makes no layer smaller: its target is weight or params, not "
                f"{self.target}. Or choose a method that removes channels."
            )
        pruning_method(self)  # complains of a reading that its score does not have

    def _check_budget(self) -> None:
        method = pruning_method(self)
        if self.budget < 1:
            raise TooShort(
                self,
                f"{self.epochs} epochs cannot be divided between the trainings of {self.method}: ask for more epochs, "
                "or leave out equal_budget.",
            )
        try:
            method.total_epochs(self.budget, self.sparsity)
        except ValueError as error:  # so short that it cannot be rewound
            raise TooShort(self, str(error)) from error
        if isinstance(method.timing, AbstractDetector) and (cap := method.timing.cap(self.epochs)) >= self.epochs:
            raise TooShort(
                self,
                f"{self.method} may watch until epoch {cap:g} and then needs epochs to train what is left: "
                f"epochs has to be more than {cap:g}, not {self.epochs}.",
            )

    def _default(self, name: str) -> Any:
        return next(each.default for each in fields(self) if each.name == name)

    @property
    def metric(self) -> Metric:
        """The figure that counts."""
        return self.metrics[0]

    @property
    def head(self) -> tuple[str | float, ...]:
        """What begins the folder's name: the data, the network, the method and how much it removes."""
        pruned = (self.sparsity,) if prunes(earlycrop.get_method(self.method)) else ()
        return (self.data, self.network, self.method, *pruned)

    @property
    def floor(self) -> int | float | None:
        """What each layer keeps: channels (int) or a fraction of them (float); None leaves it to the method."""
        return self.min_part or (None if self.min_channels == self._default("min_channels") else self.min_channels)

    @property
    def budget(self) -> int:
        """Epochs of one training: all that were asked for, unless they are to be divided between several."""
        if not self.equal_budget:
            return self.epochs
        method, fitting = pruning_method(self), 0
        for epochs in range(1, self.epochs + 1):
            try:
                if method.total_epochs(epochs, self.sparsity) <= self.epochs:
                    fitting = epochs
            except ValueError:  # too short to be rewound
                pass
        return fitting

    @property
    def total_epochs(self) -> int:
        """Everything that is trained."""
        return ceil(pruning_method(self).total_epochs(self.budget, self.sparsity))

    def usual(self) -> Self:
        """The same data, network, method and sparsity, with everything else as it is where nothing is said."""
        pruned: dict[str, Any] = {"sparsity": self.sparsity} if prunes(earlycrop.get_method(self.method)) else {}
        return type(self)(method=self.method, data=self.data, network=self.network, **pruned)

    def dense_twin(self) -> Self:
        """The same training without pruning."""
        return replace(self, method="dense", **{name: self._default(name) for name in PRUNING})


PRUNING = (
    *("sparsity", "target", "reading", "prune_at", "rounds", "per_round", "equal_budget"),
    *("round_to", "min_channels", "min_part", "optimizer_state", "bn_mode"),
)
"""The fields that mean nothing to a run that does not prune."""

OF_CHANNELS = ("round_to", "min_channels", "min_part")
"""Those that mean nothing to a run that masks weights."""

OF_SIZES = ("node", "flops")
"""The targets that only smaller layers can meet."""


def prunes(method: earlycrop.Method) -> bool:
    """Whether anything will ever leave."""
    return not isinstance(method.timing, Never)


def divisible(method: earlycrop.Method) -> bool:
    """Whether its trainings take more epochs than one budget, so that they can share one.

    >>> [divisible(earlycrop.get_method(name)) for name in ("ltr", "efficient-convnets", "crop-s-spread", "crop-s")]
    [True, True, False, False]
    """
    return method.total_epochs(LONG, 0.5) > LONG


LONG = 1000
"""Epochs of a budget that is long enough for any method."""


def pruning_method(d: Description) -> earlycrop.Method:
    """The method of the table, with another reading of CroP, moment or number of cuts if one was asked for."""
    method = earlycrop.get_method(d.method)
    if isinstance(method.score, Grasp) and not d.logits:
        method = replace(method, score=replace(method.score, temperature=1.0))
    if d.embeddings:
        method = replace(method, units=replace(method.units, embeddings=True))
    if d.reading is not None:
        method = method.reading(d.reading)
    if d.prune_at is not None:
        method = replace(method, timing=AtEpoch(d.prune_at))
    if d.per_round is not None:
        return replace(method, steps=Remaining(d.per_round))
    return method if d.rounds is None else replace(method, steps=Exponential(d.rounds))
