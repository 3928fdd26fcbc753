"""The lazy kernel regime: the moment when the weights stop moving away from their start (Rachwan et al., 2022)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, Now, Observed, Reason


@dataclass(frozen=True)
class LazyRegime(AbstractDetector):
    """|Δ(t) − Δ(t−1)| / |Δ(1)| < τ with Δ(t) = ‖θ(t) − θ(0)‖² / ‖θ(0)‖² (Rachwan et al., 2022).

    The rule needs a constant learning rate: under a schedule it sees the schedule. If no weight has moved by the first
    look, it prunes there, for the reason `static`.

    Args:
        tau: τ; default: one minus the requested sparsity, at least 0.01.
        power: 2 in the poster; 1, the unsquared distance, in the authors' code.
        reference: θ(0): the weights when the pruner was created (`init`), or after the first epoch (`epoch1`, as in the
            code).
        params: What θ is: the `prunable` weights, or `all` parameters (as in the code).

    Raises:
        ValueError: an option is out of range.
    """

    tau: float | None = None
    power: int = 2
    reference: Literal["init", "epoch1"] = "init"
    params: Literal["prunable", "all"] = "prunable"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau is not None and self.tau <= 0:
            raise ValueError(f"`tau` must be positive, or the rule can never fire; found {self.tau}.")
        if self.power not in (1, 2):
            raise ValueError(f"`power` is 1 (the distance) or 2 (its square); found {self.power}.")
        if self.reference not in ("init", "epoch1"):
            raise ValueError(f"`reference` is 'init' or 'epoch1'; found {self.reference!r}.")
        if self.params not in ("prunable", "all"):
            raise ValueError(f"`params` is 'prunable' or 'all'; found {self.params!r}.")

    def instrument(self, observed: Observed) -> AbstractInstrument:
        """The drift r(t) of the parameters that `params` selects."""
        return Drift(lambda: observed.parameters(self.params), from_epoch=1 if self.reference == "epoch1" else 0)

    def signal(self, curve: Sequence[float]) -> list[float]:
        """|Δ(t) − Δ(t−1)| / |Δ(1)| at each look; nan at the first.

        Args:
            curve: r(t) = ‖θ(t) − θ(0)‖ / ‖θ(0)‖, unsquared.

        >>> LazyRegime(power=1).signal([1.0, 1.5, 1.75])
        [nan, 0.5, 0.25]
        """
        moves = [abs(after - before) for before, after in pairwise([0.0, *(r**self.power for r in curve)])]
        return [math.nan, *(move / moves[0] if moves[0] else math.nan for move in moves[1:])][: len(moves)]

    def threshold(self, sparsity: float) -> float:
        """τ: the signal must fall below it."""
        return self.tau if self.tau is not None else max(1 - sparsity, 0.01)

    def reason(self, now: Now) -> Reason | None:
        """`trigger`, `cap`, or `static`: nothing moves, so waiting would show nothing."""
        return "static" if now.curve and now.curve[0] == 0 else super().reason(now)


class Drift(AbstractInstrument):
    """r(t) = ‖θ(t) − θ(0)‖ / ‖θ(0)‖ over some parameters, accumulated in float64.

    Args:
        parameters: Returns the present parameters by name.
        from_epoch: The reference θ(0) is taken at the first look at or after this epoch; 0: at once.
    """

    def __init__(self, parameters: Callable[[], dict[str, Tensor]], from_epoch: float = 0) -> None:
        self._parameters, self._from = parameters, from_epoch
        self._reference = self._snapshot() if from_epoch <= 0 else None

    def read(self, epoch: float) -> float | None:
        """r(t) now; None until the reference has been taken, and at the look that takes it."""
        if self._reference is None:
            if epoch >= self._from - 1e-9:
                self._reference = self._snapshot()
            return None
        moved = start = 0.0
        for name, now in self._parameters().items():
            then = self._reference[name].to(now.device)
            moved += float((now.detach().double() - then.double()).square().sum())
            start += float(then.double().square().sum())
        return math.sqrt(moved / start) if start else math.sqrt(moved)

    def state_dict(self) -> dict[str, Any]:
        """The reference weights θ(0)."""
        return {"reference": self._reference}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the saved θ(0)."""
        self._reference = state["reference"]

    def _snapshot(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: parameter.detach().clone() for name, parameter in self._parameters().items()}
