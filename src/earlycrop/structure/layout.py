"""The classes along each dimension of a tensor."""

from dataclasses import dataclass

from earlycrop.structure.gates import Classes
from earlycrop.structure.renumbering import Renumbering


@dataclass(frozen=True)
class Layout:
    """The classes along each dimension of a tensor: enough to count what a cut leaves of it.

    Attributes:
        shape: The tensor's shape.
        classes: For each dimension the class of each index (-1: stays), or None where all stay.
    """

    shape: tuple[int, ...]
    classes: tuple[Classes | None, ...]

    def renumbered(self, number: Renumbering) -> "Layout":
        """The layout with the classes renumbered, and without the entries of classes that left."""
        return self.having(number.dims(self.classes))

    def having(self, classes: tuple[Classes | None, ...]) -> "Layout":
        """The layout with these classes along its dimensions, each of which is as long as they are many."""
        sizes = zip(self.shape, classes, strict=True)
        return Layout(tuple(size if one is None else one.numel() for size, one in sizes), classes)
