"""Removes channels for good: every tensor is cut in place on the same object, all of them or none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.errors import EarlyCropError, OptimizerError
from earlycrop.structure.caches import empty
from earlycrop.structure.duplicates import OWN
from earlycrop.structure.heads import fit
from earlycrop.structure.strided import subsample
from earlycrop.structure.structure import Structure
from earlycrop.structure.walk import tensors_of

Index = list[Int[Tensor, "_"] | None]


def cut(structure: Structure, model: nn.Module, keep: Tensor, *optimizers: Optimizer | None) -> Structure:
    """Remove the classes that are not in `keep` from the model and from the state of its optimizers.

    Parameters and buffers stay the same objects, so names, ties and the optimizers' references survive;
    `.grad` becomes None. Module integers such as `out_channels` follow. Either all of this happens or nothing does.
    Strided 1×1 convolutions so narrow that PyTorch could hang in them compute the same result in another
    way (`strided.py`).

    Args:
        structure: The structure of the model.
        model: The network, cut in place.
        keep: True for each class that stays.
        optimizers: Optimizers that hold parameters of the model; None counts for none.

    Returns:
        The structure of the smaller model.

    Raises:
        EarlyCropError: `keep` does not fit, or would empty a layer.
        OptimizerError: some state of an optimizer cannot be cut entry by entry.
    """
    after = remove(structure, model, keep, *optimizers)
    if not bool(keep.all()):
        subsample(model)
    return after


def remove(structure: Structure, model: nn.Module, keep: Tensor, *optimizers: Optimizer | None) -> Structure:
    """`cut` that leaves each operator what it was, so that graphs before and after can be compared."""
    keep = keep.detach().cpu()
    if keep.shape != (len(structure),) or keep.dtype != torch.bool:
        raise EarlyCropError(
            f"`keep` must be a boolean vector with one entry for each of the {len(structure)} classes; "
            f"found {keep.dtype} of shape {tuple(keep.shape)}."
        )
    with unharmed(model, *optimizers):
        empty(model, structure.caches)
        return _removed(structure, model, keep, *filter(None, optimizers))


def _removed(structure: Structure, model: nn.Module, keep: Tensor, *optimizers: Optimizer) -> Structure:
    tensors = dict(tensors_of(model))
    for name, layout in structure.tensors.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != layout.shape:
            raise EarlyCropError(
                f"The structure was found on another model: there, `{name}` has shape {layout.shape}, "
                f"but here it is {found or 'missing'}. Trace this model again."
            )
    after = structure.after(keep)
    for name, layout in after.tensors.items():
        if 0 in layout.shape and 0 not in structure.tensors[name].shape:
            raise EarlyCropError(f"`keep` leaves no channel of `{name}`: keep at least one class of each layer.")
    indices = {name: structure.index(name, keep) for name in tensors if name in structure.tensors}  # others are caches
    indices = {name: index for name, index in indices.items() if any(kept is not None for kept in index)}
    for optimizer in optimizers:
        cut_state(optimizer, {tensors[name]: index for name, index in indices.items()})
    modules = dict(model.named_modules())
    for name, index in indices.items():
        rebind(tensors[name], select(tensors[name].data, index))
        keep_in_state(modules, name)
    _set_attributes(model, after)
    fit(model)
    return after


def select(data: Tensor, index: Index) -> Tensor:
    """The entries at the given indices of each dimension, in the memory format of `data`."""
    channels_last = (
        data.ndim == 4 and not data.is_contiguous() and data.is_contiguous(memory_format=torch.channels_last)
    )
    for dim, kept in enumerate(index):
        if kept is not None:
            data = data.index_select(dim, kept.to(data.device))
    return data.contiguous(memory_format=torch.channels_last) if channels_last else data


def rebind(tensor: Tensor, data: Tensor) -> None:
    """Give a parameter or buffer new data of any shape; it stays the same object.

    While an old loss is alive, so is the autograd node that accumulates this parameter's gradient, and that node
    remembers the old shape. PyTorch drops the node when the data change their type, so they change it for a moment.
    Where the shape stays, the node must stay too: DistributedDataParallel waits for it.
    """
    tensor.grad = None
    if tensor.requires_grad and (tensor.shape, tensor.dtype, tensor.device) != (data.shape, data.dtype, data.device):
        detour = torch.float32 if data.dtype != torch.float32 else torch.float64
        tensor.data = torch.empty(0, dtype=detour, device=data.device)
    tensor.data = data


def keep_in_state(modules: Mapping[str, nn.Module], name: str) -> None:
    """A non-persistent buffer that was cut is no longer what its class computes: it belongs to the model's state."""
    path, _, leaf = name.rpartition(".")
    passing = modules[path]._non_persistent_buffers_set
    if leaf in passing:
        modules[path]._non_persistent_buffers_set = passing - {leaf}  # not in place, so that it can be undone


