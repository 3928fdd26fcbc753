"""What sparsity counts: a cost is a number for each choice of channels, and pruning removes a part of it.

`target=` takes the name of one of the costs here, or an instance of your own class:

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

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from earlycrop.counting.sizes import Sizes
from earlycrop.errors import BudgetError
from earlycrop.structure.work import Held


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


@dataclass(frozen=True)
class Memory(AbstractCost):
    """The bytes of all tensors at the moment when most are alive, for the batch of the example inputs.

    In training that is when the backward pass begins: parameters and buffers, a gradient of each trained parameter, the
    optimizer's state, the inputs and outputs, and what autograd has saved of the forward pass. In inference it is the
    operator during which most activations live: parameters and buffers, the inputs, what the operator reads and writes,
    and what a later one still reads. What operators need for themselves while they run, the cache of PyTorch's
    allocator and the rest of the process come on top.

    The example inputs are often fewer than a batch: then say how many a batch has.

    Args:
        when: `training` or `inference`.
        batch: The number of examples in a batch; None: as many as the example inputs.
        states: For training, how often the optimizer keeps each parameter's size: 0 for plain SGD, 1 with momentum, 2
            for Adam.

    Raises:
        BudgetError: an argument is out of range.
    """

    when: Literal["training", "inference"] = "training"
    batch: int | None = None
    states: int = 0

    name = "memory"

    def __post_init__(self) -> None:
        if self.when not in ("training", "inference"):
            raise BudgetError(f"`when` is 'training' or 'inference'; found {self.when!r}.")
        if (self.batch is not None and self.batch < 1) or self.states < 0:
            raise BudgetError(
                f"`batch` is a number of examples, at least 1, and `states` at least 0; found {self.batch} and "
                f"{self.states}."
            )

    def of(self, sizes: Sizes) -> float:
        """The bytes."""
        work, copies = sizes.work, 2 + self.states if self.when == "training" else 1
        stored = sum(sizes.entries(one.name) * one.itemsize * (copies if one.trained else 1) for one in work.stored)
        scale = 1 if self.batch is None else self.batch / work.examples

        def size(one: Held) -> float:
            shape = sizes.left(one.layout)
            grows = bool(shape) and one.layout.classes[0] is None and shape[0] % work.examples == 0
            return math.prod(shape) * one.itemsize * (scale if grows else 1)

        if self.when == "training":
            return stored + sum(size(one) for one in work.held if one.saved or one.first < 0 or one.last == work.end)
        starts, ends = [0.0] * (work.end + 2), [0.0] * (work.end + 2)
        inputs = 0.0
        for one in work.held:
            if one.first < 0:  # whoever calls the model holds them
                inputs += size(one)
            elif one.last >= one.first:
                starts[one.first] += size(one)
                ends[one.last + 1] += size(one)
        alive = most = 0.0
        for start, end in zip(starts, ends, strict=True):
            alive += start - end
            most = max(most, alive)
        return stored + inputs + most


COSTS: dict[str, AbstractCost] = {
    cost.name: cost for cost in (PrunableWeights(), Nodes(), Parameters(), Flops(), Memory())
}
"""The costs by the names that `target=` accepts."""
