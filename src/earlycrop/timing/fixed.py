"""Moments that nobody has to look for."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractTiming, Now, Reason


@dataclass(frozen=True)
class Never(AbstractTiming):
    """The dense network."""

    def cuts(self, steps: int) -> int:
        """None."""
        return 0

    def reason(self, now: Now) -> Reason | None:
        """None."""
        return None


@dataclass(frozen=True)
class AtInit(AbstractTiming):
    """At the first check, before training."""

    def reason(self, now: Now) -> Reason | None:
        """At once."""
        return "init"


@dataclass(frozen=True)
class AtEpoch(AbstractTiming):
    """After so many epochs.

    Args:
        epoch: Epochs of dense training; may be a fraction.
    """

    epoch: float

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ValueError(f"`epoch` counts epochs of dense training; found {self.epoch}.")

    def latest(self, epochs: float | None) -> float:
        """That epoch."""
        return self.epoch

    def reason(self, now: Now) -> Reason | None:
        """Once they are over."""
        return "epoch" if now.epoch >= self.epoch - 1e-9 else None
