"""What sparsity counts: a cost is a number for each choice of channels, and pruning removes a part of it.

`target=` takes the name of one of the four costs here, or an instance of your own class:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Megabytes(AbstractCost):
    ...     name = "megabytes"
    ...     per_weight = 4e-6
    ...
    ...     def of(self, sizes):
    ...         return 4e-6 * sum(sizes.entries(name) for name in sizes.parameters)
    >>> from earlycrop.budget import Budget
    >>> Budget(0.5, target=Megabytes())
    Budget(sparsity=0.5, target=Megabytes(), min_channels=None, round_to=1, protect_layers=False)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from earlycrop.counting.sizes import Sizes


class AbstractCost(ABC):
    """What a network costs. It must never rise when channels leave, because the budget is met by bisection.

    Subclasses are frozen dataclasses, so that saved states can compare their `repr`.

    Attributes:
        name: What messages and reports call it.
        key: The field of `Counts` that holds it in reports.
        per_weight: How much it falls when a single weight is masked; 0 if masks alone do not lower it.
    """

    name: str
    key: str = "other"
    per_weight: float = 0

    @abstractmethod
    def of(self, sizes: Sizes) -> float:
        """The cost of a network of these sizes."""


@dataclass(frozen=True)
class PrunableWeights(AbstractCost):
    """The number of weights of convolution, linear and recurrent layers, and of embeddings if they are to count."""

    name = "weight"
    key = "prunable"
    per_weight = 1

    def of(self, sizes: Sizes) -> int:
        """The number of prunable weights."""
        return sum(sizes.entries(name) for name in sizes.weights)


@dataclass(frozen=True)
class Parameters(AbstractCost):
    """The number of all parameters."""

    name = "params"
    key = "params"
    per_weight = 1

    def of(self, sizes: Sizes) -> int:
        """The number of parameters."""
        return sum(sizes.entries(name) for name in sizes.parameters)


@dataclass(frozen=True)
class Nodes(AbstractCost):
    """The number of output channels (hidden units) of layers with prunable weights, the output layers excepted."""

    name = "node"
    key = "nodes"

    def of(self, sizes: Sizes) -> int:
        """The number of output channels."""
        return sum(sizes.width(layer) for layer in sizes.layers if layer.weight not in sizes.outputs)


@dataclass(frozen=True)
class Flops(AbstractCost):
    """Floating-point operations of one forward pass for one example, 2 for a multiply-add.

    Only convolutions, linear layers and matrix products with a parameter count.
    """

    name = "flops"
    key = "flops"

    def of(self, sizes: Sizes) -> float:
        """Twice the number of multiply-adds for one example."""
        return sum(2 * uses * sizes.entries(name) for name, uses in sizes.uses)


Target = Literal["weight", "node", "params", "flops"]

COSTS: dict[str, AbstractCost] = {cost.name: cost for cost in (PrunableWeights(), Nodes(), Parameters(), Flops())}
"""The costs by the names that `target=` accepts."""
