"""The data sets of images and depths, by name.

>>> from earlycrop_lab.data.depths import load
>>> print(load("scenes", size=(57, 76), depth_size=(32, 48)))
scenes: 400 training and 100 test pairs, images of 76x57 pixels (rooms rendered on the spot)
"""

from collections.abc import Callable
from pathlib import Path

from earlycrop_lab import names
from earlycrop_lab.data.archive import data_root
from earlycrop_lab.data.nyu_depth import nyu_depth
from earlycrop_lab.data.pairs import Pairs
from earlycrop_lab.data.scenes import scenes

Size = tuple[int, int]

DEPTHS: dict[str, Callable[[Path, Size, Size], Pairs]] = {
    "scenes": lambda _, size, depth_size: scenes(size, depth_size),
    "nyu-depth-v2": nyu_depth,
}
"""By name, the function that reads a data set, given the folder of data sets and the sizes of images and depths."""


def load(name: str, root: Path | str | None = None, *, size: Size, depth_size: Size) -> Pairs:
    """The images and depths of that name, on the CPU.

    Args:
        name: A name of `DEPTHS`.
        root: The folder of the data sets, in their official forms; by default $EARLYCROP_DATA, or else `data`.
        size: Height and width of the images, in pixels.
        depth_size: Height and width of the training depths, in pixels.

    Raises:
        DataError: The name is unknown, or the files are missing, damaged or not the official ones. Files are never
            changed.
    """
    names.DEPTHS.check(name)
    return DEPTHS[name](data_root(root), size, depth_size)
