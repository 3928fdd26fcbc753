"""Tiny-ImageNet (Stanford CS231n): 64x64 pixels, 200 classes of ImageNet, the official folder or a part of it."""

from collections import defaultdict
from pathlib import Path

from earlycrop_lab.data.archive import Archive, Store
from earlycrop_lab.data.augmentation import Augmentation
from earlycrop_lab.data.dataset import Dataset
from earlycrop_lab.data.folder import classes_of, decoded
from earlycrop_lab.names import DataError

ARCHIVE = Archive(
    title="Tiny-ImageNet",
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    folder="tiny-imagenet-200",
)
CLASSES = 200
SIZE = 64


def tiny_imagenet(store: Store) -> Dataset:
    """The official training split, with the validation split as the test split, because the latter has no labels.

    The classes are those of `wnids.txt`, in alphabetical order, named by `words.txt`. The validation pictures may be in
    one folder beside `val_annotations.txt`, as published, or in class folders.

    Raises:
        DataError: A file or folder is missing or damaged, or `wnids.txt` and the folders do not agree.
    """
    path = store.folder(ARCHIVE)
    train = classes_of(path / "train") if (path / "train").is_dir() else {}
    listed = lines(path / "wnids.txt")
    if set(listed) != train.keys():
        strange = sorted(set(listed) ^ train.keys())
        raise DataError(
            f"{path / 'wnids.txt'} lists {len(listed)} classes and {path / 'train'} has {len(train)}; they differ in "
            f"{', '.join(strange[:3])}{' and others' if len(strange) > 3 else ''}. Delete {path} and get {ARCHIVE.url} "
            f"again, or, for a part of the data set, list in wnids.txt the classes that are there."
        )
    classes = tuple(train)
    test = validation(path / "val", classes)
    names = dict(line.split("\t", 1) for line in lines(path / "words.txt") if "\t" in line)
    train_images, train_labels = decoded(train, classes, SIZE)
    test_images, test_labels = decoded(test, classes, SIZE)
    return Dataset(
        name="tiny-imagenet",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(names.get(wnid, wnid) for wnid in classes),
        mean=(0.485, 0.456, 0.406),  # ImageNet's
        std=(0.229, 0.224, 0.225),
        augmentation=Augmentation(pad=SIZE // 8, flip=True),
        note="" if len(classes) == CLASSES else f"{len(classes)} of the {CLASSES} classes: not the published task",
    )


def validation(path: Path, classes: tuple[str, ...]) -> dict[str, list[Path]]:
    """The picture files of each of these classes in the validation folder."""
    if not (path / "images").is_dir():  # sorted into class folders, a common variant
        found = classes_of(path) if path.is_dir() else {}
    else:
        found = defaultdict(list)
        for line in lines(path / "val_annotations.txt"):
            file, wnid, *_ = [*line.split("\t"), ""]
            found[wnid].append(path / "images" / Path(file).name)
    wanted = {name: found[name] for name in classes if name in found}
    absent = [file for files in wanted.values() for file in files if not file.is_file()]
    if not wanted or absent:
        what = f"{len(absent)} of its pictures, such as {absent[0].name}" if absent else "pictures of its classes"
        raise DataError(f"{path} lacks {what}. Delete {path.parent} and get {ARCHIVE.url} again.")
    return wanted


def lines(file: Path) -> list[str]:
    """The non-empty lines of a text file."""
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}). Delete {file.parent} and get {ARCHIVE.url} again."
        ) from error
