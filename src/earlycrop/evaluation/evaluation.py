"""The mean loss at one vector: what a score of the loss sees."""

from functools import cached_property

from earlycrop.evaluation.coordinates import Coordinates
from earlycrop.evaluation.mean_loss import MeanLoss
from earlycrop.vector import Vector


class Evaluation:
    """The mean loss over the scoring set as a function of one vector, at its present value.

    Args:
        loss: The mean loss.
        coordinates: The vector.
    """

    def __init__(self, loss: MeanLoss, coordinates: Coordinates) -> None:
        self.loss, self.coordinates = loss, coordinates

    @property
    def values(self) -> Vector:
        """The present value of the vector: the weights themselves, or ones for gates."""
        return self.coordinates.values

    def tempered(self, temperature: float) -> "Evaluation":
        """The same loss with the model's outputs (its logits) divided by a temperature."""
        return self if temperature == 1 else Evaluation(self.loss.tempered(temperature), self.coordinates)

    def gradient(self) -> Vector:
        """g = ∇L, one number per unit."""
        return self._gradient

    def hessian_gradient(self) -> Vector:
        """H g, with H = ∇²L and g the gradient over the whole scoring set."""
        return self.hessian_product(self._gradient)

    def hessian_product(self, direction: Vector) -> Vector:
        """H v, exact, for any direction v."""
        return self.loss.hessian_product(self.coordinates, direction, self._gradient)

    @cached_property
    def _gradient(self) -> Vector:
        return self.loss.gradient(self.coordinates)
