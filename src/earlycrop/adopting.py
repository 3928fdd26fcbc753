"""Checks of what a pruner is given: a model, its copies, its optimizer and a method that fits; nothing is touched."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from earlycrop.budget import Budget
from earlycrop.distributed import Ranks, checksums
from earlycrop.errors import EarlyCropError, OptimizerError, nearest
from earlycrop.methods import Method
from earlycrop.scoring import Scorer
from earlycrop.structure import layers_in
from earlycrop.structure.refusals import check_model, check_unscripted
from earlycrop.structure.walk import tensors_of
from earlycrop.units import AbstractUnits


class Closed:
    """An object on which nothing can be set but what it knows: a name that is misspelt is no new attribute."""

    settable: ClassVar[tuple[str, ...]] = ()

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self.settable:
            near = nearest(name, self.settable)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set. Did you mean {near!r}?")
        super().__setattr__(name, value)


def bare(model: nn.Module) -> nn.Module:
    """The module that holds the parameters, without the wrappers of `torch.compile` and `AveragedModel`.

    Raises:
        EarlyCropError: the model is wrapped for several devices; buckets and shards would keep the old shapes. Or it
            is a module of TorchScript.
    """
    check_unscripted(model)
    if isinstance(inner := model._modules.get("_orig_mod"), nn.Module):  # torch.compile's
        return bare(inner)
    if isinstance(model, AveragedModel):
        return bare(model.module)
    wrappers = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    sharded = sys.modules.get("torch.distributed.fsdp")  # if it was never imported, nothing is sharded
    wrappers += [
        getattr(sharded, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(sharded, name)
    ]
    for name, module in model.named_modules():
        if isinstance(module, tuple(wrappers)):
            raise EarlyCropError(
                f"{f'`{name}`' if name else 'The model'} is wrapped by {type(module).__name__}, which remembers the "
                f"old shapes. Pass the module inside, and the process group as `group`; wrap it again after the cut, "
                f"with a new optimizer if parameters were sharded."
            )
    return model


def copy_of(model: nn.Module, copy: nn.Module) -> nn.Module:
    """The copy, if it can be cut with the model.

    Args:
        model: The network.
        copy: A network with the same names and shapes, and parameters of its own.

    Raises:
        EarlyCropError: names or shapes differ, or the copy shares a tensor with the model.
    """
    mine, theirs = dict(tensors_of(model)), dict(tensors_of(copy))
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (mine, theirs)]
    if shapes[0] != shapes[1]:
        name = next(name for name in [*mine, *theirs] if shapes[0].get(name) != shapes[1].get(name))
        raise EarlyCropError(
            f"One of `copies` is not a copy of the model: `{name}` is {shapes[0].get(name, 'missing')} in the model "
            f"and {shapes[1].get(name, 'missing')} in the copy. Make the copy from this model, before the cut."
        )
    shared = next((name for name, tensor in mine.items() if tensor is theirs[name]), None)
    if shared is not None:
        raise EarlyCropError(
            f"One of `copies` shares the model's own `{shared}`, which is cut with the model anyway: leave it out, or "
            f"pass a deep copy."
        )
    return copy


def check_optimizers(given: Optimizer | Sequence[Optimizer] | None, units: AbstractUnits) -> tuple[Optimizer, ...]:
    """The optimizers, which must hold what will be cut between them.

    Raises:
        OptimizerError: none of them holds some prunable weight that is trained, or one is no optimizer.
    """
    optimizers = tuple(given) if isinstance(given, Sequence) else () if given is None else (given,)
    for one in optimizers:
        if not (hasattr(one, "param_groups") and hasattr(one, "state")):
            raise OptimizerError(
                f"`optimizer` is a torch.optim.Optimizer or a list of them; found {type(one).__name__}. Give the "
                f"optimizer inside, whose `param_groups` and `state` are what is cut."
            )
    held = {id(parameter) for one in optimizers for group in one.param_groups for parameter in group["params"]}
    missing = [
        name
        for name in units.weights.names
        if (parameter := units.model.get_parameter(name)).requires_grad and id(parameter) not in held
    ]
    if missing and optimizers:
        whose = "The optimizer does not hold" if len(optimizers) == 1 else "None of the optimizers holds"
        raise OptimizerError(
            f"{whose} {len(missing)} of the model's prunable weights, `{missing[0]}` first. "
            f"Make it from this model's parameters (after moving the model to its device), or freeze those "
            f"weights with `requires_grad_(False)`."
        )
    return optimizers


def check_optimizer_state(given: Any) -> Any:
    """What becomes of the optimizer's state at the cut: `slice` or `reset`.

    Raises:
        EarlyCropError: it is something else.
    """
    if given not in ("slice", "reset"):
        raise EarlyCropError(f"`optimizer_state` is one of ('slice', 'reset'); found {given!r}.")
    return given


def check_ranks(ranks: Ranks, model: nn.Module, given: Mapping[str, object] = MappingProxyType({})) -> None:
    """Check that all ranks have the same parameters and were given the same arguments.

    Args:
        ranks: The processes.
        model: This rank's model.
        given: This rank's arguments by name, compared by `repr`.

    Raises:
        RankError: something differs; names the first difference.
    """
    if ranks.size > 1:
        ranks.compare({name: repr(value) for name, value in given.items()} | checksums(model.named_parameters()))


def check_state(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Check that a saved state is of a pruner like this one.

    Args:
        state: The state.
        mine: What identifies this pruner, by name.

    Raises:
        EarlyCropError: something differs; names the first difference.
    """
    for name, value in mine.items():
        if state.get(name) != value:
            raise EarlyCropError(
                f"This state is of another {name}: it was saved with {state.get(name)}, and here it is {value}."
            )


