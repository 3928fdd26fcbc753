"""Hugging Face configurations of pruned models: as true as they can be, with a record of what no configuration says.

A configuration has one hidden size for all layers, and a cut leaves each layer its own. What the configuration can say
(sizes that stayed uniform) it says: a field is changed if the class then builds a model that differs in less. The rest
is a record in the configuration itself, under `earlycrop`, so that every way of saving carries it. A configuration
with such a record is refused by `from_pretrained`, which would draw the layers that do not fit at random.
"""

import copy
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig, PreTrainedModel

from earlycrop.errors import CheckpointError
from earlycrop.resizing import is_width, like, modules_in, passing_in, plain_name, widths_of
from earlycrop.structure.heads import fit
from earlycrop.structure.strided import subsample
from earlycrop.structure.surgery import keep_in_state, rebind
from earlycrop.structure.trace import as_inputs, called

RECORD = "earlycrop"
"""The field of a configuration that holds the record."""
GUARD = "quantization_config"
"""Where readers look for how weights are to be loaded; without a method that they know they refuse the folder."""
LOADER = {"loader": "earlycrop.integrations.transformers.load"}

Facts = dict[tuple[str, str], Any]
"""By module (or tensor) and attribute (or `shape`) every number in a model."""
Change = tuple[PretrainedConfig, str, Any, Any]
"""A field of a configuration, its value, and another one."""


def describe(model: PreTrainedModel, inputs: object = None) -> None:
    """Make a model's configuration true, and record in it what it cannot say.

    Args:
        model: The model, whose configuration is changed in place.
        inputs: What the model takes, as `example_inputs`, to see what it computes. If it computes something else with
            the changed fields, which its code may read while it runs, they stay as they were; and if the class builds
            a model that computes the same from the configuration alone, no record is needed.

    Raises:
        CheckpointError: the class does not build this model from its configuration, whatever the sizes.
    """
    config = model.config
    forget(config)
    outputs = None if inputs is None else _outputs(model, inputs)
    built, left, changes = _made_true(model)
    if inputs is not None and changes and not _equal(outputs, _outputs(model, inputs)):
        _set(_former(changes))
        built = _built(model)
        left = _differences(model, built)
    if left and inputs is not None and all(attribute != "shape" for _, attribute in left):
        left = {} if _equal(outputs, _outputs(_twin(model), inputs)) else left
    if left:
        setattr(config, RECORD, _record(model, built, left))
        setattr(config, GUARD, dict(LOADER))


def forget(config: PretrainedConfig) -> dict[str, Any] | None:
    """Take the record out of a configuration, and with it what keeps others from loading; None if there is none.

    Args:
        config: The configuration, changed in place.
    """
    record = vars(config).pop(RECORD, None)
    if record is not None and vars(config).get(GUARD) == LOADER:
        delattr(config, GUARD)
    return record


def apply(model: PreTrainedModel, record: Mapping[str, Any]) -> None:
    """Give a model that its class built the sizes of a record; values are what comes to be there.

    Args:
        model: The model, on the meta device or any other.
        record: What `describe` recorded.

    Raises:
        CheckpointError: the record is of another class.
    """
    tensors, modules = _tensors(model), modules_in(model)
    unknown = [*(set(record["shapes"]) - set(tensors)), *(set(record["attributes"]) - set(modules))]
    if unknown:
        raise CheckpointError(
            f"The saved model has `{unknown[0]}`, and {type(model).__name__} has not: name its class."
        )
    for name, shape in record["shapes"].items():
        if list(tensors[name].shape) != shape:
            rebind(tensors[name], tensors[name].new_empty(shape))
    for name, values in record["attributes"].items():
        for attribute, value in values.items():
            setattr(modules[name], attribute, like(getattr(modules[name], attribute), value))
    for name in record["kept"]:
        keep_in_state(modules, name)
    fit(model)
    subsample(model)


# What the class builds --------------------------------------------------------------------------------


def _built(model: PreTrainedModel) -> PreTrainedModel:
    """The model that its class builds from its configuration, without data."""
    try:
        with torch.device("meta"), _quiet():
            return type(model)(copy.deepcopy(model.config))
    except Exception as error:
        raise CheckpointError(
            f"{type(model).__name__} does not build this model from its configuration alone ({type(error).__name__}: "
            f"{error}), so a folder cannot hold it. Save it with `earlycrop.save`."
        ) from error


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """The model that its class builds from its configuration, with the model's values."""
    with _quiet(), torch.random.fork_rng():
        twin = type(model)(copy.deepcopy(model.config))
    twin.load_state_dict(model.state_dict())
    return twin.to(model.device, model.dtype)  # type: ignore[arg-type]


def _facts(model: PreTrainedModel) -> Facts:
    facts: Facts = {(name, "shape"): list(tensor.shape) for name, tensor in _tensors(model).items()}
    for name, module in modules_in(model).items():
        facts |= {(name, attribute): value for attribute, value in widths_of(module, _is_number).items()}
    return facts


def _differences(model: PreTrainedModel, built: PreTrainedModel) -> Facts:
    """What the model has, and its class, from the configuration, has not."""
    for mine, theirs in ((_tensors(model), _tensors(built)), (modules_in(model), modules_in(built))):
        if strange := sorted({*mine} ^ {*theirs}):
            raise CheckpointError(
                f"{type(model).__name__} does not build this model from its configuration: `{strange[0]}` is only in "
                f"one of them. Save it with `earlycrop.save`, and build it yourself before `earlycrop.load`."
            )
    theirs = _facts(built)
    return {key: value for key, value in _facts(model).items() if key in theirs and theirs[key] != value}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {plain_name(name): tensor for name, tensor in named}


