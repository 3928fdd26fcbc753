"""The opposite of a score: a control."""

from dataclasses import dataclass

from earlycrop.evaluation import Evaluation
from earlycrop.scores.abstract import AbstractLossScore, AbstractNetworkScore, Network, Vector


@dataclass(frozen=True)
class Inverted(AbstractNetworkScore):
    """−s: what a score values least stays, what it values most leaves.

    If a score is worth something, its opposite is worse than a random choice in the same widths. Use it inside
    `WidthsOf`: over all layers it would empty the best layers first.

    Args:
        of: The score.
    """

    of: AbstractLossScore | AbstractNetworkScore

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        """As the score does."""
        return self.of.needs_data

    @property
    def needs_norms(self) -> bool:  # type: ignore[override]
        """As the score does."""
        return isinstance(self.of, AbstractNetworkScore) and self.of.needs_norms

    def __call__(self, of: Network) -> Vector:
        """Minus the score."""
        if isinstance(self.of, AbstractLossScore):
            return -self.of(Evaluation(of.loss(), of.units))
        return -self.of(of)
