"""Moments that are known in advance: never, before training, after an epoch."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractTiming, Now, Reason


@dataclass(frozen=True)
class Never(AbstractTiming):
    """Never prunes: the dense network."""

    def cuts(self, steps: int) -> int:
        """0, however many steps there are."""
        return 0

    def reason(self, now: Now) -> Reason | None:
        """None, as it never prunes."""
        return None


@dataclass(frozen=True)
class AtInit(AbstractTiming):
    """Prunes at the first check, before training (as SNIP, GraSP and CroP do)."""

    def reason(self, now: Now) -> Reason | None:
        """`init`, at every epoch."""
        return "init"


@dataclass(frozen=True)
class AtEpoch(AbstractTiming):
    """Prunes after a given number of epochs.

    Args:
        epoch: Epochs of dense training; may be a fraction.

    Raises:
        ValueError: `epoch` is negative.
    """

    epoch: float

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ValueError(f"`epoch` counts epochs of dense training and cannot be negative; found {self.epoch}.")

    def reason(self, now: Now) -> Reason | None:
        """`epoch`, once that many epochs are finished."""
        return "epoch" if now.epoch >= self.epoch - 1e-9 else None
