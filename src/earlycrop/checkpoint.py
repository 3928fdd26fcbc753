"""Save a pruned model, load it into a model from the ordinary constructor, and save a training state: without pickle.

`save` and `load` are for a model that is smaller than its class says: its tensors, and the numbers in its modules that
a cut has changed. `save_state` and `load_state` are for everything else needed to resume training: whatever
`state_dict` methods return.
"""

import json
import math
import os
import struct
import warnings
from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.errors import CheckpointError
from earlycrop.files import embed, embedded, read, write
from earlycrop.resizing import changed, check_names, check_part, modules_in, passing_in, refit, tensors_in, widths_in
from earlycrop.stepping import at_steps
from earlycrop.structure.gated_norms import GatedNorm

MODEL, STATE = "earlycrop-2", "earlycrop-state-1"


def save(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Write parameters and buffers, and the widths that they imply; the file is written whole or not at all.

    To other readers of the format it is the model's state dict, tied tensors once, except that a matrix that is mostly
    zero, as masks leave it, is stored as a bitmap and its values. A model from `torch.compile` has its plain names.

    Widths are all public attributes of the modules that are integers or tuples of integers: `out_channels`,
    `num_heads`, your own. For norms that are temporarily gated (`gate-decorators`) the file holds the ordinary norms
    that compute the same.

    Args:
        model: The network, cut, masked or dense.
        path: The file, in the safetensors format.

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: the model has state that is neither; names it.
        OSError: the file cannot be written; the old file is as it was.
    """
    for name, module in modules_in(model).items():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise CheckpointError(
                f"Cannot save `{name or type(module).__name__}` whole: it has an extra state besides its tensors. Save "
                f"`model.state_dict()` with earlycrop.save_state."
            )
    tensors = tensors_in(model) | _shifts(model)
    passing = {name: embed(name, tensors.pop(name)) for name in sorted(passing_in(model)) if name in tensors}
    texts = {"widths": widths_in(model), "passing": [*passing], "passing_values": passing}
    masked = {name for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter) and tensor.ndim > 1}
    return write(path, MODEL, tensors, {key: json.dumps(value) for key, value in texts.items()}, masked)


def load(model: nn.Module, path: str | os.PathLike[str], device: torch.device | str | None = None) -> None:
    """Give a model built by its ordinary constructor the widths and values of a saved one.

    Modes, `requires_grad` and non-persistent buffers stay the model's own; a non-persistent buffer is loaded only if a
    cut has changed its shape.

    Args:
        model: The network, built with the options of the saved one; it may be dense or already cut, compiled or not.
        path: The file that `save` wrote.
        device: Where the model shall be afterwards; None: where each tensor is now. A model that was built on the
            meta device needs it.

    Raises:
        CheckpointError: the file is damaged, or holds another network; the model is untouched.
    """
    header, stored = read(path, MODEL)
    stored |= {name: embedded(value) for name, value in json.loads(header.get("passing_values", "{}")).items()}
    where = os.fspath(path)
    tensors, passing = tensors_in(model), passing_in(model)
    values = _fitting(tensors, stored, passing | set(json.loads(header["passing"])), where)
    widths = changed(modules_in(model), json.loads(header["widths"]), where)
    homeless = [name for name, tensor in tensors.items() if tensor.device.type == "meta"]
    if homeless:
        if device is None:
            raise CheckpointError(
                f"{where}: `{homeless[0]}` is on the meta device in this model, which holds no values. Give `device`, "
                f"where the model shall be."
            )
        values = {name: stored[name] for name in homeless if name in stored} | values
        own = {name: tensor for name, tensor in tensors.items() if tensor.device.type != "meta" and name not in values}
        values |= {name: tensor.detach().clone() for name, tensor in own.items()}
        model.to_empty(device=device)  # also of the model's own values
        tensors = tensors_in(model)
    kept = passing.intersection(stored).difference(json.loads(header["passing"]))
    refit(model, {name: value.to(tensors[name].device) for name, value in values.items()}, widths, kept)
    if device is not None:
        model.to(device)
    _warn_if_masks_are_lost(model)


def save_state(state: Any, path: str | os.PathLike[str]) -> int:
    """Write any nesting of dictionaries, lists and tuples of tensors, numbers, strings, booleans and None.

    That covers what `state_dict()` of models, optimizers, schedulers, a `GradScaler` and a `Pruner` returns, and the
    states of random generators. `load_state` returns an equal object: keys may be of any of these types, and every bit
    of every number is kept, nan and infinity included.

        >>> import tempfile, torch
        >>> path = f"{tempfile.mkdtemp()}/state.safetensors"
        >>> size = save_state({"epoch": 3, "best": float("-inf"), "adam": {0: (torch.ones(2), None)}}, path)
        >>> load_state(path)
        {'epoch': 3, 'best': -inf, 'adam': {0: (tensor([1., 1.]), None)}}

    Args:
        state: The nesting.
        path: The file, in the safetensors format.

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: something in it is of another type; states what and where.
        OSError: the file cannot be written; the old file is as it was.
    """
    tensors: dict[str, Tensor] = {}
    return write(path, STATE, tensors, {"state": json.dumps(_skeleton(state, "state", tensors))})


def load_state(path: str | os.PathLike[str]) -> Any:
    """Read what `save_state` wrote; its tensors are on the CPU.

    Args:
        path: The file.

    Returns:
        An object equal to the state.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    header, tensors = read(path, STATE)
    return _flesh(json.loads(header["state"]), tensors)


MASKED = 1 / 4
"""The part of a matrix's entries that is zero where it counts as masked."""


def _warn_if_masks_are_lost(model: nn.Module) -> None:
    """Warn at the first step of an optimizer after which a loaded model has fewer zeros: nothing holds its masks."""
    masked = [name for name, p in model.named_parameters() if p.ndim > 1 and float((p == 0).float().mean()) > MASKED]
    if not masked:
        return
    before = _zeros(model, masked)

    def hook(loaded: nn.Module, optimizer: Optimizer) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        parameters = dict(loaded.named_parameters())  # some may have been replaced, as a new head does
        if not any(name in parameters and id(parameters[name]) in held for name in masked):
            return
        handle.remove()
        if (lost := before - _zeros(loaded, masked)) > 0:
            warnings.warn(
                f"{lost:,} weights of a loaded model that were zero are not zero after a step of "
                f"{type(optimizer).__name__}: a file holds the zeros of a mask, but not the mask. To train on, save "
                f"the pruner's state too and load it into a pruner first (`save_state`, `load_state`).",
                stacklevel=2,
            )

    handle = at_steps(model, hook)


def _zeros(model: nn.Module, names: list[str]) -> int:
    parameters = dict(model.named_parameters())
    return sum(int((parameters[name] == 0).sum()) for name in names if name in parameters)


def _fitting(tensors: dict[str, Tensor], stored: dict[str, Tensor], passing: set[str], where: str) -> dict[str, Tensor]:
    """The stored values that the model's tensors take.

    Args:
        tensors: The model's tensors by name.
        stored: The file's tensors by name.
        passing: Names of non-persistent buffers: only those that are smaller in the file are taken from it.
        where: The file's name, for errors.
    """
    check_names(tensors, stored, passing, where)
    values = {}
    for name, tensor in tensors.items():
        found = stored.get(name, tensor)
        if name in passing:
            if found.shape != tensor.shape and len(found.shape) == len(tensor.shape):
                values[name] = found.to(tensor.dtype)
            continue
        check_part(name, found.shape, tensor.shape, where)
        if found.dtype != tensor.dtype:
            raise CheckpointError(
                f"{where}: `{name}` is {found.dtype}, in this model it is {tensor.dtype}. Convert the model to that "
                f"type, so that it is loaded bit for bit."
            )
        values[name] = found
    return values


@torch.no_grad()
def _shifts(model: nn.Module) -> dict[str, Tensor]:
    """The β of the ordinary norm, by the name of each gated norm's `bias`, which holds β/γ."""
    return {
        f"{name}.bias" if name else "bias": module.weight * module.bias  # type: ignore[operator]
        for name, module in modules_in(model).items()
        if isinstance(module, GatedNorm)
    }


CONTAINERS = {kind.__name__: kind for kind in (list, tuple, torch.Size, dict, OrderedDict, Counter)}
"""Exactly these types are stored: a subclass may hold more than its entries."""


def _skeleton(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON, where every list begins with what it stands for; tensors are set aside under a number."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return ["tensor", str(len(tensors) - 1)]
    kind = type(value)
    if CONTAINERS.get(kind.__name__) is kind:
        if isinstance(value, dict):
            parts = [[_skeleton(k, where, tensors), _skeleton(v, f"{where}[{k!r}]", tensors)] for k, v in value.items()]
        else:
            parts = [_skeleton(one, f"{where}[{n}]", tensors) for n, one in enumerate(value)]
        versions = getattr(value, "_metadata", None)  # a module's state holds the version of each submodule's code
        if versions is not None:
            return ["versioned", [kind.__name__, *parts], _skeleton(versions, where, tensors)]
        return [kind.__name__, *parts]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["float", struct.pack(">d", value).hex()]
    if value is None or kind in (bool, int, str):
        return value
    raise CheckpointError(
        f"Cannot store {where}, of type {kind.__module__}.{kind.__qualname__}: a state is made of dictionaries, lists, "
        f"tuples, tensors, numbers, strings, booleans and None. Convert it (arrays with torch.from_numpy), or leave it "
        f"out."
    )


def _flesh(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_skeleton`."""
    if not isinstance(skeleton, list):
        return skeleton
    kind, *parts = skeleton
    if kind == "tensor":
        return tensors[parts[0]]
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(parts[0]))[0]
    if kind == "versioned":
        state, state._metadata = (_flesh(part, tensors) for part in parts)
        return state
    if issubclass(CONTAINERS[kind], dict):
        return CONTAINERS[kind]({_flesh(key, tensors): _flesh(value, tensors) for key, value in parts})
    return CONTAINERS[kind](_flesh(one, tensors) for one in parts)
