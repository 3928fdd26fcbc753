"""The kernel settles: the empirical NTK hardly changes from one look to the next (ours)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, Observed


@dataclass(frozen=True)
class NtkSettled(AbstractDetector):
    """‖K(t) − K(t−1)‖_F / ‖K(t−1)‖_F < tolerance for the empirical NTK K = J Jᵀ on a few training samples (ours).

    Each look costs about two backward passes over these samples for every one of their outputs; a network with an
    output for every pixel or word has too many, so only some of them are taken.

    Args:
        tolerance: The relative change of the kernel below which it counts as settled.
        samples: How many samples, from the beginning of the scoring set.
        outputs: The most outputs that are taken, over all samples together (the default suffices for 8 samples of 256
            classes); if there are more, that many are taken, spread evenly.

    Raises:
        ValueError: an option is out of range.
    """

    tolerance: float = 0.1
    samples: int = 8
    outputs: int = 2048

    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"`samples` counts training samples, at least 1; found {self.samples}.")
        if self.outputs < 1:
            raise ValueError(f"`outputs` counts outputs of the network, at least 1; found {self.outputs}.")

    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The kernel's relative change from look to look."""
        return KernelChange(lambda: observed.kernel(self.samples, self.outputs))

    def signal(self, curve: Sequence[float]) -> list[float]:
        """The relative change at each look."""
        return list(curve)

    def threshold(self, sparsity: float) -> float:
        """The tolerance: the signal must fall below it."""
        return self.tolerance


class KernelChange(AbstractInstrument):
    """The kernel's relative change since the last look, ‖K(t) − K(t−1)‖_F / ‖K(t−1)‖_F.

    Args:
        kernel: Computes K now.
    """

    def __init__(self, kernel: Callable[[], Tensor]) -> None:
        self._kernel = kernel
        self._last: Tensor | None = None

    def read(self, epoch: float) -> float | None:
        """The relative change; None at the first look."""
        before, self._last = self._last, self._kernel().double().cpu()
        if before is None:
            return None
        return float(torch.linalg.norm(self._last - before) / torch.linalg.norm(before).clamp_min(1e-300))

    def state_dict(self) -> dict[str, Any]:
        """The kernel of the last look."""
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the saved kernel."""
        self._last = state["last"]
