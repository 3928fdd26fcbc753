"""Files that are complete or absent: tensors and texts in one file, with a digest of everything, replaced atomically.

The format is safetensors, which holds no code. It is written here rather than by the format's own writer, because that
one needs numpy, leaves half-written files under names that nobody can find again, and does not wait for the disk.
A tensor that is mostly zero is stored as a bitmap and its nonzero values, bit for bit.
"""

import base64
import ctypes
import glob
import hashlib
import json
import os
import secrets
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from earlycrop.bits import as_integers
from earlycrop.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not Unix: what a killed process left behind stays
    fcntl = None

WRITERS = {"earlycrop-2": "earlycrop.save", "earlycrop-state-1": "earlycrop.save_state"}
"""The kinds of files, and what writes each."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BITS, VALUES = ".bits", ".values"
LONGEST_HEADER = 100_000_000
"""In bytes; readers of the format refuse more."""


def write(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    texts: Mapping[str, str],
    masked: Collection[str] | None = None,
) -> int:
    """Write a file of that kind, completely or not at all.

    Args:
        path: The file; its folder is created if missing.
        kind: One of `WRITERS`.
        tensors: By name.
        texts: By name.
        masked: The names of those that are stored as a bitmap and values where they are mostly zero; None: all, and
            booleans as bitmaps too.

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: a tensor cannot be stored; names it.
        OSError: the file cannot be written; what was there before still is.
    """
    stored: dict[str, Tensor] = {}
    sparse: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        value = _plain(name, tensor)
        bits = as_integers(value)
        nonzero = bits != 0  # any bit set, so that -0.0 is a value like any other
        if masked is not None and name not in masked:
            stored[name] = value
        elif value.dtype == torch.bool:
            sparse[name], stored[name + BITS] = list(value.shape), _pack(nonzero)
        elif value.element_size() > 1 and 2 * int(nonzero.sum()) < value.numel():
            sparse[name], stored[name + BITS] = list(value.shape), _pack(nonzero)
            stored[name + VALUES] = bits[nonzero].view(value.dtype)
        else:
            stored[name] = value
    header = {"format": kind, **texts, "sparse": json.dumps(sparse)}
    header["digest"] = _digest(header, stored)
    entries, end = {}, 0
    for name in sorted(stored, key=lambda name: -stored[name].element_size()):  # so that each value is aligned
        begin, end = end, end + stored[name].nbytes
        shape = list(stored[name].shape)
        entries[name] = {"dtype": DTYPES[stored[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps({"__metadata__": header, **entries}).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > LONGEST_HEADER:
        raise CheckpointError(
            f"Cannot write {os.fspath(path)}: names, numbers and texts take {len(head):,} bytes, and the format allows "
            f"{LONGEST_HEADER:,}. Keep long lists of numbers as tensors."
        )
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in entries:
            file.write(_bytes(stored[name]))
    return os.stat(path).st_size


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts and tensors of a file of that kind.

    Args:
        path: The file.
        kind: One of `WRITERS`.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise CheckpointError(f"Cannot read {path}: it is a folder. Name the file in it that {WRITERS[kind]} wrote.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copies, because the reader maps the file: its tensors are misaligned, and change if the file does
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}. Save it again with {WRITERS[kind]}.") from error
    found = header.get("format")
    if found != kind:
        whose = f"it was written by {WRITERS[found]}" if found in WRITERS else f"its format is {found!r}, not {kind!r}"
        raise CheckpointError(f"{path} was not written by {WRITERS[kind]}: {whose}.")
    if header.get("digest") != _digest(header, stored):
        raise CheckpointError(f"{path} is damaged: it is not what was written. Save it again with {WRITERS[kind]}.")
    for name, shape in json.loads(header["sparse"]).items():
        stored[name] = _unpack(stored.pop(name + BITS), stored.pop(name + VALUES, None), shape)
    return header, stored


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into; it replaces `path` once the body has ended and everything is on the disk.

    Whatever happens before that (an error, a full disk, a killed process, a crash of the machine), `path` stays what it
    was. What a dead process has left behind is removed the next time.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        file = _begin(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise
        _sync(path.parent)
    except OSError as error:
        error.filename = os.fspath(path)
        del error.filename2  # set by a failed rename; None would be printed as a name
        raise


def partial(path: Path) -> bool:
    """Whether a file of this name is still being written, or was when its process died."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def _begin(path: Path) -> BinaryIO:
    """A new file beside `path`, locked as long as this process lives and has it open."""
    while True:
        file = open(path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial"), "xb")  # noqa: SIM115 - the caller's
        if fcntl is None:
            return file
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(file.name):
            return file
        file.close()  # another process swept it away before it was locked


def sweep(path: Path) -> None:
    """Remove what dead processes left half written beside `path`: every partial file that nobody has locked."""
    if fcntl is None:
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(left)


def _sync(folder: Path) -> None:
    """Wait until the new name is on the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(name: str, tensor: Tensor) -> Tensor:
    """The values on the CPU, contiguous in memory.

    Raises:
        CheckpointError: they cannot be stored.
    """
    why = None
    if torch.nn.parameter.is_lazy(tensor):
        why = "it has no shape yet: run the model once"
    elif tensor.layout != torch.strided or tensor.is_quantized:
        why = f"it is {'quantized' if tensor.is_quantized else tensor.layout}: make it dense"
    elif tensor.device.type == "meta":
        why = "it is on the meta device and has no values"
    elif tensor.dtype not in DTYPES:
        why = f"the format has no {tensor.dtype}: convert it"
    if why:
        raise CheckpointError(f"Cannot store `{name}`: {why}.")
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def embed(name: str, tensor: Tensor) -> dict[str, object]:
    """A tensor as text, for a file's header: other readers of the file do not see it among the tensors.

    Args:
        name: Its name, for errors.
        tensor: The tensor.

    Raises:
        CheckpointError: it cannot be stored.
    """
    value = _plain(name, tensor)
    data = base64.b64encode(zlib.compress(bytes(_bytes(value)))).decode()
    return {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data": data}


def embedded(record: Mapping[str, Any]) -> Tensor:
    """The tensor of which `embed` made this record."""
    dtype = next(kind for kind, name in DTYPES.items() if name == record["dtype"])
    data = bytearray(zlib.decompress(base64.b64decode(record["data"])))
    return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).view(record["shape"])


def _digest(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of everything that the file holds, independent of the order in the file."""
    digest = hashlib.sha256()
    for key in sorted(header.keys() - {"digest"}):
        digest.update(f"{key} {header[key]}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(value: Tensor) -> ctypes.Array | bytes:
    return (ctypes.c_char * value.nbytes).from_address(value.data_ptr()) if value.numel() else b""


def _pack(bits: Tensor) -> Tensor:
    """Eight booleans in each byte, the first in the lowest bit."""
    flat = torch.nn.functional.pad(bits.reshape(-1).to(torch.uint8), (0, -bits.numel() % 8))
    return (flat.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _unpack(packed: Tensor, values: Tensor | None, shape: list[int]) -> Tensor:
    bits = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().reshape(-1)[: torch.Size(shape).numel()]
    if values is None:
        return bits.view(shape)
    integers = as_integers(values)
    whole = integers.new_zeros(len(bits))
    whole[bits] = integers
    return whole.view(values.dtype).view(shape)