STEPS = 10_000
"""No training has so many epochs: it is steps that are counted."""


def check_epochs(method: Method, budget: Budget, epochs: float | None) -> None:
    """The training budget must be there where moments follow from it, and long enough for the last of them.

    Raises:
        EarlyCropError: it is missing, no number of epochs, or over before the cut.
        ValueError: it is too short for the method's rounds.
    """
    if epochs is not None and not 0 < epochs < inf:
        raise EarlyCropError(f"`epochs` is the number of epochs of the whole training, above 0; found {epochs}.")
    if epochs is not None and epochs >= STEPS:
        warnings.warn(
            f"`epochs` is {epochs:g}, which looks like a number of steps. Give epochs, and call `check` with epochs "
            f"too (a fraction such as `step / steps_per_epoch` looks more often).",
            stacklevel=3,
        )
    if method.timing.needs_budget:
        if epochs is None:
            raise EarlyCropError(f"{method.name} prunes at moments that follow from the budget: give `epochs`.")
        method.total_epochs(epochs, budget.highest)
        return
    latest = method.timing.latest(epochs)
    if latest >= (inf if epochs is None else epochs):
        end = "may never come" if epochs is None else f"may come as late as epoch {latest:g} of {epochs:g}"
        message = (
            f"{method.name} waits for a moment that {end}. Give `epochs`, the length of the whole training: then it "
            f"prunes after a quarter of it at the latest; or give its timing an earlier moment."
        )
        if method.timing.detector is None:  # there is no other moment
            raise EarlyCropError(message)
        warnings.warn(message, stacklevel=3)


def check_epoch(epoch: Any) -> None:
    """Refuse what is no number of epochs.

    Raises:
        EarlyCropError: it is not finite, or no number.
    """
    try:
        finite = isfinite(epoch)
    except TypeError:
        finite = False
    if not finite:
        raise EarlyCropError(
            f"`check` takes the number of epochs that have finished, such as 3 or `step / steps_per_epoch`; found "
            f"{epoch!r}. Count them beside the loop."
        )


def check_given(model: nn.Module, example_inputs: object, ignore: Sequence[str]) -> None:
    """Refuse models that cannot be cut (see `check_model`), and complex weights: scores are defined for real ones.

    Args:
        model: The network.
        example_inputs: What it takes.
        ignore: Names of modules or parameters that stay whole.

    Raises:
        EarlyCropError: it is such a model; names the parameter.
    """
    check_model(model, ignore)
    complexes = {name for name, parameter in model.named_parameters() if parameter.is_complex()}
    layers = layers_in(model, example_inputs) if complexes else ()
    for name in (name for layer in layers for name in layer.weights):
        if name in complexes:
            raise EarlyCropError(
                f"`{name}` is complex, and scores are defined for real weights only. Keep its real and imaginary "
                f"parts in real parameters, or cut channels of your own choice with `earlycrop.structure.cut`."
            )


def check_method(method: Method, budget: Budget, units: AbstractUnits, scorer: Scorer) -> None:
    """Check that the method has its data, that the model has what the method scores, and that the target is in reach.

    Args:
        method: The method.
        budget: How much is to leave.
        units: The units of the model.
        scorer: The loss and the data.

    Raises:
        EarlyCropError: or a subclass; names what is missing.
    """
    if method.needs_data:
        scorer.prepare(method.name)
    if method.score.needs_norms and not units.scales.names:
        raise EarlyCropError(
            f"{method.name} ranks channels by their norms, and this {type(units.model).__name__} has no norm "
            f"with a scale after any channel that can leave. Choose a method that scores by weights or by the loss."
        )
    if any(score.needs_gates for score in method.scores):
        units.check_gates(batch_statistics=scorer.bn_mode == "batch")
    units.choose(budget, units.per_class(torch.zeros_like(units.coordinates.values)), method.sharing)
