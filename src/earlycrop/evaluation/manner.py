"""How a loss has to be asked: in which mode the model gives it, and whether a batch may be worked through in parts.

Both are found out once for a scoring set, with forward passes alone: on one batch of each kind whether the model gives
the loss at all, and on the first whether it may be worked through in parts.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.errors import ScoreError
from earlycrop.evaluation.scoring_set import ScoringSet
from earlycrop.structure.trace import to_training

CLOSE = 1e-4
"""The relative difference up to which the mean loss of the parts of a batch counts as the loss of the batch; in units
of single precision it is a thousand roundings."""


@dataclass(frozen=True)
class Manner:
    """How the loss is asked.

    Attributes:
        training: In training mode (norms and dropout apart), for a model that gives its loss only there.
        whole: On the batches as they were given, for a loss that is no mean over samples: contrastive losses, losses of
            pairs, means over the labels that are not ignored, graphs.
    """

    training: bool = False
    whole: bool = False


def manner_of(
    model: nn.Module, loss: Callable[[Any], object], batches: ScoringSet, training: bool | None, parts: bool
) -> Manner:
    """Ask the loss of a batch of each kind, and of the halves of the first.

    Args:
        model: In evaluation mode; left in the mode that was found.
        loss: Maps a batch to the loss, with this model.
        batches: The scoring set.
        training: The mode, if it is known.
        parts: Whether batches are to be worked through in parts at all.

    Raises:
        ScoreError: the loss fails on a batch of another kind than the first; names it.
        Exception: whatever the loss raises on the first.
    """
    with torch.no_grad():
        if training:
            to_training(model)
        try:
            found = _asked(loss, batches)
        except Exception as error:
            if training is not None:
                raise
            training = True
            to_training(model)
            try:
                found = _asked(loss, batches)
            except Exception:
                raise error from error.__cause__
        whole = parts and not _averages(loss, batches.halves(), found)
    return Manner(bool(training), whole)


def _asked(loss: Callable[[Any], object], batches: ScoringSet) -> object:
    """The loss of the first batch, once it could be computed for one of each kind."""
    (_, first), *others = batches.kinds()
    found = loss(first)
    for number, batch in others:
        try:
            loss(batch)
        except Exception as error:  # whatever the user's code raises
            raise ScoreError(
                f"The loss fails on batch {number} of the scoring set, which is unlike the first: "
                f"{type(error).__name__}: {error}. Check this batch, and that the loss and the model can take it."
            ) from error
    return found


def _averages(loss: Callable[[Any], object], halves: Sequence[tuple[Any, int]], whole: object) -> bool:
    """Whether the mean loss of the halves is that of the whole; there are none where the batch cannot be cut."""
    if not halves or not isinstance(whole, Tensor) or whole.numel() != 1:
        return True  # what the loss returns is for others to complain of
    total = sum(samples for _, samples in halves)
    with suppress(Exception):  # a batch that cannot be cut so
        mean = sum(float(loss(half)) * samples for half, samples in halves) / total  # type: ignore[arg-type]
        # a loss that is not finite passes here, and is refused where it is differentiated
        return not abs(mean - float(whole)) > CLOSE * max(abs(float(whole)), 1e-6)
    return False
