"""The opposite of a score: a control."""

from dataclasses import dataclass

from earlycrop.scores.abstract import AbstractNetworkScore, AbstractScore, Network
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Inverted(AbstractNetworkScore):
    """−s: what a score values least stays, what it values most leaves.

    If a score is worth something, its opposite is worse than a random choice in the same widths. Use it inside
    `WidthsOf`: over all layers it would empty the best layers first.

    Args:
        of: The score.
    """

    of: AbstractScore

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        """As the score does."""
        return self.of.needs_data

    @property
    def needs_gates(self) -> bool:  # type: ignore[override]
        """As the score does."""
        return self.of.needs_gates

    @property
    def needs_norms(self) -> bool:  # type: ignore[override]
        """As the score does."""
        return self.of.needs_norms

    @property
    def channels_only(self) -> bool:  # type: ignore[override]
        """As the score is."""
        return self.of.channels_only

    def __call__(self, of: Network) -> Vector:
        """Minus the score."""
        return -self.of.worth(of)
