"""New numbers for classes, applied wherever a structure refers to them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from earlycrop.structure.gates import Classes, Gate

STAYS, LEFT = -1, -2
"""Used instead of a number: for a class that cannot leave, whose entries stay; for one that left with its entries."""


@dataclass(frozen=True, eq=False)
class Renumbering:
    """Maps each old class to its new number, to `STAYS`, or to `LEFT`.

    Attributes:
        table: One entry for each class, and a last one, `STAYS`, which the old number -1 indexes.
    """

    table: Int[Tensor, "classes_and_one"]

    @classmethod
    def of(cls, numbers: Int[Tensor, "classes"]) -> "Renumbering":
        """The renumbering that gives each class its number here."""
        return cls(torch.cat([numbers, numbers.new_tensor([STAYS])]))

    @classmethod
    def keeping(cls, keep: Bool[Tensor, "classes"], others: int) -> "Renumbering":
        """Numbers the classes in `keep` in their order; all others get `others`, which is `STAYS` or `LEFT`."""
        return cls.of(torch.where(keep, keep.cumsum(0) - 1, others))

    def __call__(self, classes: Classes) -> Classes:
        """The new classes along a dimension, which gets shorter where classes have left."""
        now = self.table[classes]
        return now[now != LEFT]

    def dims(self, dims: Iterable[Classes | None]) -> tuple[Classes | None, ...]:
        """The new classes of every dimension of one tensor."""
        return tuple(None if classes is None else self(classes) for classes in dims)

    def gates(self, gates: Iterable[Gate]) -> tuple[Gate, ...]:
        """The gates with new classes, without the places where no gate is left."""
        moved = (replace(gate, classes=self(gate.classes)) for gate in gates)
        return tuple(gate for gate in moved if bool((gate.classes >= 0).any()))
