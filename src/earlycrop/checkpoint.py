"""Save a pruned model, and load it into the ordinary constructor's: without pickle, and small where it is zero.

The file is in the safetensors format. A tensor that is mostly zero is stored as a bitmap and the values that
are not, bit for bit; module integers (`out_channels`, …) are stored in the header, and so is a digest of
everything, so that a damaged file is never loaded.
"""

import ctypes
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from earlycrop.errors import CheckpointError
from earlycrop.structure.surgery import rebind
from earlycrop.structure.walk import canonical_names, tensors_of

FORMAT = "earlycrop-1"
ATTRIBUTES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_groups"),
    *("num_channels", "normalized_shape", "num_parameters", "embedding_dim"),
)
BITS = ".bits"
VALUES = ".values"


def save(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Write parameters and buffers, and the widths that they imply; all of the file or nothing.

    Returns:
        The size of the file in bytes.
    """
    kept = set(model.state_dict())  # non-persistent buffers are not part of a model's state
    tensors, sparse = {}, {}
    for name, tensor in tensors_of(model):
        if name not in kept:
            continue
        value = tensor.detach().cpu().contiguous()
        nonzero = _nonzero(value)
        if value.element_size() > 1 and 2 * int(nonzero.sum()) < value.numel():
            sparse[name] = list(value.shape)
            tensors[name + BITS] = _pack(nonzero)
            tensors[name + VALUES] = value[nonzero]
        else:
            tensors[name] = value
    widths = {
        path_: {name: getattr(module, name) for name in ATTRIBUTES if hasattr(module, name)}
        for path_, module in model.named_modules()
    }
    widths = {name: found for name, found in widths.items() if found}
    header = {"format": FORMAT, "widths": json.dumps(widths), "sparse": json.dumps(sparse)}
    header["digest"] = _digest(header, tensors)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        safetensors.serialize_file(_specified(tensors), partial, metadata=header)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path.stat().st_size


def load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Give a model built by its ordinary constructor the widths and values of a saved one.

    Raises:
        CheckpointError: the file is damaged, or of another network; the model is untouched.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot read {os.fspath(path)}: {error}. Save the model again.") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)} was not written by earlycrop.save: its format is {header.get('format')!r}, "
            f"not {FORMAT!r}."
        )
    if header.get("digest") != _digest(header, stored):
        raise CheckpointError(f"{os.fspath(path)} is damaged: it is not what was written. Save the model again.")
    for name, shape in json.loads(header["sparse"]).items():
        stored[name] = _unpack(stored.pop(name + BITS), stored.pop(name + VALUES), shape)
    kept = {canonical_names(model)[name] for name in model.state_dict()}
    tensors = {name: tensor for name, tensor in tensors_of(model) if name in kept}
    if set(tensors) != set(stored):
        differing = sorted(set(tensors) ^ set(stored))
        raise CheckpointError(
            f"{os.fspath(path)} holds another network: {len(differing)} tensors are in one and not in the other, "
            f"`{differing[0]}` first. Build the network with the options that it was saved with."
        )
    for name, tensor in tensors.items():
        found, mine = tuple(stored[name].shape), tuple(tensor.shape)
        if len(found) != len(mine) or any(s > t for s, t in zip(found, mine, strict=True)):
            raise CheckpointError(
                f"{os.fspath(path)}: `{name}` has shape {found}, which is no part of this model's {mine}. "
                f"Build the network with the options that it was saved with."
            )
    for name, tensor in tensors.items():
        rebind(tensor, stored[name].to(tensor))
    modules = dict(model.named_modules())
    for module, widths in json.loads(header["widths"]).items():
        for name, value in widths.items():
            if module in modules and hasattr(modules[module], name):
                setattr(modules[module], name, _like(getattr(modules[module], name), value))


def _specified(tensors: dict[str, Tensor]) -> dict[str, safetensors.TensorSpec]:
    """Where each tensor's bytes lie; the format's own way through PyTorch needs numpy, which is not at hand here."""
    return {
        name: safetensors.TensorSpec(
            dtype=str(value.dtype).removeprefix("torch."),
            shape=list(value.shape),
            data_ptr=value.data_ptr(),
            data_len=value.nbytes,
        )
        for name, value in tensors.items()
    }


def _digest(header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Of all that the file holds, whatever the order in which it holds it."""
    digest = hashlib.sha256()
    for key in ("format", "widths", "sparse"):
        digest.update(f"{key} {header.get(key)}\n".encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update((ctypes.c_char * value.nbytes).from_address(value.data_ptr()))
    return digest.hexdigest()


def _like(old: Any, value: Any) -> Any:
    return tuple(value) if isinstance(old, tuple) else value


def _nonzero(value: Tensor) -> Tensor:
    """True where any bit is set, so that -0.0 is a value like others."""
    return (value != 0) | torch.signbit(value) if value.is_floating_point() else value != 0


def _pack(bits: Tensor) -> Tensor:
    """Eight booleans a byte, the first in the lowest bit."""
    flat = torch.nn.functional.pad(bits.reshape(-1).to(torch.uint8), (0, -bits.numel() % 8))
    return (flat.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _unpack(packed: Tensor, values: Tensor, shape: list[int]) -> Tensor:
    bits = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().reshape(-1)
    whole = torch.zeros(torch.Size(shape).numel(), dtype=values.dtype)
    whole[bits[: whole.numel()]] = values
    return whole.view(shape)
