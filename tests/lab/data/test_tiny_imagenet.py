import shutil

import pytest

from earlycrop_lab.data import DataError, load
from tests.lab.data.forms import write_picture, write_tiny_imagenet


@pytest.fixture
def folder(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    return tmp_path / "tiny-imagenet-200"


def check(data):
    assert data.classes == ("thing n01, object", "thing n02, object", "thing n03, object")
    assert data.train_images.shape == (9, 3, 64, 64)
    assert data.train_labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    reds = data.test_images[:, 0, 30, 30].tolist()
    assert all(abs(a - b) <= 3 for a, b in zip(reds, [40, 40, 0, 0, 80, 80], strict=True))  # JPEG is not exact
    assert "3 of the 200 classes" in str(data)


def test_the_official_folder_is_read(folder):
    check(load("tiny-imagenet", folder.parent))


def test_validation_pictures_may_be_sorted_into_class_folders(folder):
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        file, wnid = line.split("\t")[:2]
        (folder / "val" / wnid).mkdir(exist_ok=True)
        (folder / "val" / "images" / file).rename(folder / "val" / wnid / file)
    (folder / "val" / "images").rmdir()
    (folder / "val" / "val_annotations.txt").unlink()
    check(load("tiny-imagenet", folder.parent))


def test_a_part_of_the_classes_is_a_data_set_once_it_says_so(folder):
    shutil.rmtree(folder / "train" / "n02")
    with pytest.raises(DataError, match=r"lists 3 classes and .*train has 2; they differ in n02"):
        load("tiny-imagenet", folder.parent)
    (folder / "wnids.txt").write_text("n01\nn03\n")
    data = load("tiny-imagenet", folder.parent)
    assert len(data.classes) == 2
    assert data.test_labels.tolist() == [0, 0, 1, 1]


def test_a_class_that_is_not_listed_is_refused(folder):
    write_picture(folder / "train" / "n07" / "images" / "n07_0.JPEG", (1, 2, 3))
    with pytest.raises(DataError, match="differ in n07"):
        load("tiny-imagenet", folder.parent)


def test_what_is_missing_is_named(folder):
    (folder / "val" / "images" / "val_3.JPEG").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of its pictures, such as val_3.JPEG"):
        load("tiny-imagenet", folder.parent)
    (folder / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt cannot be read"):
        load("tiny-imagenet", folder.parent)
    shutil.rmtree(folder / "val")
    with pytest.raises(DataError, match=r"lacks pictures of its classes"):
        load("tiny-imagenet", folder.parent)


@pytest.mark.data
def test_the_real_tiny_imagenet(data_root):
    data = load("tiny-imagenet", data_root, download=False)
    classes = len(data.classes)
    assert data.train_images.shape == (500 * classes, 3, 64, 64)
    assert data.train_labels.bincount().tolist() == [500] * classes
    assert data.test_labels.bincount().tolist() == [50] * classes
    assert data.classes[0] == "goldfish, Carassius auratus"
