"""Labels: a number for every index of every dimension, and which of them are equal or immovable.

The engine never reasons about channels by layer. It gives each index of each parameter dimension a
label, walks the exported graph once, records which labels must leave together (`unite`) and which must
not leave at all (`freeze`), and computes the connected components at the end.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Labels that vary along several dimensions at once: the result of a view that splits a dimension of channels.

    The view finds its entries by position, so after a cut the remaining entries must still form a grid: only whole
    rows or whole columns can leave. The operators that follow decide which (`Walk.fix`): one that mixes the entries
    along an axis fixes that axis, and the other may shrink.
    """

    labels: Tensor


class Axis(NamedTuple):
    """Marks one dimension of a value as one axis of a grid."""

    grid: Grid
    axis: int

    def along(self) -> Tensor:
        """The labels along this axis, at the first index of the others."""
        return self.grid.labels.movedim(self.axis, 0).reshape(self.grid.labels.shape[self.axis], -1)[:, 0]


Dims = list[Tensor | Axis | None]
"""The labels of one tensor: for each dimension a label per index, an axis of a grid of labels, or None where nothing
can leave."""


@dataclass
class Labels:
    """A growing set of labels with the equalities and prohibitions found so far."""

    count: int = 0
    _left: list[Tensor] = field(default_factory=list)
    _right: list[Tensor] = field(default_factory=list)
    _frozen: list[tuple[Tensor, str]] = field(default_factory=list)

    def copied(self) -> "Labels":
        """The same labels, to which more equalities and prohibitions can be added."""
        return Labels(self.count, [*self._left], [*self._right], [*self._frozen])

    def fresh(self, size: int) -> Tensor:
        """`size` new labels."""
        labels = torch.arange(self.count, self.count + size)
        self.count += size
        return labels

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Record that index i of `a` and index i of `b` stay or leave together; the two are broadcast."""
        if a is b:
            return
        a, b = torch.broadcast_tensors(a, b)
        self._left.append(a.reshape(-1))
        self._right.append(b.reshape(-1))

    def freeze(self, labels: Tensor | None, reason: str) -> None:
        """Record that none of these may leave, and why."""
        if labels is not None:
            self._frozen.append((labels.reshape(-1), reason))

    def components(self) -> Tensor:
        """For each label, the smallest label that it is united with, directly or through others."""
        root = torch.arange(self.count)
        if not self._left:
            return root
        left, right = torch.cat(self._left), torch.cat(self._right)
        while True:
            a, b = root[left], root[right]
            apart = a != b
            if not bool(apart.any()):
                return root
            a, b = a[apart], b[apart]
            low = torch.minimum(a, b)
            root.scatter_reduce_(0, torch.maximum(a, b), low, "amin")
            while not torch.equal(jumped := root[root], root):
                root = jumped

    def prohibitions(self) -> list[tuple[Tensor, str]]:
        """Every freeze so far, in the order in which it was found."""
        return self._frozen
