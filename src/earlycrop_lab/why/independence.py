"""How little the channels of a layer repeat each other."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Independence:
    """How little the channels of a layer repeat each other: (Σλ)² / Σλ² over their number.

    λ are the eigenvalues of the correlation matrix of the layer's output channels, over samples and places. The value
    is 1 where no two channels are correlated, and one over their number where all are equal up to sign, scale and
    shift; a norm after the layer does not change it. A constant channel adds no eigenvalue, but counts in the number.
    """

    def __init__(self) -> None:
        self._n, self._sum, self._products = 0, torch.zeros(()), torch.zeros(())

    def see(self, module: nn.Module, _inputs: object, output: object) -> None:
        """A forward hook: channels are the last dimension of a linear layer's output, otherwise the second."""
        if isinstance(output, Tensor):
            rows = output.movedim(-1 if isinstance(module, nn.Linear) else 1, -1).flatten(0, -2)
            self.add(rows)

    def add(self, rows: Float[Tensor, "n channels"]) -> None:
        """Add outputs of the layer, one row per sample and place."""
        rows = rows.detach().double()
        self._n += len(rows)
        self._sum = self._sum.to(rows) + rows.sum(0)
        self._products = self._products.to(rows) + rows.T @ rows

    @property
    def value(self) -> float | None:
        """The independence of all outputs so far; None for a single channel, and without outputs.

        >>> seen = Independence()
        >>> a, b = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
        >>> seen.add(torch.stack([a, b, 3 - 2 * a], 1))  # correlations 0, 0, -1: λ = 2, 1, 0; 9 / 5 of 3
        >>> round(seen.value, 6)
        0.6
        """
        if self._sum.numel() < 2 or not self._n:
            return None
        mean = self._sum / self._n
        covariance = self._products / self._n - torch.outer(mean, mean)
        deviation = covariance.diagonal().clamp_min(0).sqrt()
        alive = deviation > 1e-6 * (deviation.max() + mean.abs())
        scale = torch.where(alive, 1 / deviation, 0.0)
        correlations = scale[:, None] * covariance * scale
        squares = float(correlations.square().sum())
        return float(correlations.trace()) ** 2 / squares / len(mean) if squares else 0.0
