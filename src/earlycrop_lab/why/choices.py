"""What a score's choice is worth at fixed widths.

A cut decides two things: how wide each layer becomes, and which of its units stay. `chosen` keeps the widths that a
method leaves, and fills them by the method's own score, at random, by the opposite of the score, and by other scores.
The dense epochs before the cut are trained once and shared; the epochs after it are the same for all. So any difference
in the end is due to the choice.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from statistics import fmean
from time import perf_counter

import torch
from torch.nn import functional as F

import earlycrop
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import BatchNormMode, MeanLoss
from earlycrop.scores import (
    AbstractScore,
    Crop,
    CropMixed,
    FilterNorm,
    Grasp,
    Inverted,
    Magnitude,
    NormScale,
    PathNorm,
    Random,
    Snip,
    SynFlow,
)
from earlycrop.starvation import remaining, variation
from earlycrop.steps import OneShot
from earlycrop.timing import AbstractDetector, AbstractPruningSchedule, Never
from earlycrop.units import Channels
from earlycrop.widths import WidthsOf
from earlycrop_lab.reporting.columns import spread_percent
from earlycrop_lab.reporting.differences import Difference
from earlycrop_lab.reporting.numbers import NONE
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import pruning_method
from earlycrop_lab.why.branches import Branch, Seen, Stem, grown
from earlycrop_lab.why.independence import Independence

Key = tuple[float, int, str]

OF_CHANNELS: tuple[AbstractScore, ...] = (
    *(Crop(), CropMixed(), Snip(), Grasp()),
    *(Magnitude(), FilterNorm(), NormScale(), PathNorm()),
)
OF_WEIGHTS: tuple[AbstractScore, ...] = (Crop(), Snip(), Grasp(), Magnitude(), SynFlow())
"""The scores that are compared with the method's own."""

CHANCE = "Random"


@dataclass(frozen=True)
class Choice:
    """The result of one choice inside the widths of a method.

    Args:
        method: The method whose widths are used.
        sparsity: The requested sparsity.
        seed: Seed of the initial weights.
        epoch: The epoch of the cut.
        epochs: All epochs.
        choice: The score that chose, and the mode of norms during scoring if it is not the method's.
        own: Whether this is the method's own choice.
        widths: By layer, the output channels or weights kept.
        accuracy: Test accuracy after the last epoch.
        cut_accuracy: Accuracy on the scoring set right after the cut, with norms on the statistics of each batch.
        cut_loss: Loss on the scoring set right after the cut, likewise.
        variation: The fraction of the outputs' variation between samples that is left right after the cut.
        independence: Independence of the kept channels right after the cut, see `Independence`.
        seconds: Seconds from the cut to the end.
    """

    method: str
    sparsity: float
    seed: int
    epoch: int
    epochs: int
    choice: str
    own: bool
    widths: dict[str, int]
    accuracy: float
    cut_accuracy: float
    cut_loss: float
    variation: float | None
    independence: float | None
    seconds: float

    @property
    def key(self) -> Key:
        """Its key among the records of one question: sparsity, seed and choice."""
        return self.sparsity, self.seed, self.choice


def usual_epoch(d: Classification) -> int:
    """The default epoch of the cut: 0, or for a method with a detector its cap.

    >>> usual_epoch(Classification(method="earlycrop-s", epochs=12)), usual_epoch(Classification(method="crop-s"))
    (3, 0)
    """
    timing = pruning_method(d).timing
    return min(ceil(timing.cap(d.epochs)), d.epochs - 1) if isinstance(timing, AbstractDetector) else 0


def in_widths(method: earlycrop.Method) -> earlycrop.Method:
    """The method with its widths separated from its choice: the widths that it leaves, filled in one shot.

    >>> in_widths(earlycrop.get_method("crop-s-poster")).allocation
    WidthsOf(score=Crop(), steps=OneShot(), allocation=Global(), taken='cut')

    Raises:
        ValueError: The method does not cut exactly once.
    """
    if isinstance(method.timing, Never | AbstractPruningSchedule):
        raise ValueError(f"{method.name} does not cut at one moment, so it has no widths to choose in.")
    if isinstance(method.allocation, WidthsOf):
        return method
    return replace(method, allocation=WidthsOf(method.score, method.steps, method.allocation, "cut"), steps=OneShot())


