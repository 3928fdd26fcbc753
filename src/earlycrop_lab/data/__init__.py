"""The data sets of the tasks, by name.

`load` gives a `Dataset`, which makes batches for training, testing and scoring:

>>> from earlycrop_lab.data import load
>>> digits = load("digits")
>>> print(digits)
digits: 1,437 training and 360 test images of 8x8 pixels, 10 classes (inside scikit-learn)
>>> batches = digits.subset(1000).batches(batch_size=64, seed=0)
>>> images, labels = next(batches.epoch(0))
>>> images.shape, len(batches)
(torch.Size([64, 1, 8, 8]), 15)

Texts have their own `load`, in `text`, and so have images with their depths, in `depths`. The other files: `dataset`
(images in memory and the batches made from them), `augmentation`, `balance` (fixed parts), `chance`; `digits`, `cifar`,
`tiny_imagenet` and `folder` read one kind of data each, with the help of `archive` (find, download, unpack), `pickled`
(CIFAR's files) and `pictures` (decode). For depth: `pairs` (images with their depths and the batches made from them),
`scenes` (rendered rooms) and `nyu_depth`. For control, which has no data set: `environments` and `rollouts` (a policy's
experience in them).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from earlycrop_lab.data.archive import Archive, Store, data_root
from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.cifar import CIFAR10, CIFAR100
from earlycrop_lab.data.dataset import Batch, Batches, Dataset
from earlycrop_lab.data.digits import digits
from earlycrop_lab.data.folder import folder
from earlycrop_lab.data.tiny_imagenet import tiny_imagenet
from earlycrop_lab.names import IMAGES, DataError

__all__ = [
    "DATASETS",
    "Archive",
    "Augmentation",
    "Batch",
    "Batches",
    "DataError",
    "Dataset",
    "Source",
    "Store",
    "load",
]


@dataclass(frozen=True)
class Source:
    """A data set of the table.

    Args:
        read: Reads it from the store of data sets.
        paper: What the authors' code does differently, as fields of `Dataset`; empty if that is not offered.
    """

    read: Callable[[Store], Dataset]
    paper: Mapping[str, object] = field(default_factory=dict)


DATASETS = {
    "digits": Source(lambda store: digits()),
    "cifar10": Source(CIFAR10.read, paper={"resize": 64}),
    "cifar100": Source(CIFAR100.read, paper={"augmentation": Augmentation(pad=4, flip=True, degrees=15)}),
    "tiny-imagenet": Source(tiny_imagenet),
}


def load(
    name: str,
    root: Path | str | None = None,
    *,
    size: int | None = None,
    recipe: Literal["usual", "paper"] = "usual",
    download: bool = True,
    mirror: str | None = None,
) -> Dataset:
    """The data set of that name, on the CPU.

    Args:
        name: A name of `DATASETS`, or `folder:PATH` for any folder of class folders.
        root: The folder of the data sets, in their official forms; by default $EARLYCROP_DATA, or else `data`.
        size: Pixels per side of the images in a batch; by default their own size, and 64 for a folder.
        recipe: "paper" for the authors' sizes and augmentation where they differ from the usual ones.
        download: Whether to download a missing archive.
        mirror: A URL to download from instead of the official one.

    Raises:
        DataError: The name is unknown, or the files are missing, damaged or not the official ones. Files are never
            changed.
    """
    if recipe not in ("usual", "paper"):
        raise DataError(f"There is no recipe {recipe!r}; use 'usual' or 'paper'.")
    if size is not None and size < 1:
        raise DataError(f"Images cannot have {size} pixels per side; the least is 1.")
    source = DATASETS.get(name)
    if recipe == "paper" and not (source and source.paper):
        offered = " and ".join(key for key, row in DATASETS.items() if row.paper)
        raise DataError(f"The authors' recipe is not offered for {name}, only for {offered}. Use the recipe 'usual'.")
    if name.startswith(IMAGES.own):
        return folder(Path(name.removeprefix(IMAGES.own)).expanduser(), **({"size": size} if size else {}))
    IMAGES.check(name)
    assert source is not None
    dataset = source.read(Store(data_root(root), download, mirror))
    if recipe == "paper":
        dataset = replace(dataset, **source.paper)
    return dataset.at(size) if size else dataset
