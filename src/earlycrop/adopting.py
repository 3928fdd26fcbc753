"""What a pruner takes: a model, its copies, its optimizer and a method that fits them; all else is refused in time."""

import sys
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from earlycrop.budget import Budget
from earlycrop.distributed import Ranks, checksums
from earlycrop.errors import EarlyCropError, OptimizerError
from earlycrop.methods import Method
from earlycrop.scoring import Scorer
from earlycrop.structure.walk import tensors_of
from earlycrop.units import AbstractUnits


def bare(model: nn.Module) -> nn.Module:
    """The module that holds the parameters: inside what `torch.compile` or `AveragedModel` made.

    Raises:
        EarlyCropError: the model is wrapped for several devices, whose buckets and shards hold old shapes.
    """
    if isinstance(inner := model._modules.get("_orig_mod"), nn.Module):  # torch.compile's
        return bare(inner)
    if isinstance(model, AveragedModel):
        return bare(model.module)
    wrappers = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    sharded = sys.modules.get("torch.distributed.fsdp")  # loaded wherever something is sharded
    wrappers += [
        getattr(sharded, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(sharded, name)
    ]
    for name, module in model.named_modules():
        if isinstance(module, tuple(wrappers)):
            raise EarlyCropError(
                f"{f'`{name}`' if name else 'The model'} is wrapped by {type(module).__name__}, which remembers the "
                f"old shapes. Give the module inside, with the process group as `group`; after the cut wrap it "
                f"again, with a new optimizer where parameters were sharded."
            )
    return model


def copy_of(model: nn.Module, copy: nn.Module) -> nn.Module:
    """A model that can be cut with another: the same names and shapes, and parameters of its own."""
    mine, theirs = dict(tensors_of(model)), dict(tensors_of(copy))
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (mine, theirs)]
    if shapes[0] != shapes[1]:
        name = next(name for name in [*mine, *theirs] if shapes[0].get(name) != shapes[1].get(name))
        raise EarlyCropError(
            f"One of `copies` is not a copy of the model: `{name}` is {shapes[0].get(name, 'missing')} in the model "
            f"and {shapes[1].get(name, 'missing')} in the copy. Make it before the cut, from this model."
        )
    shared = next((name for name, tensor in mine.items() if tensor is theirs[name]), None)
    if shared is not None:
        raise EarlyCropError(f"One of `copies` holds the model's own `{shared}`: it is cut with the model anyway.")
    return copy


def check_optimizer(optimizer: Optimizer | None, units: AbstractUnits) -> None:
    """The optimizer must hold what will be cut.

    Raises:
        OptimizerError: it does not hold some prunable weight that is trained.
    """
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [
        name
        for name in units.weights.names
        if (parameter := units.model.get_parameter(name)).requires_grad and id(parameter) not in held
    ]
    if missing:
        raise OptimizerError(
            f"The optimizer does not hold {len(missing)} of the model's prunable weights, `{missing[0]}` first. "
            f"Make it from this model's parameters (after moving the model to its device), or freeze those "
            f"weights with `requires_grad_(False)`."
        )


def check_ranks(ranks: Ranks, model: nn.Module, given: Mapping[str, object] = MappingProxyType({})) -> None:
    """All ranks must have the same parameters, and have been given the same.

    Raises:
        RankError: they have not; it names the first difference.
    """
    if ranks.size > 1:
        ranks.compare({name: repr(value) for name, value in given.items()} | checksums(model.named_parameters()))


def check_epochs(method: Method, budget: Budget, epochs: float | None) -> None:
    """Where the method's moments follow from the training budget, that must be there and long enough.

    Raises:
        EarlyCropError: it is not there.
        ValueError: it is too short.
    """
    if not method.timing.needs_budget:
        return
    if epochs is None:
        raise EarlyCropError(f"{method.name} prunes at moments that follow from the budget: give `epochs`.")
    method.total_epochs(epochs, budget.sparsity)


def check_method(method: Method, budget: Budget, units: AbstractUnits, scorer: Scorer) -> None:
    """The method must have its data, this model what is scored, and the target be in reach.

    Raises:
        EarlyCropError: in one of its kinds; it names what is missing.
    """
    if method.needs_data:
        scorer.prepare(method.name)
    if method.score.needs_norms and not units.scales.names:
        raise EarlyCropError(
            f"{method.name} ranks channels by their norms, and this {type(units.model).__name__} has no norm "
            f"with a scale behind a channel that can leave. Choose a method that looks at weights or at the loss."
        )
    if any(score.needs_gates for score in method.scores):
        units.check_gates(batch_statistics=scorer.bn_mode == "batch")
    units.choose(budget, units.per_class(torch.zeros_like(units.coordinates.values)), method.sharing)
