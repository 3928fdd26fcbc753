"""What modules keep from one call to the next in plain attributes: activations, caches, losses.

A tensor that a call leaves in an attribute which held none before is one of a cache: the model ran without it. A cut
puts such attributes back to what they held when the model was traced, for what is in them has the old channels.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any

from torch import Tensor, nn

from earlycrop.structure.duplicates import OWN

PLAIN = {NoneType, bool, int, float, str}
"""Types of most attributes, which hold nothing."""

ABSENT = object()
"""The value of an attribute that is not there."""


@dataclass(frozen=True, eq=False)
class Cache:
    """An attribute in which a call leaves tensors, and what it holds without them.

    Attributes:
        path: The module.
        name: The attribute, or buffer.
        empty: What it held when the model was traced.
    """

    path: str
    name: str
    empty: object

    @property
    def where(self) -> str:
        """Its name in the model."""
        return f"{self.path}.{self.name}".lstrip(".")


@contextmanager
def watched(model: nn.Module, each: bool = True) -> Iterator[list[Cache]]:
    """The attributes in which calls leave tensors are put back; gives the caches, as far as they are seen.

    Args:
        model: The model.
        each: Whether they are put back after each call, or only in the end.
    """
    caches: list[Cache] = []
    seen: dict[int, bool] = {}
    before = {path: (module, _attributes(module, seen)) for path, module in model.named_modules()}
    # what may change in place is watched as a copy
    empty = {
        (path, name): _fresh(value)
        for path, (_, attributes) in before.items()
        for name, (value, full) in attributes.items()
        if not full
    }

    def put_back(*_: object) -> None:
        seen: dict[int, bool] = {}
        for path, (module, was) in before.items():
            now = _attributes(module, seen)
            for name in {*was, *now}:
                (old, held), (new, holds) = was.get(name, (ABSENT, False)), now.get(name, (ABSENT, False))
                if holds and not held:
                    caches.append(Cache(path, name, empty.get((path, name), ABSENT)))
                    _put(module, name, _fresh(caches[-1].empty))
                elif held and old is not new:
                    _put(module, name, old)

    handle = model.register_forward_hook(put_back) if each else None
    try:
        yield caches
    finally:
        put_back()
        if handle is not None:
            handle.remove()


def empty(model: nn.Module, caches: Sequence[Cache]) -> None:
    """Put the caches of a model back to what they held when it was traced."""
    modules = dict(model.named_modules())
    for cache in caches:
        if (module := modules.get(cache.path)) is not None and holds_tensors(_get(module, cache.name)):
            _put(module, cache.name, _fresh(cache.empty))


def tensors_kept(model: nn.Module) -> dict[str, Any]:
    """Plain attributes of modules that hold tensors, by name."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in OWN and holds_tensors(value)
    }


def holds_tensors(value: Any, seen: dict[int, bool] | None = None) -> bool:
    """Whether it is a tensor, or a container or plain object with one.

    Args:
        seen: Answers for objects that many modules share.
    """
    if type(value) in PLAIN or isinstance(value, int | float | str | nn.Module | type):
        return False
    if isinstance(value, Tensor):
        return True
    seen = {} if seen is None else seen
    if id(value) not in seen:
        seen[id(value)] = False  # while it is looked at, for it may refer to itself
        seen[id(value)] = any(holds_tensors(one, seen) for one in _inside(value))
    return seen[id(value)]


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    return vars(value).values() if hasattr(value, "__dict__") and not callable(value) else ()


def _attributes(module: nn.Module, seen: dict[int, bool]) -> dict[str, tuple[Any, bool]]:
    """Each attribute and buffer, and whether it holds tensors."""
    found = {name: (value, holds_tensors(value, seen)) for name, value in vars(module).items() if name not in OWN}
    for name, value in module._buffers.items():
        found[name] = (value, value is not None)
    return found


def _fresh(value: Any) -> Any:
    """The same, for another to fill: containers, and those in the attributes of an object, are copies."""
    if isinstance(value, dict | list | set):
        return copy.copy(value)
    if value is ABSENT or not hasattr(value, "__dict__") or callable(value):
        return value
    try:
        twin = copy.copy(value)
        vars(twin).update({name: copy.copy(one) for name, one in vars(value).items() if type(one) in (dict, list, set)})
    except Exception:  # whatever the copy of somebody's class raises
        return value
    return twin


def _get(module: nn.Module, name: str) -> Any:
    return module._buffers[name] if name in module._buffers else vars(module).get(name, ABSENT)


def _put(module: nn.Module, name: str, value: Any) -> None:
    if name in module._buffers:
        module._buffers[name] = value if isinstance(value, Tensor) else None
    elif value is ABSENT:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = value
