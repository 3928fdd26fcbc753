"""Where a cut starves the network: layers that are left far narrower than the others, outputs that stand still.

In a balanced network the scores of every layer have a similar sum (the synaptic saliency that layer-wise conservation
laws describe; Tanaka et al., 2020), so no layer is left much narrower than the rest. If the scores lose that balance,
one shot may leave a layer a single channel, and everything that the network computes goes through one number.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlycrop.evaluation import MeanLoss

WIDE = 10
"""Layers of fewer units are never called starved: a cut of 4 channels to 1 is as even as one can be."""

FAR_BELOW = 1 / 3
ALMOST_NOTHING = 1 / 100
STILL = 1 / 100


class StarvationWarning(UserWarning):
    """A cut left layers, or outputs, through which hardly any signal passes; the cut is done all the same."""


@dataclass(frozen=True)
class Bottleneck:
    """A layer that a cut starves.

    Attributes:
        layer: Its name.
        before: Its output channels before the cut, or its weights where single weights leave.
        after: How many of them are left.
        why: What is unusual about it, in words.
    """

    layer: str
    before: int
    after: int
    why: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.why}"


def bottlenecks(
    widths: Iterable[tuple[str, int, int]], density: float, unit: str, shares: Sequence[float | None] = ()
) -> tuple[Bottleneck, ...]:
    """The layers that a cut starves.

    A layer of at least ten channels is starved if a single one is left; or if both its kept part is below a third of
    √density, the part that an even cut leaves of each layer, and its width is below a third of the median width that is
    left. Where single weights leave, a layer of at least ten is starved if none is left, or if its kept part is below a
    hundredth of the density.

    >>> widths = [("conv", 64, 40), ("fc1", 512, 5), ("fc2", 512, 38), ("head", 10, 10)]
    >>> for one in bottlenecks(widths, 0.05, "channels"):
    ...     print(one)
    fc1: 5 of 512 channels, where an even cut leaves 114 and the median layer has 24

    Args:
        widths: For each layer its name and its width before and after: output channels, or weights.
        density: The part of the prunable weights that is left.
        unit: `channels` or `weights`.
        shares: For each layer its units' part of the sum of all scores, if known. It decides nothing, because scores
            may be out of balance while an allocation or a floor keeps the widths; but it shows the cause.
    """
    rows = list(widths)
    if not rows:
        return ()
    middle = median(after for _, _, after in rows)
    even = math.sqrt(density) if unit == "channels" else density
    found = []
    for number, (layer, before, after) in enumerate(rows):
        why = _starved_of_channels if unit == "channels" else _starved_of_weights
        if after != before and before >= WIDE and (reason := why(before, after, even, middle)) is not None:
            share = shares[number] if shares else None
            note = "" if share is None else f", with {share:.2g} of the score's sum over {len(rows)} layers"
            found.append(Bottleneck(layer, before, after, reason + note))
    return tuple(found)


def _starved_of_channels(before: int, after: int, even: float, middle: float) -> str | None:
    """What is unusual about a layer that loses channels; None if nothing is.

    Args:
        before: Its channels before the cut.
        after: Its channels after it.
        even: The part of each layer that an even cut leaves.
        middle: The width of the median layer after the cut.
    """
    if after == 1:
        return f"a single channel of {before:,}"
    if after < FAR_BELOW * even * before and after < FAR_BELOW * middle:
        return (
            f"{after:,} of {before:,} channels, where an even cut leaves {even * before:,.0f} and the median layer "
            f"has {middle:,.0f}"
        )
    return None


def _starved_of_weights(before: int, after: int, even: float, _middle: float) -> str | None:
    """What is unusual about a layer that loses weights, of which an even cut leaves the part `even`; None: nothing."""
    if after and after >= ALMOST_NOTHING * even * before:
        return None
    return f"{after:,} of {before:,} weights, where an even cut leaves {even * before:,.0f}"


def variation(loss: MeanLoss) -> float | None:
    """How far the model's outputs differ between samples: their deviation over samples, relative to their size.

    Taken from the outputs that one forward pass over one micro-batch of the scoring set gives, with norms that use the
    batch's own statistics, so that it does not matter whether running ones are stale.

    Returns:
        √(mean variance over samples / mean square), between 0 and 1; None where the model gives no tensor whose first
        dimension counts samples, where the loss does not call it, or where it cannot be run so.
    """
    model = loss.model
    if loss.ranks.size > 1 and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        return None  # the norm would wait for other ranks
    seen: list[Any] = []
    value = math.nan
    with suppress(Exception):  # a missing measurement is no reason for a cut to fail
        batch, samples = next(iter(loss.batches()))
        alone = MeanLoss(model, loss.loss, loss.set, bn_mode="batch")
        handle = model.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs))
        try:
            with alone.scoring(()), torch.no_grad():
                alone.loss(model, batch)
        finally:
            handle.remove()
        if samples > 1:
            value = _relative_deviation(seen[-1], samples)  # earlier calls asked how the loss is asked
    return value if math.isfinite(value) else None


def remaining(before: float | None, after: float | None) -> float | None:
    """The part of the outputs' variation that a cut leaves; None if it was not measured, or was zero before."""
    return after / before if before and after is not None else None


