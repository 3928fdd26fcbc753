"""Tick-Tock: after training, channels leave a few at a time, in short trainings of the gates (You et al., 2019)."""

from dataclasses import dataclass

from earlycrop.timing.abstract import AbstractPruningSchedule, Phase


@dataclass(frozen=True)
class TickTock(AbstractPruningSchedule):
    """Train in full; a Tock; then Ticks, each followed by a cut, with a Tock after every few; then tune what is left.

    In a Tick convolutions and linear layers stand still while the gates learn and are judged. In a Tock everything
    learns, with λ Σ|φ| on the gates. The original has Ticks of an epoch, Tocks of 10 and a tuning of 40, of 160.

    Args:
        ticks: Ticks between two Tocks.
        tick: Epochs of a Tick.
        tock: A Tock's part of the budget, rounded to whole epochs, one at least.
        tune: The last training's part of the budget, likewise.
        penalty: λ.
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
        """What is trained, from which epoch on, for how many: `dense`, `tock`, `tick` or `tune`.

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
        """All stretches."""
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
