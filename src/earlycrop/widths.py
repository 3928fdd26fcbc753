"""Widths and choice, separated: one ranking over all layers decides both how wide each becomes and which units stay."""

from dataclasses import dataclass
from typing import Literal

from earlycrop.allocation import Global, Sharing
from earlycrop.scores import AbstractScore
from earlycrop.steps import Steps


@dataclass(frozen=True)
class WidthsOf:
    """Each layer keeps as many units as another scoring would leave it; the method's own score chooses which.

    Args:
        score: The score that decides the widths (for weights: how many of them each layer keeps).
        steps: In how many steps it removes units; its cuts are undone afterwards.
        allocation: How this scoring shares the budget between layers.
        taken: When it is applied: `first`, at the pruner's first check, before training; or `cut`, at each cut, for
            that cut's sparsity.

    Raises:
        ValueError: `taken` is something else.
    """

    score: AbstractScore
    steps: Steps
    allocation: Sharing = Global()  # noqa: RUF009 - frozen, without state
    taken: Literal["first", "cut"] = "first"

    def __post_init__(self) -> None:
        if self.taken not in ("first", "cut"):
            raise ValueError(f"`taken` is 'first' (at the first check) or 'cut'; found {self.taken!r}.")


Allocation = Sharing | WidthsOf
