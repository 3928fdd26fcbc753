"""Copies of a model, whatever its modules keep: with data, or with shapes alone."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OWN = {"_parameters", "_buffers", "_modules", *HOOKS}
"""Attributes of every module that are copied as they are."""


def weightless(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode whose parameters and buffers have shapes but no data."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return duplicate(model, memo).eval()


def duplicate(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy of the model.

    Its forward hooks are the same objects, for they may hold files or whole trainers. So is what cannot be copied of
    what the modules keep in attributes: locks, files. Activations are copied without their graph, and generators of
    random numbers go on from where they are.
    """
    taken = []
    for module in model.modules():
        for name in HOOKS:
            taken.append((name, holder := getattr(module, name), dict(holder)))
            holder.clear()
    try:
        twin = _deepcopy(model, memo or {})
    finally:
        for _, holder, hooks in taken:
            holder.update(hooks)
    for module in twin.modules():
        for _ in HOOKS:
            name, _, hooks = taken.pop(0)
            getattr(module, name).update(hooks)
    return twin


def _deepcopy(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    """A deep copy; where some attribute cannot be copied, one with another object in its place."""
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # whatever the copy of somebody's class raises
        pass
    # modules that an attribute refers to are not copied with it, but once, as the model's own
    whole = {**memo, **{id(module): module for module in model.modules()}}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in OWN:
                _replace(value, memo, whole)
    return copy.deepcopy(model, memo)


def _replace(value: Any, memo: dict[int, object], whole: dict[int, object]) -> None:
    """Note in `memo` what shall stand for what cannot be copied of this value."""
    if id(value) in whole:
        return
    try:
        copy.deepcopy(value, dict(whole))
        return
    except Exception:  # as above
        pass
    if isinstance(value, Tensor):
        memo[id(value)] = value.detach().clone()
    elif isinstance(value, torch.Generator):
        memo[id(value)] = value.clone_state()
    elif type(value) in (dict, list, tuple, set, frozenset):
        for one in _parts(value):
            _replace(one, memo, whole)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module) and not callable(value):
        for one in vars(value).values():
            _replace(one, memo, whole)
        try:  # with its parts replaced it may be copied
            copy.deepcopy(value, {**whole, **memo})
        except Exception:  # as above
            memo[id(value)] = value
    else:
        memo[id(value)] = value


def _parts(value: Any) -> Sequence[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