def choices(method: earlycrop.Method) -> dict[str, earlycrop.Method]:
    """By name, the method with each choice inside its widths: its own first, then random, its opposite, other scores.

    Where the method sets a mode of norms during scoring, scores that use data choose twice: in that mode, and with
    norms as they are.
    """
    own = in_widths(method)
    others = OF_CHANNELS if isinstance(method.units, Channels) else OF_WEIGHTS
    found: dict[str, earlycrop.Method] = {}
    for score in (own.score, Random(), Inverted(own.score), *others):
        name = _name(score)
        found.setdefault(name, replace(own, score=score))
        if method.bn_mode != "auto" and score.needs_data:
            mode: BatchNormMode = "auto"
            found.setdefault(f"{name}, norms as they are", replace(own, score=score, bn_mode=mode))
    return found


def _name(score: AbstractScore) -> str:
    """The name of a score's choice, with the score's options where they are not the defaults.

    >>> _name(Grasp()), _name(Grasp(temperature=1.0)), _name(Inverted(Crop()))
    ('Grasp', 'Grasp(temperature=1.0, inverted=False)', 'opposite of Crop')
    """
    if isinstance(score, Inverted):
        return f"opposite of {_name(score.of)}"
    return type(score).__name__ if score == type(score)() else repr(score)


def chosen(
    d: Classification,
    epoch: int,
    sparsities: Sequence[float],
    *,
    done: Collection[Key] = (),
    root: str | None = None,
    device: str = "cpu",
    watch: Callable[[Branch], None] | None = None,
) -> Iterator[Choice]:
    """Cut at an epoch with each choice, and train each to the end.

    Args:
        d: The method, the network, the data, the budget and the seed.
        epoch: The epoch of the cut; the epochs before it are trained once.
        sparsities: Fractions to remove.
        done: Keys of choices that need not be computed again.
        root: The folder of the data sets.
        device: The device to train on.
        watch: Called with each branch right after its cut.

    Raises:
        ValueError: The method does not cut exactly once, or the epoch is not within the budget.
    """
    if not 0 <= epoch < d.epochs:
        raise ValueError(f"The cut has to come at an epoch from 0 to {d.epochs - 1}, not at {epoch}.")
    variants = choices(pruning_method(d))
    asked = {s: [name for name in variants if (s, d.seed, name) not in done] for s in sparsities}
    if not any(asked.values()):
        return
    own = next(iter(variants.values()))
    stem, looked = _grown(d, epoch, sparsities, own, root, device)
    before = variation(_loss(stem))
    for sparsity, names in asked.items():
        for name in names:
            began = perf_counter()
            branch = _cut(stem, replace(d, sparsity=sparsity), variants[name], own, looked[sparsity])
            if branch is None:
                continue
            if watch is not None:
                watch(branch)
            accuracy, loss, independence = _right_after(branch)
            after = variation(_loss(branch))
            yield Choice(
                method=d.method,
                sparsity=sparsity,
                seed=d.seed,
                epoch=epoch,
                epochs=d.epochs,
                choice=name,
                own=variants[name] is own,
                widths={width.layer: width.after for width in branch.report.widths},
                cut_accuracy=accuracy,
                cut_loss=loss,
                variation=remaining(before, after),
                independence=independence,
                accuracy=branch.finish(),
                seconds=perf_counter() - began,
            )


def _grown(
    d: Classification, epoch: int, sparsities: Sequence[float], own: earlycrop.Method, root: str | None, device: str
) -> tuple[Stem, dict[float, Seen]]:
    """The dense training until the cut, and for each sparsity the pruner's state when the method decides its widths."""
    looked: dict[float, Seen] = {}
    stem = None
    for stem in grown(d, epoch, root, device):
        if stem.epoch == (0 if own.widths_first else epoch):
            shared = replace(own, allocation=_taken(own))
            looked = {sparsity: stem.look(replace(d, sparsity=sparsity), shared) for sparsity in sparsities}
    assert stem is not None
    return stem, looked


