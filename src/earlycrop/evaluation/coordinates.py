"""One vector to differentiate with respect to, and the leaves through which the model computes with it."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from earlycrop.hessian_products import AutodiffMode
from earlycrop.vector import Vector

Slopes = Iterable[tuple[Sequence[Tensor | None], float]]
"""For each batch the slopes of the leaves (None: does not depend on it), and the batch's share of the set."""


@runtime_checkable
class Rows(Protocol):
    """Something to differentiate with respect to: leaves in the model, of whose slopes one vector is made."""

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """The tensors to differentiate with respect to, at their present value."""
        ...

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """Σ share · slopes as one vector, in float32 at least."""
        ...

    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within it the model computes with these tensors in the leaves' place."""
        ...


@runtime_checkable
class Coordinates(Rows, Protocol):
    """One vector, at its present value, and the leaves through which the model computes with it.

    Attributes:
        autodiff_modes: To a product with the Hessian, the fastest first; the last works for every operator.
    """

    autodiff_modes: ClassVar[tuple[AutodiffMode, ...]]

    @property
    def values(self) -> Vector:
        """Where the vector is now."""
        ...

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """The leaves' move for a move of the vector."""
        ...