def still(part: float | None) -> bool:
    """Whether outputs hardly depend on the input any more: less than one percent of their variation is left."""
    return part is not None and part < STILL


def summary(found: Sequence[Bottleneck], shown: int = 3) -> str:
    """The first `shown` of these layers in a few words.

    >>> summary([Bottleneck(name, 64, 1, "a single channel of 64") for name in "abcde"])
    'a (1 of 64), b (1 of 64), c (1 of 64) and 2 more'
    """
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(f"{one.layer} ({one.after:,} of {one.before:,})" for one in found[:shown]) + more


def remedy(unit: str, scored: bool = True) -> str:
    """What helps against starvation, the surest remedy first.

    Args:
        unit: `weights` or `channels`.
        scored: Whether the method scores by a loss on data, hence through the network's norms.

    >>> remedy("channels")
    'give every layer a floor (`min_channels=0.1`), score with `bn_mode="scaled"` if not done yet, or remove less'
    >>> remedy("weights", scored=False)
    'give every layer the same part (`allocation=Uniform()`), or remove less'
    """
    floor = "a floor (`min_channels=0.1`)" if unit == "channels" else "the same part (`allocation=Uniform()`)"
    norms = 'score with `bn_mode="scaled"` if not done yet, ' if scored else ""
    return f"give every layer {floor}, {norms}or remove less"


def complaint(
    method: str, unit: str, found: Sequence[Bottleneck], part: float | None, scored: bool = True
) -> str | None:
    """The text of a warning about a cut; None if all is well.

    Args:
        method: The method's name.
        unit: `weights` or `channels`.
        found: The starved layers.
        part: The part that is left of the outputs' variation, None if not measured.
        scored: Whether the method scores by a loss on data.
    """
    what = []
    if found:
        what.append(f"{len(found)} layer{'s' if len(found) > 1 else ''} starved of {unit}: {summary(found)}")
    if still(part):
        what.append(f"outputs that hardly depend on the input: {part:.2%} of their variation over samples is left")
    if not what:
        return None
    return f"{method} leaves {', and '.join(what)}. Its training may not recover: {remedy(unit, scored)}."


def _relative_deviation(outputs: Any, samples: int) -> float:
    """√(mean variance over samples / mean square) of the first float tensor that has a row for each sample."""
    tensor = next(
        leaf.to(torch.promote_types(leaf.dtype, torch.float32))
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim and leaf.shape[0] == samples
    )
    return math.sqrt(float(tensor.var(0, correction=0).mean()) / float(tensor.square().mean()))
