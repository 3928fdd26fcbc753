"""The ranking settles: two scorings in a row would keep nearly the same units (ours)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, Observed


@dataclass(frozen=True)
class ScoreSettled(AbstractDetector):
    """1 − |A ∩ B| / |A| ≤ tolerance, A and B being what two consecutive scorings keep at the target (ours).

    Each look costs one scoring.

    Args:
        tolerance: The part of the kept units that may change.
    """

    tolerance: float = 0.1

    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The overlap between what two looks in a row would keep."""
        return Overlap(observed.choose)

    def signal(self, curve: Sequence[float]) -> list[float]:
        """1 − overlap at each look."""
        return [1 - overlap for overlap in curve]

    def threshold(self, sparsity: float) -> float:
        """The tolerance; a change of exactly that much counts."""
        return self.tolerance + 1e-12


class Overlap(AbstractInstrument):
    """|A ∩ B| / |A| for the keep-sets A, B of this look and the one before.

    Args:
        choose: Scores and returns what would stay.
    """

    def __init__(self, choose: Callable[[], Tensor]) -> None:
        self._choose = choose
        self._last: Tensor | None = None

    def read(self, epoch: float) -> float | None:
        """The overlap; None at the first look."""
        before, self._last = self._last, self._choose().cpu()
        return None if before is None else int((before & self._last).sum()) / max(int(before.sum()), 1)

    def state_dict(self) -> dict[str, Any]:
        """The keep-set of the last look."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the saved keep-set."""
        self._last = state["last"]
