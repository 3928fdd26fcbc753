"""Tick-Tock: after training, channels leave a few at a time, in short trainings of the gates (You et al., 2019)."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractPruningSchedule, Phase


@dataclass(frozen=True)
class TickTock(AbstractPruningSchedule):
    """Train in full; a Tock; then Ticks, each followed by a cut, with a Tock after every few; then tune what is left.

    In a Tick, convolutions and linear layers are frozen while the gates learn and are judged. In a Tock everything
    learns, with the penalty λ Σ|φ| on the gates. The original has, for a budget of 160 epochs, Ticks of one epoch,
    Tocks of 10 and a tuning of 40 (You et al., 2019).

    Args:
        ticks: The number of Ticks between two Tocks.
        tick: The epochs of a Tick.
        tock: A Tock's part of the budget, rounded to whole epochs, at least one.
        tune: The final tuning's part of the budget, rounded likewise.
        penalty: λ.

    Raises:
        ValueError: an option is out of range.
    """

    ticks: int = 10
    tick: int = 1
    tock: float = 1 / 16
    tune: float = 1 / 4
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        if self.ticks < 1 or self.tick < 1:
            raise ValueError(f"`ticks` and `tick` are at least 1; found {self.ticks} and {self.tick}.")
        if min(self.tock, self.tune, self.penalty) < 0:
            raise ValueError("`tock`, `tune` and `penalty` cannot be negative.")

    def stretches(self, epochs: float, cuts: int) -> list[tuple[str, float, float]]:
        """The stretches of training: name (`dense`, `tock`, `tick` or `tune`), first epoch, and length in epochs.

        Args:
            epochs: The budget of one training.
            cuts: How often the method cuts.

        >>> [f"{name} {start}+{length}" for name, start, length in TickTock(ticks=2).stretches(16, 3)]
        ['dense 0+16', 'tock 16+1', 'tick 17+1', 'tick 18+1', 'tock 19+1', 'tick 20+1', 'tune 21+4']
        """
        tock = ("tock", self._whole(self.tock, epochs))
        plan: list[tuple[str, float]] = [("dense", epochs)]
        for cut in range(cuts):
            plan += [tock] * (cut % self.ticks == 0)
            plan += [("tick", self.tick)]
        plan += [("tune", self._whole(self.tune, epochs))]
        starts = [sum(length for _, length in plan[:n]) for n in range(len(plan))]
        return [(name, start, length) for start, (name, length) in zip(starts, plan, strict=True)]

    def moments(self, epochs: float, cuts: int) -> list[float]:
        """The end of each Tick."""
        return [start + length for name, start, length in self.stretches(epochs, cuts) if name == "tick"]

    def total(self, epochs: float, cuts: int) -> float:
        """The end of the last stretch."""
        _, start, length = self.stretches(epochs, cuts)[-1]
        return start + length

    def phase(self, epoch: float, epochs: float | None, cuts: int) -> Phase:
        """Gated and frozen in a Tick, gated and penalised in a Tock, plain otherwise."""
        assert epochs is not None
        name = next((n for n, start, _ in reversed(self.stretches(epochs, cuts)) if start <= epoch + 1e-9), "dense")
        if name == "tick":
            return Phase("tick", frozen=True, gated=True)
        return Phase("tock", penalty=self.penalty, gated=True) if name == "tock" else Phase()

    def _whole(self, part: float, epochs: float) -> int:
        return max(1, round(part * epochs))
