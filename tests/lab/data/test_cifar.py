import os
import pickle

import numpy as np
import pytest

from earlycrop_lab.data import Augmentation, DataError, load
from earlycrop_lab.data.dataset import statistics
from tests.lab.data.forms import write_cifar10, write_cifar100


def test_the_official_folder_is_read(tmp_path):
    pixels = write_cifar10(tmp_path / "cifar-10-batches-py")
    data = load("cifar10", tmp_path)
    assert np.array_equal(data.train_images.numpy().reshape(-1, 3072), pixels)
    assert data.train_labels.tolist() == [i % 10 for i in range(20)] * 5
    assert data.test_images.shape == (20, 3, 32, 32)
    assert data.classes[3] == "class 3"
    assert data.augmentation == Augmentation(pad=4, flip=True)


def test_cifar100_is_read_with_its_fine_labels(tmp_path):
    write_cifar100(tmp_path / "cifar-100-python")
    data = load("cifar100", tmp_path)
    assert len(data.classes) == 100
    assert data.test_labels.tolist() == [*range(100), *range(100)]


def test_the_authors_recipe(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    write_cifar100(tmp_path / "cifar-100-python")
    ten, hundred = (load(name, tmp_path, recipe="paper") for name in ("cifar10", "cifar100"))
    assert (ten.size, ten.augmentation) == (64, Augmentation(pad=4, flip=True))
    assert (hundred.size, hundred.augmentation) == (32, Augmentation(pad=4, flip=True, degrees=15))
    assert next(ten.batches(2).epoch(0))[0].shape == (2, 3, 64, 64)


def test_the_root_is_that_of_the_environment(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    monkeypatch.setenv("EARLYCROP_DATA", str(tmp_path))
    assert len(load("cifar10").train_images) == 100


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:1000], "cannot be read.*1,000 bytes found"),
        (lambda content: b"", "cannot be read.*0 bytes found"),
        (lambda content: pickle.dumps([1, 2], protocol=2), "holds a list, not a dictionary"),
        (lambda content: pickle.dumps({"labels": []}, protocol=2), "'data' is NoneType"),
        (lambda content: pickle.dumps({"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]}, protocol=2), "is 2x3"),
        (lambda content: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, protocol=2), "1 labels"),
        (lambda content: pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2), "0 to 9"),
        (lambda content: pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}, protocol=2), "no labels"),
    ],
    ids=["truncated", "empty", "list", "no data", "shape", "labels missing", "label", "no labels"],
)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, change, message):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    content = change(file.read_bytes())
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", tmp_path)
    assert str(file) in str(caught.value)
    assert "c58f30108f718f92721af3b95e74349a" in str(caught.value)
    assert file.read_bytes() == content


def test_a_file_that_would_run_something_is_refused(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    content = pickle.dumps({"data": Touch(tmp_path / "gone")}, protocol=2)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"posix.mkdir, which no data set needs; nothing of it was run"):
        load("cifar10", tmp_path)
    assert file.read_bytes() == content
    assert not (tmp_path / "gone").exists()


def test_a_missing_file_is_named(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "batches.meta").unlink()
    with pytest.raises(DataError, match=r"batches.meta.*there is no such file"):
        load("cifar10", tmp_path)


@pytest.mark.data
def test_the_real_cifar10(data_root):
    data = load("cifar10", data_root, download=False)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"
    mean, std = statistics(data.train_images)
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)  # of all pixels; the field divides by less