def _is_number(value: Any) -> bool:
    return type(value) is float or is_width(value)


def _record(model: PreTrainedModel, built: PreTrainedModel, left: Facts) -> dict[str, Any]:
    attributes: dict[str, dict[str, Any]] = {}
    for (name, attribute), value in left.items():
        if attribute != "shape":
            attributes.setdefault(name, {})[attribute] = list(value) if isinstance(value, tuple) else value
    shapes = {name: value for (name, attribute), value in left.items() if attribute == "shape"}
    return {"shapes": shapes, "attributes": attributes, "kept": sorted(passing_in(built) - passing_in(model))}


# The truest configuration -----------------------------------------------------------------------------


def _made_true(model: PreTrainedModel) -> tuple[PreTrainedModel, Facts, list[Change]]:
    """Change fields as long as the configuration becomes truer.

    Returns:
        What the class then builds, in what the model differs from that, and what was changed.
    """
    built = _built(model)
    left, changes = _differences(model, built), []
    while left:
        numbers, absent = _settings(model, built, left)
        pairs = (pair for pair in combinations(numbers, 2) if pair[0][:2] != pair[1][:2])
        for chosen in [*((one,) for one in numbers), *pairs, *((one,) for one in absent)]:
            tried = _tried(model, chosen)
            if tried is not None and _truer(_facts(model), _facts(built), _facts(tried)):
                built, left = tried, _differences(model, tried)
                changes += chosen
                _set(chosen)
                break
        else:
            break
    return built, left, changes


def _truer(mine: Facts, before: Facts, after: Facts) -> bool:
    """Whether more numbers are right than before, and most of those that moved are now right in every layer."""
    right = sum(after.get(key) == value for key, value in mine.items())
    if right <= sum(before.get(key) == value for key, value in mine.items()):
        return False
    roles: dict[tuple[str, str], bool] = {}
    for key in (key for key in mine if before.get(key) != after.get(key)):
        role = re.sub(r"\.\d+(?=\.|$)", ".*", key[0]), key[1]
        roles[role] = roles.get(role, True) and after.get(key) == mine[key]
    return 2 * sum(roles.values()) > len(roles)


def _settings(model: PreTrainedModel, built: PreTrainedModel, left: Facts) -> tuple[list[Change], list[Change]]:
    """Fields and what they may be instead: integers as they stand in the model where the class puts the field's value.

    Returns:
        Those for fields that are integers, and those for fields that are None.
    """
    theirs = _facts(built)
    pairs = Counter(pair for key, value in left.items() for pair in _moved(theirs[key], value))
    sizes: Counter[int] = Counter()
    for (_, new), times in pairs.items():
        sizes[new] += times
    numbers, absent = [], []
    for config in _configs(model.config):
        for field, value in vars(config).items():
            if type(value) is int and not field.startswith("_"):
                wanted = Counter({new: times for (old, new), times in pairs.items() if old == value})
                numbers += [(config, field, value, new) for new, _ in wanted.most_common(2)]
            elif value is None and not field.startswith("_"):
                absent += [(config, field, value, new) for new, _ in sizes.most_common(1)]
    return numbers, absent


def _moved(old: Any, new: Any) -> Iterator[tuple[int, int]]:
    """Where two numbers, or sequences of numbers, differ: the old one and the new one."""
    olds, news = ([one] if isinstance(one, int | float) else list(one) for one in (old, new))
    for before, after in zip(olds, news, strict=False):
        if before != after and isinstance(before, int) and isinstance(after, int):
            yield before, after


def _tried(model: PreTrainedModel, chosen: Sequence[Change]) -> PreTrainedModel | None:
    """What the class builds with these changes; None if it builds nothing like the model."""
    try:
        _set(chosen)
        built = _built(model)
        found, passing = _differences(model, built), passing_in(model)
        if any(attribute == "shape" and name in passing for name, attribute in found):
            return None  # a buffer that nobody saves would be computed in another size
        return built
    except Exception:  # a configuration may refuse any combination in its own way
        return None
    finally:
        _set(_former(chosen))


def _set(changes: Sequence[Change]) -> None:
    for config, field, _, value in changes:
        setattr(config, field, value)


def _former(changes: Sequence[Change]) -> list[Change]:
    """The changes that undo these."""
    return [(config, field, new, old) for config, field, old, new in reversed(changes)]


def _configs(config: PretrainedConfig) -> list[PretrainedConfig]:
    return [config, *(one for one in vars(config).values() if isinstance(one, PretrainedConfig))]


# What it computes -------------------------------------------------------------------------------------


@torch.no_grad()
def _outputs(model: PreTrainedModel, inputs: object) -> list[Tensor]:
    """What the model computes in evaluation mode."""
    training = [module for module in model.modules() if module.training]
    try:
        found = called(model.eval(), as_inputs(inputs))
    finally:
        for module in training:
            module.training = True
    return [leaf for leaf in tree_leaves(dict(found) if isinstance(found, dict) else found) if isinstance(leaf, Tensor)]


def _equal(before: list[Tensor] | None, after: list[Tensor]) -> bool:
    return before is not None and len(before) == len(after) and all(map(torch.equal, before, after))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks about configurations that are only tried."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
