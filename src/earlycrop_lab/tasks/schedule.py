"""The learning rate of a run that is pruned on its way."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


class OneCycle:
    """The optimizer's own rate until `start`, from then on One-Cycle over the steps that remain.

    Args:
        optimizer: Whose rate it is.
        peak: The highest rate of the cycle.
    """

    def __init__(self, optimizer: Optimizer, peak: float):
        self.optimizer, self.peak = optimizer, peak
        self.cycle: OneCycleLR | None = None

    @property
    def started(self) -> bool:
        """Whether the cycle has begun."""
        return self.cycle is not None

    def start(self, steps: int) -> None:
        """Begin the cycle, of so many steps."""
        self.cycle = OneCycleLR(self.optimizer, max_lr=self.peak, total_steps=steps)

    def step(self) -> None:
        """After each step of the optimizer."""
        if self.cycle is not None:
            self.cycle.step()

    def state_dict(self) -> dict[str, Any]:
        """Where the cycle is; empty before it starts."""
        return {} if self.cycle is None else self.cycle.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the optimizer's own state, its rates, is to be loaded after it."""
        if state:
            self.start(state["total_steps"])
            assert self.cycle is not None
            self.cycle.load_state_dict(state)
