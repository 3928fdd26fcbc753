"""The opposite of a score: a control."""

from dataclasses import dataclass

from earlycrop.scores.abstract import AbstractNetworkScore, AbstractScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Inverted(AbstractNetworkScore):
    """−s for a score s: what it values least stays, what it values most leaves.

    If a score is any good, its opposite is worse than a random choice within the same widths. Use it with
    `WidthsOf`: over all layers it would empty the best layers first.

    Args:
        of: The score.
    """

    of: AbstractScore

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        """Whether the inner score needs a loss and a scoring set."""
        return self.of.needs_data

    @property
    def needs_gates(self) -> bool:  # type: ignore[override]
        """Whether the inner score needs gates on which the loss depends."""
        return self.of.needs_gates

    @property
    def needs_norms(self) -> bool:  # type: ignore[override]
        """Whether the inner score refuses networks without norms."""
        return self.of.needs_norms

    @property
    def channels_only(self) -> bool:  # type: ignore[override]
        """Whether the inner score is undefined for single weights."""
        return self.of.channels_only

    def __call__(self, of: Network) -> Vector:
        """Minus the inner score."""
        return -self.of.worth(of)
