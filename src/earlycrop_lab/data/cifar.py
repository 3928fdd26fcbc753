"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the official Python version, which are Python 2 pickles."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from earlycrop_lab.data import pickled
from earlycrop_lab.data.archive import Archive, Store
from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.dataset import Dataset
from earlycrop_lab.names import DataError

SIDE = 32


@dataclass(frozen=True)
class Cifar:
    """The layout of an archive's files.

    Args:
        name: The data set's name on the command line.
        archive: The archive that contains the files.
        train: The files of the training split.
        test: The file of the test split.
        labels: The entry of those files that holds the labels.
        meta: The file with the names of the classes.
        names: The entry of that file with the names.
        count: The number of classes.
        mean: Mean of each channel, as in the EarlyCroP authors' code.
        std: Standard deviation of each channel, likewise.
    """

    name: str
    archive: Archive
    train: tuple[str, ...]
    test: str
    labels: str
    meta: str
    names: str
    count: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def read(self, store: Store) -> Dataset:
        """The data set, augmented in training by crops with a border of four pixels and flips.

        Raises:
            DataError: A file is missing, damaged or holds anything but its arrays.
        """
        folder = store.folder(self.archive)
        train = [self._split(folder / file) for file in self.train]
        test_images, test_labels = self._split(folder / self.test)
        return Dataset(
            name=self.name,
            train_images=torch.cat([images for images, _ in train]),
            train_labels=torch.cat([labels for _, labels in train]),
            test_images=test_images,
            test_labels=test_labels,
            classes=self._classes(folder / self.meta),
            mean=self.mean,
            std=self.std,
            augmentation=Augmentation(pad=4, flip=True),
        )

    def _split(self, file: Path) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, "n"]]:
        content = self._content(file)
        data, labels = content.get("data"), content.get(self.labels)
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * SIDE**2:
            found = "x".join(map(str, data.shape)) if isinstance(data, np.ndarray) else type(data).__name__
            raise self._damaged(file, f"its entry 'data' is {found}, not an array of images x {3 * SIDE**2}")
        if not isinstance(labels, list) or len(labels) != len(data):
            found = len(labels) if isinstance(labels, list) else "no"
            raise self._damaged(file, f"it has {len(data)} images and {found} labels in {self.labels!r}")
        if not all(type(label) is int and 0 <= label < self.count for label in labels):
            raise self._damaged(file, f"its labels are not all numbers from 0 to {self.count - 1}")
        return torch.from_numpy(data.reshape(-1, 3, SIDE, SIDE)), torch.tensor(labels, dtype=torch.long)

    def _classes(self, file: Path) -> tuple[str, ...]:
        names = self._content(file).get(self.names)
        if not isinstance(names, list) or len(names) != self.count:
            found = len(names) if isinstance(names, list) else "no"
            raise self._damaged(file, f"it names {found} classes in {self.names!r}, not {self.count}")
        return tuple(str(name) for name in names)

    def _content(self, file: Path) -> dict:
        if not file.is_file():
            raise self._damaged(file, "there is no such file")
        try:
            content = pickled.load(file)
        except pickled.PickleError as error:
            raise self._damaged(file, f"{error}; {file.stat().st_size:,} bytes found") from error
        if not isinstance(content, dict):
            raise self._damaged(file, f"it holds a {type(content).__name__}, not a dictionary")
        return content

    def _damaged(self, file: Path, what: str) -> DataError:
        return DataError(
            f"{file} is not a {self.archive.title} file: {what}. It was left as it is. Delete the folder {file.parent} "
            f"and get {self.archive.url} (MD5 {self.archive.md5}) again, or let it be downloaded."
        )


def official(archive: str, md5: str, folder: str, title: str) -> Archive:
    """An archive on the CIFAR authors' page."""
    return Archive(title, f"https://www.cs.toronto.edu/~kriz/{archive}", md5, folder)


CIFAR10 = Cifar(
    name="cifar10",
    archive=official("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py", "CIFAR-10"),
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    labels="labels",
    meta="batches.meta",
    names="label_names",
    count=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
)
CIFAR100 = Cifar(
    name="cifar100",
    archive=official("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python", "CIFAR-100"),
    train=("train",),
    test="test",
    labels="fine_labels",
    meta="meta",
    names="fine_label_names",
    count=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
