"""Weights computed from other parameters: weight norm and similar ones, low-rank sums, masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.cases.case import case, conv, image, pooled_head, real


@case("weight_norm", real(4, 5), least=4, most=4)
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.ReLU(),
        nn.Linear(4, 3),
    )


@case("spectral_norm", real(4, 5))
def spectral_norm():
    return nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3)
    )


@case("weight_norm_convolution", image(3), least=5, most=5)
def weight_norm_convolution():
    """A filter is a length and a direction; nothing after the second one is normalised."""
    return nn.Sequential(
        parametrizations.weight_norm(conv(3, 4, bias=True)),
        nn.ReLU(),
        parametrizations.weight_norm(conv(4, 5, bias=True)),
        nn.ReLU(),
        pooled_head(5),
    )


@case("weight_norm_whole", real(4, 5), least=4, most=4)
def weight_norm_whole():
    """One length for the whole weight."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6), dim=None), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    )


@case("orthogonal", real(4, 5), least=6 + 4, whole=("2.parametrizations.weight.original",))
def orthogonal():
    return nn.Sequential(
        nn.Linear(5, 6),
        nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley"),
        nn.Tanh(),
        nn.Linear(6, 4),
        nn.ReLU(),
        nn.Linear(4, 3),
    )


class Parametrization(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, weight):
        return self.function(weight)


def parametrized(layer: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Parametrization(function))
    return layer


@case("positive_weights", real(4, 5), least=6 + 5)
def positive_weights():
    """Element by element, a weight is what its parametrization makes of the original."""
    return nn.Sequential(
        parametrized(nn.Linear(5, 6), F.softplus),
        nn.Tanh(),
        parametrized(nn.Linear(6, 5), lambda weight: weight.abs() + 0.1),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


@case("symmetric_weights", real(4, 5), least=0)
def symmetric_weights():
    """A weight that is its own transpose: what it reads is what it writes."""
    return nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), parametrized(nn.Linear(6, 6), lambda w: w.triu() + w.triu(1).T), nn.Linear(6, 3)
    )


@case("softmax_of_weights", real(4, 5), least=5, whole=("0.weight",))
def softmax_of_weights():
    """Each output is an average of the inputs, so the inputs are coupled to each other."""
    return nn.Sequential(
        nn.Linear(5, 6),
        nn.Tanh(),
        parametrized(nn.Linear(6, 5), lambda weight: weight.softmax(1)),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


class Adapted(nn.Module):
    """A frozen layer and a product of two thin ones (LoRA)."""

    def __init__(self, inside: int, outside: int, rank: int):
        super().__init__()
        self.base = nn.Linear(inside, outside).requires_grad_(False)
        self.down, self.up = nn.Linear(inside, rank, bias=False), nn.Linear(rank, outside, bias=False)

    def forward(self, x):
        return self.base(x) + 2.0 * self.up(self.down(x))


@case("adapters", real(4, 5), least=2 + 8 + 2 + 6 + 2, most=2 + 8 + 2 + 6 + 2)
def adapters():
    return nn.Sequential(Adapted(5, 8, 2), nn.Tanh(), Adapted(8, 6, 2), nn.Tanh(), Adapted(6, 3, 2))


@case("adapters_in_the_weight", real(4, 5), least=8 + 6)
class AdaptersInTheWeight(nn.Module):
    """The same with the product added to the weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(6, 2))

    def forward(self, x):
        x = F.relu(self.first(x))
        weight = self.second.weight + self.up @ self.down
        return self.head(F.relu(F.linear(x, weight, self.second.bias)))


@case("weights_scaled_by_rows", real(4, 5), least=6 + 5)
class WeightsScaledByRows(nn.Module):
    """A weight with a scale for each row and one for each column."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.rows, self.columns = nn.Parameter(torch.randn(5, 1)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(F.relu(F.linear(x, self.rows * self.second.weight * self.columns, self.second.bias)))


@case("weights_concatenated", real(4, 5), least=6 + 7)
class WeightsConcatenated(nn.Module):
    """Two weights are concatenated before they are used."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right, self.head = (
            nn.Linear(5, 6),
            nn.Linear(6, 3),
            nn.Linear(6, 4),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        x = F.relu(self.first(x))
        weight, bias = torch.cat([self.left.weight, self.right.weight]), torch.cat([self.left.bias, self.right.bias])
        return self.head(F.relu(F.linear(x, weight, bias)))


@case("weights_quantised", real(4, 5), least=6 + 5)
class WeightsQuantised(nn.Module):
    """A weight is rounded in the forward pass and its gradient passes straight through."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        weight = self.second.weight
        weight = weight + ((weight * 8).round() / 8 - weight).detach()
        return self.head(F.relu(F.linear(x, weight, self.second.bias)))


@case("weights_of_two_layers_added", real(4, 5), least=6 + 5)
class WeightsAdded(nn.Module):
    """The weights of two layers are averaged before they are used."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right, self.head = (
            nn.Linear(5, 6),
            nn.Linear(6, 5),
            nn.Linear(6, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        x = F.relu(self.first(x))
        weight = 0.5 * (self.left.weight + self.right.weight)
        return self.head(F.relu(F.linear(x, weight, self.left.bias - self.right.bias)))
