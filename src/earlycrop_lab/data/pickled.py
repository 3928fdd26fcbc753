"""A reader of pickles that accepts plain containers and arrays of bytes, and nothing else.

A pickle may name any function for its reader to call. The official CIFAR files name four, with which numpy (under the
module names of its versions 1 and 2) rebuilds an array. Here each of the four is replaced by a harmless object that
keeps its arguments, and the array is built from these after a check of the shape; every other name is an error.
"""

import math
import pickle
from pathlib import Path

import numpy as np


class PickleError(ValueError):
    """The file is not a complete pickle, or it asks for more than containers and arrays of bytes."""


def load(file: Path) -> object:
    """The content of a pickle, with arrays as `numpy.ndarray` of uint8; Python 2 strings are read as Latin-1.

    Raises:
        PickleError: It is damaged, or names anything but the parts of such an array.
    """
    with file.open("rb") as content:
        try:
            return arrays(_Unpickler(content, encoding="latin1").load())
        except PickleError:
            raise
        except Exception as error:  # damage makes an unpickler raise nearly anything
            raise PickleError(f"it cannot be read ({type(error).__name__}: {error})") from error


class _Array:
    """Stands for an array that is being rebuilt."""

    def __init__(self, *_):
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array from numpy's state of it: version, shape, type, whether in Fortran order, content."""
        match self.state:
            case (_, tuple(shape), _Type("u1"), False, (str() | bytes()) as content):
                pixels = content.encode("latin1") if isinstance(content, str) else content
                if all(type(side) is int and side >= 0 for side in shape) and math.prod(shape) == len(pixels):
                    return np.frombuffer(bytearray(pixels), np.uint8).reshape(shape)  # a copy that may be written
        raise PickleError("it holds an array that is not one of bytes")


class _Type:
    """Stands for the type of an array's elements."""

    __match_args__ = ("code",)

    def __init__(self, code: object, *_):
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and the like, which do not matter for bytes."""


def _encoded(text: object, encoding: object) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes into a pickle that Python 2 can read."""
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *parts: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *parts: _Array(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ADMITTED:
            raise PickleError(f"it asks for {module}.{name}, which no data set needs; nothing of it was run")
        return ADMITTED[module, name]


def arrays(value: object) -> object:
    """The value with its arrays built, inside dictionaries too."""
    if isinstance(value, dict):
        return {key: arrays(entry) for key, entry in value.items()}
    return value.array() if isinstance(value, _Array) else value
