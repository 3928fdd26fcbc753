"""What part of all parameters a method can reach, and a warning where that is little."""

from dataclasses import dataclass

SMALL = 1 / 2


class ReachWarning(UserWarning):
    """Sparsity counts what a method can remove, and that is the smaller part of the network."""


@dataclass(frozen=True)
class Reach:
    """What a method may remove of a network.

    Attributes:
        parameters: How many of them may leave: the weights that can be masked, or all that channels take with them.
        total: All parameters.
        held: What holds the others, in words; None if that is not known.
        chosen: Whether the user keeps some of it whole, so that little in reach is no surprise.
    """

    parameters: int
    total: int
    held: str | None = None
    chosen: bool = False

    @property
    def part(self) -> float:
        """The part of all parameters."""
        return self.parameters / self.total if self.total else 0.0

    def complaint(self, method: str, unit: str) -> str | None:
        """What a warning says of it; None where most is in reach, or what is not was chosen.

        Args:
            method: The name of the method.
            unit: What leaves, in the plural: weights or channels.

        >>> Reach(1, 4).complaint("snip", "weights")
        'Only 25% of all parameters are in reach of snip (1 of 4): the rest are no weights that may leave (embeddings, \
norms, biases).'
        """
        if self.chosen or self.part >= SMALL:
            return None
        rest = "are no weights that may leave (embeddings, norms, biases)"
        if unit == "channels":
            rest = f"belong to channels that cannot leave ({self.held or 'see what is frozen'})"
        found = f"{self.part:.0%} of all parameters are in reach of {method} ({self.parameters:,} of {self.total:,})"
        return f"Only {found}: the rest {rest}."

    def __str__(self) -> str:
        return f"{self.parameters:,} of {self.total:,} parameters ({self.part:.0%})"
