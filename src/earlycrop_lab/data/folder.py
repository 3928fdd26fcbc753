"""Any folder of class folders, with pictures of any size."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.balance import held_out
from earlycrop_lab.data.dataset import Dataset, statistics
from earlycrop_lab.data.pictures import decode, pictures
from earlycrop_lab.names import DataError

TEST_NAMES = ("test", "val", "valid", "validation")
TEST_PART = 0.2


def folder(path: Path, size: int = 64) -> Dataset:
    """The pictures of `path/train/CLASS/` and `path/test/CLASS/` (or val), or of `path/CLASS/`, split here.

    A folder without a split always gets the same one: a fifth of each class is the test split. Pictures are resized and
    cropped to `size` pixels per side; in training they are augmented by crops with a border of an eighth of that, and
    by flips.

    Raises:
        DataError: There is no such folder, there are fewer than two classes, a class has no pictures, or a picture is
            damaged.
    """
    if not path.is_dir():
        raise DataError(f"There is no folder {path.absolute()}. Use folder:PATH with a PATH that holds class folders.")
    train_path = path / "train"
    test_paths = [path / name for name in TEST_NAMES if (path / name).is_dir()]
    if train_path.is_dir() and len(test_paths) != 1:
        found = " and ".join(p.name for p in test_paths) or "none"
        raise DataError(f"{path} has a folder train and should have one of {', '.join(TEST_NAMES)}, but has {found}.")

    if train_path.is_dir():
        train, test = classes_of(train_path), classes_of(test_paths[0])
        if strange := sorted(test.keys() - train.keys()):
            raise DataError(f"{test_paths[0]} has classes that {train_path} has not: {', '.join(strange)}.")
        note = ""
        train_images, train_labels = decoded(train, tuple(train), size)
        test_images, test_labels = decoded(test, tuple(train), size)
    else:
        train = classes_of(path)
        for name, files in train.items():
            if len(files) < 2:
                raise DataError(f"{path / name} has one picture; a class needs two to be split into train and test.")
        note = f"split here: {TEST_PART:.0%} of each class for testing"
        images, labels = decoded(train, tuple(train), size)
        out = torch.zeros(len(labels), dtype=torch.bool)
        out[held_out(labels, TEST_PART, seed=0)] = True
        train_images, train_labels, test_images, test_labels = images[~out], labels[~out], images[out], labels[out]

    mean, std = statistics(train_images)
    return Dataset(
        name=f"folder:{path}",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(train),
        mean=mean,
        std=tuple(max(s, 1 / 255) for s in std),  # 0 if all pictures have the same single colour
        augmentation=Augmentation(pad=size // 8, flip=True),
        note=note,
    )


def classes_of(path: Path) -> dict[str, list[Path]]:
    """The picture files of each class folder, in the order of names."""
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(folders) < 2:
        raise DataError(f"{path.absolute()} holds {len(folders)} class folders; there should be two or more.")
    classes = {p.name: pictures(p) for p in folders}
    if empty := [name for name, files in classes.items() if not files]:
        raise DataError(f"There are no pictures in {', '.join(str(path / name) for name in empty)}.")
    return classes


def decoded(
    files: Mapping[str, list[Path]], classes: tuple[str, ...], size: int
) -> tuple[UInt8[Tensor, "n 3 s s"], Int64[Tensor, "n"]]:
    """Decoded pictures and their labels, class by class."""
    labels = [number for number, name in enumerate(classes) for _ in files.get(name, [])]
    return decode([file for name in classes for file in files.get(name, [])], size), torch.tensor(labels)
