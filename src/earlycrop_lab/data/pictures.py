"""Picture files to one uint8 tensor, decoded once and kept in a cache."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from earlycrop_lab.names import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def pictures(folder: Path) -> list[Path]:
    """The picture files in a folder and its subfolders, sorted by path, without hidden files."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def decode(files: Sequence[Path], size: int, cached: bool = True) -> UInt8[Tensor, "n 3 s s"]:
    """Each file's picture in RGB: its shorter side resized to `size` pixels, then the central square.

    The result is cached under $XDG_CACHE_HOME/earlycrop (~/.cache/earlycrop), under a name derived from the files'
    paths, sizes and times of modification. Without write access there, it is not cached.

    Raises:
        DataError: A file is not a complete picture, or the pictures need more than half of the memory.
    """
    shape = (len(files), 3, size, size)
    needed, memory = len(files) * 3 * size**2, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise DataError(
            f"{len(files):,} pictures of {size}x{size} pixels take {needed / 2**30:.1f} GiB, more than half of this "
            f"machine's memory ({memory / 2**30:.1f} GiB). Use a smaller size or fewer pictures."
        )
    cache = cache_file(files, size)
    if cached:
        with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: decode again
            kept = np.load(cache, allow_pickle=False)
            if kept.shape == shape and kept.dtype == np.uint8:
                return torch.from_numpy(kept)
    images = np.empty(shape, np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
        for i, image in enumerate(pool.map(lambda file: read(file, size), files)):
            images[i] = image.transpose(2, 0, 1)
    if cached:
        with contextlib.suppress(OSError):
            keep(images, cache)
    return torch.from_numpy(images)


def read(file: Path, size: int) -> np.ndarray:
    """One picture, as an array of shape (size, size, 3).

    Raises:
        DataError: The file is no complete picture, or nothing says which of its values is white.
    """
    try:
        with Image.open(file) as picture:
            upright = _eight_bits(ImageOps.exif_transpose(picture), picture.format)
            if upright is not None:
                return np.asarray(ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
            mode = picture.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file} is not a whole picture ({error}; {file.stat().st_size:,} bytes found). It was left as it is. "
            f"Get it again or take it out of its folder."
        ) from error

    raise DataError(
        f"{file} has pixels of mode {mode} ({MODES[mode]}), and nothing says which value is white. It was left as it "
        "is. Convert it to 8 or 16 bits, or take it out of its folder."
    )


MODES = {"I": "32-bit integers", "F": "floating-point numbers"}
"""Pillow's modes without a known range."""


def _eight_bits(picture: Image.Image, form: str | None) -> Image.Image | None:
    """A picture with 8 bits for each value; None where the range of its values is not known.

    Grey values of 16 bits, of which Pillow itself keeps the lowest 255, are scaled. In PNG and PPM files it may call
    them 32-bit integers.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
    return None if picture.mode in MODES else picture


def cache_file(files: Sequence[Path], size: int) -> Path:
    """The path of the cache for exactly these files in their current state."""
    signature = hashlib.sha256(f"2 {size}".encode())  # 2: the version, to increase when decoding changes
    for file in files:
        status = file.stat()
        signature.update(
            f"\n{file.absolute()}\t{status.st_size}\t{status.st_mtime_ns}".encode(errors="surrogateescape")
        )
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "earlycrop" / f"pictures-{signature.hexdigest()[:32]}.npy"


def keep(images: np.ndarray, cache: Path) -> None:
    """Write the cache, atomically."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as part:
        try:
            np.save(part, images)
            part.flush()
            os.replace(part.name, cache)
        except BaseException:
            os.unlink(part.name)
            raise
