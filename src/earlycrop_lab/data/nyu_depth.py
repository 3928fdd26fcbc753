"""NYU-Depth-v2's labelled pairs (Silberman et al., 2012): indoor photographs with depths from a Kinect, 795 + 654.

The authors' files are `nyu_depth_v2/nyu_depth_v2_labeled.mat`, an HDF5 file with MATLAB's order of axes (`images`,
pairs x 3 x columns x rows, bytes; `depths`, pairs x columns x rows, metres), and `nyu_depth_v2/splits.mat`
(`trainNdxs` and `testNdxs`, counted from 1). Smaller versions of these files can be read too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earlycrop_lab.data.dataset import statistics
from earlycrop_lab.data.pairs import Pairs, averaged, resized
from earlycrop_lab.names import DataError

FOLDER = "nyu_depth_v2"
LABELED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
PUBLISHED = {
    LABELED: "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
    SPLITS: "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
}
INNER = 0.95
"""The fraction of rows and columns that is kept, 228 x 304 of 240 x 320: the photographs have a white frame."""

BLOCK = 32
"""The number of pairs to read at once."""


def nyu_depth(root: Path, size: tuple[int, int], depth_size: tuple[int, int]) -> Pairs:
    """The pairs of the official split, without their frame.

    Args:
        root: The folder that contains `nyu_depth_v2`.
        size: Height and width of the images, in pixels.
        depth_size: Height and width of the training depths, each the mean over the area it covers; test depths keep
            their resolution.

    Raises:
        DataError: The files are missing, damaged or not the official ones, or h5py or scipy is not installed.
    """
    try:
        import h5py
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            f"NYU-Depth-v2 comes in MATLAB's formats, and there is no {error.name} to read them with: "
            f"`pip install h5py scipy`."
        ) from error

    splits = _file(root, SPLITS)
    with _reading(splits):
        indices = loadmat(splits, variable_names=("trainNdxs", "testNdxs"))

    labeled = _file(root, LABELED)
    with _reading(labeled):
        opened = h5py.File(labeled)
    with opened as file:
        with _reading(labeled):
            images, depths = _set(file, labeled, "images", "u", 4), _set(file, labeled, "depths", "f", 3)
        count, columns, rows = depths.shape
        if images.shape != (count, 3, columns, rows):
            raise _foreign(
                labeled,
                f"images of shape {images.shape} and depths of shape {depths.shape} are no pairs; they should be "
                f"pairs x 3 x columns x rows and pairs x columns x rows",
            )
        train, test = (_indices(splits, indices, name, count) for name in ("trainNdxs", "testNdxs"))
        if both := set(train.tolist()) & set(test.tolist()):
            raise _foreign(splits, f"{len(both)} pairs are in both splits")
        return _read(labeled, images, depths, train, test, size, depth_size)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any exception in reading a file into a `DataError`: damage makes h5py and loadmat raise nearly anything."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise _foreign(path, f"it cannot be read ({type(error).__name__}: {error})") from error


def _file(root: Path, name: str) -> Path:
    path = root / FOLDER / name
    if not path.is_file():
        raise DataError(
            f"NYU-Depth-v2 is not under {root.absolute()}: {path.absolute()} is missing. Put {PUBLISHED[name]} there; "
            f"another place is named with --data-root or EARLYCROP_DATA."
        )
    return path


def _foreign(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is not the published file of NYU-Depth-v2: {what}. Delete it and get {PUBLISHED[path.name]} again."
    )


def _set(file: Any, path: Path, name: str, kind: str, dims: int) -> Any:
    """A data set of an HDF5 file, checked for its type of numbers and number of dimensions."""
    # not file.get(name), which reports a damaged data set as a missing one
    if name not in file or getattr(found := file[name], "shape", None) is None:
        raise _foreign(path, f"it holds {', '.join(sorted(file)) or 'nothing'}, but no {name}")
    if found.dtype.kind != kind or (kind == "u" and found.dtype.itemsize != 1) or found.ndim != dims:
        wanted = "bytes" if kind == "u" else "metres as floating-point numbers"
        raise _foreign(path, f"{name} is {found.dtype} of shape {found.shape}, not {wanted} in {dims} dimensions")
    return found


def _indices(path: Path, found: dict[str, Any], name: str, count: int) -> Tensor:
    """The indices of a split's pairs, from 0 and ascending."""
    if name not in found:
        others = sorted(key for key in found if not key.startswith("__"))
        raise _foreign(path, f"it holds {', '.join(others) or 'nothing like it'}, but no {name}")
    values = found[name].reshape(-1)
    if values.dtype.kind not in "iuf" or not len(values):
        raise _foreign(path, f"{name} is {values.dtype} of shape {values.shape}, not a list of numbers of pairs")
    if values.min() < 1 or values.max() > count:
        raise _foreign(path, f"{name} runs from {values.min()} to {values.max()}, but there are pairs 1 to {count}")
    return torch.tensor(values.astype("int64") - 1).unique()


def _read(
    path: Path,
    images: Any,
    depths: Any,
    train: Tensor,
    test: Tensor,
    size: tuple[int, int],
    depth_size: tuple[int, int],
) -> Pairs:
    count, columns, rows = depths.shape
    inner = [
        slice((n - round(INNER * n)) // 2, (n - round(INNER * n)) // 2 + round(INNER * n)) for n in (rows, columns)
    ]
    pixels, small, whole = [], [], []
    tested = torch.zeros(count, dtype=torch.bool)
    tested[test] = True
    for start in range(0, count, BLOCK):
        block = slice(start, start + BLOCK)
        with _reading(path):
            found = images[block], depths[block]
        seen, metres = map(torch.from_numpy, found)
        seen, metres = seen.transpose(2, 3)[:, :, *inner], metres.transpose(1, 2)[:, *inner].float()
        if not (metres.isfinite().all() and metres.min() >= 0):
            raise _foreign(path, f"depths run from {metres.min():g} to {metres.max():g}, which are no metres")
        pixels.append(resized(seen, size))
        small.append(averaged(metres, depth_size))
        whole.append(metres[tested[block]])  # training pairs need only the small depths
    pixels, small = torch.cat(pixels), torch.cat(small)
    mean, std = statistics(pixels[train])
    return Pairs(
        name="nyu-depth-v2",
        train_images=pixels[train],
        train_depths=small[train],
        test_images=pixels[test],
        test_depths=torch.cat(whole),
        mean=mean,
        std=std,
        note=f"read at {columns}x{rows}, its frame cut off",
    )
