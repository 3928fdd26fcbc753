"""One vector to differentiate with respect to, and the leaves through which the model computes with it."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.hessian_products import AutodiffMode
from earlycrop.vector import Vector

Slopes = Iterable[tuple[Sequence[Tensor | None], float]]
"""For each batch the slopes by the leaves (None: the loss does not depend on one), and the batch's share of the set."""


@runtime_checkable
class Rows(Protocol):
    """Something to differentiate with respect to: leaves in the model, whose slopes are combined into one vector."""

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """The tensors to differentiate with respect to, with their present values."""
        ...

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """Σ share · slopes as one vector, in at least float32.

        Args:
            model: The network.
            slopes: For each batch the slopes by the leaves, and its share.
        """
        ...

    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within the context the model computes with these tensors in place of the leaves.

        Args:
            model: The network.
            tensors: One for each leaf, of its shape.
        """
        ...


@runtime_checkable
class Coordinates(Rows, Protocol):
    """One vector, at its present value, and the leaves through which the model computes with it.

    Attributes:
        autodiff_modes: How to compute a product with the Hessian, the fastest first; the last works for every operator.
    """

    autodiff_modes: ClassVar[tuple[AutodiffMode, ...]]

    @property
    def values(self) -> Vector:
        """The present value of the vector."""
        ...

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """How the leaves move, one tensor for each, when the vector moves in this direction.

        Args:
            model: The network.
            direction: A vector as long as `values`.
        """
        ...
