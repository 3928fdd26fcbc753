"""What a network holds and costs, before a cut and after: prunable weights, parameters, nodes, FLOPs."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from earlycrop.counting.costs import COSTS, AbstractCost, Flops, Nodes, Parameters, PrunableWeights
from earlycrop.counting.sizes import Sizes
from earlycrop.structure import Layer, Structure
from earlycrop.structure.trace import as_inputs, called, examples_in, weightless


@dataclass(frozen=True)
class Counts:
    """The sizes of a network.

    Attributes:
        prunable: Weights that multiply activations (of convolution, linear and recurrent layers, and however else a
            layer is written), and those of embeddings where they are to count.
        params: All parameters.
        nodes: Output channels (hidden units) of the same layers, except those that are the network's output.
        flops: Floating-point operations of one forward pass for one example, 2 for a multiply-add. Examples are counted
            by the first dimension of the first input: where another one counts them (time comes first in `nn.LSTM`
            without `batch_first`, indices in `nn.EmbeddingBag` with offsets), it is for each entry of that first
            dimension; parts of the whole are right all the same.
        other: The target's cost, if it is none of these.
    """

    prunable: int
    params: int
    nodes: int
    flops: float
    other: float | None = None

    def of(self, target: str | AbstractCost) -> float:
        """The count that a target refers to."""
        return getattr(self, (COSTS[target] if isinstance(target, str) else target).key)

    def as_dict(self) -> dict[str, Any]:
        """The counts by name, without `other` if there is none."""
        return {key: value for key, value in asdict(self).items() if key != "other" or value is not None}


class Counter:
    """Counts what a cut would leave, from shapes alone.

    Args:
        structure: The classes of the model.
        model: The network.
        embeddings: Whether weights and columns of embeddings count as prunable weights and nodes.
    """

    def __init__(self, structure: Structure, model: nn.Module, embeddings: bool = False) -> None:
        self.whole = Sizes(model, structure, embeddings)

    def __call__(self, keep: Bool[Tensor, "classes"] | None = None, cost: AbstractCost | None = None) -> Counts:
        """The counts if only these classes stay.

        Args:
            keep: True for each class that stays; None: all.
            cost: Also counted, as `other`, if it is none of these.
        """
        sizes = self._sizes(keep)
        return Counts(
            prunable=PrunableWeights().of(sizes),
            params=Parameters().of(sizes),
            nodes=Nodes().of(sizes),
            flops=Flops().of(sizes),
            other=None if cost is None or cost.key != "other" else cost.of(sizes),
        )

    def price(self, cost: AbstractCost, keep: Bool[Tensor, "classes"] | None = None) -> float:
        """One cost if only these classes stay.

        Args:
            cost: The cost.
            keep: True for each class that stays; None: all.
        """
        return cost.of(self._sizes(keep))

    def prices(self, cost: AbstractCost) -> Float[Tensor, "classes"]:
        """For each class how much a cost falls when it leaves and all others stay.

        The classes of one space have one price, since they live in the same dimensions of the same tensors.

        Args:
            cost: The cost.

        Returns:
            The prices in float64, never below 1e-9 of the whole: what costs nothing is cheap, not free.
        """
        space, whole = self.whole.spaces, cost.of(self.whole)
        if not len(space):
            return torch.zeros(0, dtype=torch.float64)
        first = torch.full((int(space.max()) + 1,), len(space)).scatter_reduce(
            0, space, torch.arange(len(space)), "amin"
        )
        falls = []
        for one in first.tolist():
            keep = torch.ones(len(space), dtype=torch.bool)
            keep[one] = False
            falls.append(whole - self.price(cost, keep))
        return torch.tensor(falls, dtype=torch.float64).clamp_min(1e-9 * whole)[space]

    def _sizes(self, keep: Bool[Tensor, "classes"] | None) -> Sizes:
        return self.whole if keep is None else self.whole.keeping(keep)


def flops(model: nn.Module, example_inputs: object) -> float:
    """Floating-point operations of one forward pass for one example, by PyTorch's own counter.

    Counted on a copy without data (on the meta device); nan if the model needs data to run.

    Args:
        model: The network.
        example_inputs: What the model takes: a tensor, a tuple of arguments, or a mapping of arguments by name.
    """
    inputs = pytree.tree_map_only(Tensor, lambda t: t.detach().to("meta"), as_inputs(example_inputs))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            called(weightless(model), inputs)
    except Exception:  # a missing count is no reason to fail
        return float("nan")
    return counter.get_total_flops() / examples_in(inputs)


def size_of(model: nn.Module, embeddings: bool = False, layers: tuple[Layer, ...] | None = None) -> tuple[int, int]:
    """The number of prunable weights of a model, and of all its parameters.

    Args:
        model: The network.
        embeddings: Whether weights of embeddings count as prunable.
        layers: Its layers; those that are modules by default.
    """
    sizes = Sizes(model, embeddings=embeddings, layers=layers)
    return PrunableWeights().of(sizes), Parameters().of(sizes)