def cut_state(optimizer: Optimizer, indices: dict[Tensor, Index]) -> None:
    """Cut each per-parameter state tensor with the indices of its parameter, which still has its old shape.

    Raises:
        OptimizerError: a state entry is neither a number nor a tensor with the parameter's shape or a single entry.
    """
    plan = []
    for parameter, entries in optimizer.state.items():  # all: L-BFGS keeps everything under the first
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                if parameter in indices:
                    plan.append((parameter, key, select(value, indices[parameter])))
            elif not isinstance(value, int | float | bool | None) and not (
                isinstance(value, Tensor) and value.numel() == 1
            ):
                found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise OptimizerError(
                    f"Cannot cut the state of {type(optimizer).__name__}: its entry `{key}` is {found} where the "
                    f"parameter has shape {tuple(parameter.shape)}, so it has no entry for each weight. Use "
                    f'`optimizer_state="reset"`, or SGD, Adam, AdamW or another optimizer with entry-wise state.'
                )
    for parameter, key, value in plan:
        optimizer.state[parameter][key] = value


def _set_attributes(model: nn.Module, structure: Structure) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for (path, name, position), classes in structure.attributes.items():
        value = classes.numel()
        if position is not None:
            before = getattr(modules[path], name)
            sizes = [*before]
            sizes[position] = value
            value = getattr(before, "_make", type(before))(sizes)  # a named tuple's constructor takes no list
        setattr(modules[path], name, value)


@contextmanager
def unharmed(model: nn.Module, *optimizers: Optimizer | None) -> Iterator[None]:
    """Put model and optimizers back exactly as they were if the body raises.

    Only references are kept: the body must bind new data (`rebind`) and never write into the old.
    """
    put_back = remembered(model, *optimizers)
    try:
        yield
    except BaseException:
        put_back()
        raise
    _settle(model)


def _settle(model: nn.Module) -> None:
    """Let others see the new tensors: cuDNN, which wants a recurrent layer's in one piece, and compiled models.

    In PyTorch 2.8 a compiled model checks a module again only if one of its dictionaries has changed.
    """

    def renew(named: dict[str, Any]) -> None:
        entries = dict(named)
        named.clear()
        named.update(entries)

    for module in model.modules():
        renew(module._parameters)
        renew(module._buffers)
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()


def remembered(model: nn.Module, *optimizers: Optimizer | None) -> Callable[[], None]:
    """A function that puts model and optimizers back as they are now; attributes that are new by then stay."""
    tensors = [(tensor, tensor.data, tensor.grad) for _, tensor in tensors_of(model)]
    attributes = [
        (module, type(module), {k: v for k, v in vars(module).items() if k not in OWN}, dict(module._buffers))
        for module in model.modules()
    ]
    states = [(one, {p: dict(entries) for p, entries in one.state.items()}) for one in optimizers if one is not None]

    def put_back() -> None:
        for tensor, data, grad in tensors:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                rebind(tensor, data)
            tensor.grad = grad
        for module, kind, values, buffers in attributes:
            module.__class__ = kind
            vars(module).update(values)
            module._buffers.update(buffers)
        for optimizer, state in states:
            optimizer.state.clear()
            optimizer.state.update(state)

    return put_back
