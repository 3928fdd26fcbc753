"""Early-Bird tickets: the moment when the units that would be kept hardly change any more (You et al., 2020)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, Observed, Phase


@dataclass(frozen=True)
class EarlyBird(AbstractDetector):
    """The newest of `window` masks differs from each of the others in at most the part ε of the entries.

    This is the Hamming distance over all units (You et al., 2020). Two random masks that keep a part s differ in about
    2 s (1 − s) of the entries, so at high sparsity most entries agree trivially. The penalty λ Σ|γ| on the scales of
    the norms drives apart what stays and what leaves; it acts before the cut and after it.

    Args:
        distance: ε.
        window: The number of masks that are compared, the newest included.
        penalty: λ.

    Raises:
        ValueError: an option is out of range.
    """

    distance: float = 0.1
    window: int = 5
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 2:
            raise ValueError(f"`window` counts the masks that are compared, at least 2; found {self.window}.")
        if self.penalty < 0:
            raise ValueError(f"`penalty` cannot be negative; found {self.penalty}.")

    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The distance between the masks of the last looks."""
        return MaskDistance(observed.choose, self.window)

    def signal(self, curve: Sequence[float]) -> list[float]:
        """The largest distance of the newest mask from an older one; nan until the window is full.

        Args:
            curve: That distance from the masks there were, at each look from the second on.

        >>> EarlyBird(window=3).signal([0.2, 0.1, 0.05])
        [nan, 0.1, 0.05]
        """
        return [math.nan if n < self.window - 2 else distance for n, distance in enumerate(curve)]

    def threshold(self, sparsity: float) -> float:
        """ε; a distance of exactly ε counts."""
        return self.distance + 1e-12

    def cap(self, epochs: float | None) -> float:
        """`max_epochs`, or a quarter of the budget, but not before the window can be full."""
        return max(super().cap(epochs), self.interval * self.window) if self.max_epochs is None else self.max_epochs

    def phase(self, epoch: float, epochs: float | None, cuts: int) -> Phase:
        """The penalty, during the whole training."""
        return Phase(penalty=self.penalty)


class MaskDistance(AbstractInstrument):
    """The largest part of the entries in which the newest mask differs from one of the others in the window.

    Args:
        choose: Scores and returns what would stay.
        window: The number of masks that are remembered, the newest included.
    """

    def __init__(self, choose: Callable[[], Tensor], window: int) -> None:
        self._choose, self._window = choose, window
        self._masks: list[Tensor] = []

    def read(self, epoch: float) -> float | None:
        """The distance; None at the first look."""
        self._masks = [*self._masks, self._choose().cpu()][-self._window :]
        newest = self._masks[-1]
        return max((float((newest ^ mask).double().mean()) for mask in self._masks[:-1]), default=None)

    def state_dict(self) -> dict[str, Any]:
        """The masks in the window."""
        return {"masks": torch.stack(self._masks) if self._masks else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the saved masks."""
        self._masks = [] if state["masks"] is None else list(state["masks"])
