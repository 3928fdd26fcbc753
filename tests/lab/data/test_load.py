import hashlib

import pytest

from earlycrop_lab.data import DATASETS, DataError, load
from earlycrop_lab.models import NETWORKS, build


def test_the_digits_are_split_for_good():
    digits = load("digits")
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_labels.bincount().tolist() == [36] * 10
    assert digits.train_images.max() == 255
    content = digits.test_images.numpy().tobytes() + digits.test_labels.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest().startswith("fa6784c54310d953")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_the_digits(name):
    network = NETWORKS[name]
    digits = load("digits").subset(10).enlarged(network.least)
    width = 4 if network.width >= 64 else network.width
    model = build(name, classes=10, channels=digits.channels, size=digits.size, width=width).eval()
    images, _ = next(digits.test_batches(2))
    assert model(images).shape == (2, 10)


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    for wrong, right in (("cifar-10", "cifar10"), ("tinyimagenet", "tiny-imagenet"), ("folder", "folder:PATH")):
        with pytest.raises(DataError, match=f"Did you mean '{right}'"):
            load(wrong, tmp_path)


def test_options_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(DataError, match="0 pixels"):
        load("digits", size=0)
    with pytest.raises(DataError, match="no recipe 'papre'"):
        load("digits", recipe="papre")
    for name in ("digits", "tiny-imagenet", f"folder:{tmp_path}"):
        with pytest.raises(DataError, match="only for cifar10 and cifar100"):
            load(name, tmp_path, recipe="paper")


def test_a_size_may_be_asked_for():
    assert next(load("digits", size=12).test_batches())[0].shape[-2:] == (12, 12)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_absent_files_are_asked_for_by_name(tmp_path, name):
    with pytest.raises(DataError, match=f"is not under {tmp_path}. Put http"):
        load(name, tmp_path, download=False)
