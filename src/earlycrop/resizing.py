"""The sizes of a network as plain data, and a network brought to them, after which a state dict of these sizes fits.

Sizes are the shapes of parameters and buffers, and the widths in the modules: public attributes that are integers or
tuples of integers (`out_channels`, `num_heads`, your own). Names are those of the plain network: what `torch.compile`
wraps has the same names as without it.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.errors import CheckpointError
from earlycrop.structure.gated_norms import GatedNorm, gate_norms, plain_norms
from earlycrop.structure.heads import fit
from earlycrop.structure.strided import subsample
from earlycrop.structure.surgery import keep_in_state, rebind, unharmed
from earlycrop.structure.walk import tensors_of

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "output_padding")
"""Attributes that no cut changes: where these differ, the networks do."""
AGAIN = "Build the network with the options that it was saved with."
COMPILED = "_orig_mod"
"""The name under which `torch.compile` keeps the module that it wraps."""


def sizes_of(model: nn.Module) -> dict[str, Any]:
    """The sizes of a network: plain dictionaries, lists, texts and integers.

    Args:
        model: The network, cut or dense.
    """
    shapes = {name: list(one.shape) for name, one in tensors_in(model).items()}
    return {"widths": widths_in(model), "shapes": shapes, "passing": sorted(passing_in(model))}


def resize(model: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Bring a network to saved sizes, so that `load_state_dict` takes a state of these sizes.

    Parameters stay the same objects; each keeps the first of its entries along every dimension.

    Args:
        model: The network as its class builds it, or one that has these sizes already.
        sizes: What `sizes_of` returned.

    Raises:
        CheckpointError: these are the sizes of another network, or larger ones; the model is untouched.
    """
    tensors, passing, where = tensors_in(model), passing_in(model), "The saved state"
    check_names(tensors, sizes["shapes"], passing, where)
    values = {}
    for name, shape in sizes["shapes"].items():
        if name in tensors and list(tensors[name].shape) != list(shape):
            check_part(name, shape, tensors[name].shape, where)
            values[name] = tensors[name].detach()[tuple(slice(size) for size in shape)].clone()
    refit(model, values, changed(modules_in(model), sizes["widths"], where), passing - set(sizes["passing"]))


def refit(
    model: nn.Module,
    values: Mapping[str, Tensor],
    widths: Mapping[tuple[str, str], Any],
    kept: Collection[str],
) -> None:
    """Bind values and set widths: all of them or, if anything fails, none.

    Args:
        model: The network.
        values: New values by name.
        widths: New widths by module and attribute.
        kept: The non-persistent buffers that belong to the saved model's state, because they were cut.
    """
    tensors, modules = tensors_in(model), modules_in(model)
    gated = any(isinstance(module, GatedNorm) for module in model.modules())
    with unharmed(model, None):
        plain_norms(model)
        for name, value in values.items():
            rebind(tensors[name], value)
        for name in kept:
            keep_in_state(modules, name)
        for (name, attribute), value in widths.items():
            setattr(modules[name], attribute, value)
        fit(model)
        subsample(model)
        if gated:
            gate_norms(model)


# Names ------------------------------------------------------------------------------------------------


def plain_name(name: str) -> str:
    """The name of a module, parameter or buffer without those that `torch.compile` inserts.

    >>> plain_name("_orig_mod.layers.0._orig_mod.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != COMPILED)


def tensors_in(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their plain names, each object once."""
    return {plain_name(name): tensor for name, tensor in tensors_of(model)}


def modules_in(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by their plain names, without wrappers of `torch.compile`."""
    return {plain_name(name): module for name, module in model.named_modules() if COMPILED not in module._modules}


def passing_in(model: nn.Module) -> set[str]:
    """The names of the non-persistent buffers: not part of the model's state, but a cut may reach them."""
    return {
        f"{path}.{name}" if path else name
        for path, module in modules_in(model).items()
        for name in module._non_persistent_buffers_set
    }


# Widths -----------------------------------------------------------------------------------------------


def is_width(value: Any) -> bool:
    """Whether it is an integer, or a tuple or list of integers."""
    return type(value) is int or (type(value) in (tuple, list, torch.Size) and {*map(type, value)} == {int})


def widths_of(module: nn.Module, counts: Callable[[Any], bool] = is_width) -> dict[str, Any]:
    """The public attributes of a module that count as widths."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_") and counts(value)}


def widths_in(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The widths of every module that has some, by its name."""
    return {name: found for name, module in modules_in(model).items() if (found := widths_of(module))}


def like(old: Any, value: Any) -> Any:
    """A value from JSON, which has no tuples, in the type of the value that it replaces."""
    kind = tuple if isinstance(old, int) else type(old)
    return kind(value) if isinstance(value, list) else value


def changed(
    modules: Mapping[str, nn.Module], stored: Mapping[str, Mapping[str, Any]], where: str
) -> dict[tuple[str, str], Any]:
    """The stored widths that differ from the modules' own, by module and attribute; none of the geometry may.

    Args:
        modules: The modules by name.
        stored: The stored widths by module and attribute.
        where: What they were stored in, for errors.

    Raises:
        CheckpointError: a kernel size or stride differs.
    """
    widths = {}
    for name, found in stored.items():
        mine = widths_of(modules[name]) if name in modules else {}
        for attribute in found.keys() & mine.keys():
            old = mine[attribute]
            value = like(old, found[attribute])
            if old != value and attribute in GEOMETRY:
                raise CheckpointError(
                    f"{where} holds another network: `{attribute}` of `{name}` is {value}, in this model {old}. {AGAIN}"
                )
            if old != value:
                widths[name, attribute] = value
    return widths


# Checks -----------------------------------------------------------------------------------------------


def check_names(mine: Mapping[str, Any], stored: Mapping[str, Any], passing: set[str], where: str) -> None:
    """Both must have the same names, non-persistent buffers excepted.

    Raises:
        CheckpointError: they are of different networks; names the first tensor that only one has.
    """
    if differing := sorted((set(mine) ^ set(stored)) - passing):
        raise CheckpointError(
            f"{where} holds another network: {len(differing)} tensors are in one but not in the other, "
            f"`{differing[0]}` first. {AGAIN}"
        )


def check_part(name: str, shape: Any, whole: Any, where: str) -> None:
    """A shape must fit into that of the model's own tensor.

    Raises:
        CheckpointError: it has other dimensions, or is larger.
    """
    if len(shape) != len(whole) or any(size > all_ for size, all_ in zip(shape, whole, strict=True)):
        raise CheckpointError(
            f"{where}: `{name}` has shape {tuple(shape)}, which is not part of this model's {tuple(whole)}. {AGAIN}"
        )
