"""What a call of the model returns, and what of it is no output but state for the next call."""

import inspect
from collections.abc import Mapping
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree


class StateError(ValueError):
    """The model returns something of which it is not known what it holds."""


def returned(model: nn.Module, result: Any, whole: bool) -> Any:
    """What a call returns, without the state that the next call may take: objects by the name of one of its arguments.

    That is how language models return a cache of keys and values, which shrinks with them.

    Raises:
        StateError: an object that is no tensor and may hold some.
    """
    known = (Tensor, int, float, str, NoneType)
    if isinstance(result, Mapping) and whole:
        arguments = inspect.signature(model.forward).parameters
        state = [name for name in result if name in arguments and _opaque(result[name], known)]
        result = {name: value for name, value in result.items() if name not in state}
    if whole and (opaque := _opaque(result, known)):
        raise StateError(
            f"it returns an object of type {type(opaque[0]).__name__}, which is no tensor; return tensors, in tuples, "
            f"lists or dicts, or switch it off (for a language model of Hugging Face: `model.config.use_cache = False`)"
        )
    return result


def _opaque(result: Any, known: tuple[type, ...]) -> list[Any]:
    return [value for value in pytree.tree_leaves(result) if not isinstance(value, known)]
