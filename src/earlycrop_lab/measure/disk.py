"""What a trained model takes on disk."""

from collections.abc import Iterable
from math import ceil
from pathlib import Path


def file_bytes(path: Path | str) -> int:
    """Bytes of the saved file."""
    return Path(path).stat().st_size


def packed_bytes(layers: Iterable[tuple[int, int]], whole: int) -> int:
    """Bytes of a masked model were it saved packed: per layer the kept values and a bitmap of where they stand.

    A mask saves nothing in a plain file: its zeros are stored like any number. Packed, a layer of `n` weights of which
    `k` are kept takes 4·k bytes of values and ⌈n/8⌉ of bitmap, or its plain 4·n if that is less.

    Args:
        layers: (weights, kept weights) of each masked layer.
        whole: Bytes of the plain file.

    >>> packed_bytes([(1000, 50)], whole=4500)  # 500 bytes of other things, 200 of values, 125 of bitmap
    825
    """
    return whole - sum(max(0, 4 * n - (4 * kept + ceil(n / 8))) for n, kept in layers)