def _cut(stem: Stem, d: Classification, variant: earlycrop.Method, own: earlycrop.Method, seen: Seen) -> Branch | None:
    """A copy cut with that choice; None if the choice needs norms and the network has none."""
    norms = any(hasattr(module, "running_mean") for module in stem.setup.model.modules())
    if variant.bn_mode != own.bn_mode and not norms:
        return None
    try:
        return stem.cut(d, replace(variant, allocation=_taken(variant)), seen)
    except EarlyCropError:
        if variant.score.needs_norms:
            return None
        raise


def _taken(method: earlycrop.Method) -> WidthsOf:
    """The method's widths as decided at a first check, wherever that is, so that they are computed once and shared."""
    assert isinstance(method.allocation, WidthsOf)
    return replace(method.allocation, taken="first")


def _loss(of: Stem | Branch) -> MeanLoss:
    return MeanLoss(of.setup.model, of.setup.loss, of.setup.scoring_now(), bn_mode="batch")


def _right_after(branch: Branch) -> tuple[float, float, float | None]:
    """Accuracy and loss on the scoring set, and the mean independence of the layers that lost something."""
    model = branch.setup.model
    modules = dict(model.named_modules())
    lost = [width.layer for width in branch.report.widths if width.after < width.before]
    layers = [(modules[name], Independence()) for name in lost if name in modules]
    handles = [module.register_forward_hook(each.see) for module, each in layers]
    hits = loss = seen = 0
    try:
        with _loss(branch).scoring(()), torch.no_grad():
            for x, y in branch.setup.scoring_now():
                logits = model(x)
                hits += int((logits.argmax(1) == y).sum())
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
                seen += len(y)
    finally:
        for handle in handles:
            handle.remove()
    parts = [value for _, each in layers if (value := each.value) is not None]
    return hits / seen, loss / seen, fmean(parts) if parts else None


HEADINGS = ("choice", "accuracy", "n", "more than by chance, points", "verdict", "right after the cut", "independence")


def against_chance(found: Sequence[Choice], name: str, sparsity: float) -> Difference | None:
    """How much better a choice is than a random one in the same widths; None for the random choice, and without it."""
    mine, theirs = (
        tuple(each.accuracy for each in found if each.sparsity == sparsity and each.choice == which)
        for which in (name, CHANCE)
    )
    return Difference(Classification.metrics[0], mine, theirs) if mine and theirs and name != CHANCE else None


def ranked(found: Sequence[Choice], sparsity: float) -> list[str]:
    """The names of the choices, the best first."""
    accuracies: dict[str, list[float]] = {}
    for each in found:
        if each.sparsity == sparsity:
            accuracies.setdefault(each.choice, []).append(each.accuracy)
    return sorted(accuracies, key=lambda name: -fmean(accuracies[name]))


def markdown(found: Sequence[Choice]) -> str:
    """A Markdown table for each sparsity, the best choice first."""
    parts = []
    for sparsity in sorted({each.sparsity for each in found}):
        first = next(each for each in found if each.sparsity == sparsity)
        lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1))]
        for name in ranked(found, sparsity):
            some = [each for each in found if each.sparsity == sparsity and each.choice == name]
            difference = against_chance(found, name, sparsity)
            lines.append(
                (
                    name + " (its own)" * some[0].own,
                    spread_percent([each.accuracy for each in some]),
                    str(len(some)),
                    NONE if difference is None else difference.text.replace(" points", ""),
                    NONE if difference is None else difference.verdict,
                    spread_percent([each.cut_accuracy for each in some]),
                    _mean([each.independence for each in some]),
                )
            )
        when = f"cut after {first.epoch} of {first.epochs} epochs"
        parts.append(
            f"**The widths of {first.method} at {100 * sparsity:g} %, {when}**"
            + "\n\n"
            + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        )
    return "\n\n".join([*parts, HOW]) + "\n"


HOW = (
    "Accuracy: test images, after the last epoch, mean ± sample standard deviation over n seeds. More than by chance: "
    "with Welch's 95 % interval. Right after the cut: accuracy on the scoring set before any further training, norms "
    "on the statistics of each batch. Independence: 1 where the kept channels are uncorrelated."
)


def _mean(values: Sequence[float | None]) -> str:
    had = [value for value in values if value is not None and isfinite(value)]
    return f"{fmean(had):.2f}" if had else NONE
