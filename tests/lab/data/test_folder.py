import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from earlycrop_lab.data import DataError, load
from earlycrop_lab.data.pictures import cache_file, decode, pictures
from tests.lab.data.forms import write_picture

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def write_folder(path, count):
    for name, colour in COLOURS.items():
        for i in range(count):
            write_picture(path / name / f"{i}.png", colour, size=(20 + i, 30))


def test_a_folder_that_is_split_is_read(tmp_path):
    write_folder(tmp_path / "train", 4)
    write_folder(tmp_path / "val", 2)
    data = load(f"folder:{tmp_path}", size=16)
    assert data.classes == ("blue", "green", "red")
    assert data.train_images.shape == (12, 3, 16, 16)
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test_images[-1, :, 3, 3].tolist() == [200, 0, 0]
    assert data.size == 16
    assert data.note == ""
    assert next(data.batches(4).epoch(0))[0].isfinite().all()


def test_a_folder_that_is_not_split_is_split_the_same_way_each_time(tmp_path):
    write_folder(tmp_path, 10)
    one, two = (load(f"folder:{tmp_path}", size=8) for _ in range(2))
    assert one.train_labels.bincount().tolist() == [8, 8, 8]
    assert one.test_labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(one.test_images, two.test_images)
    assert "split here" in str(one)


def test_a_picture_is_made_small_and_its_middle_kept(tmp_path):
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 255, 0), (10, 0, 30, 20))
    picture.save(tmp_path / "wide.png")
    image = decode([tmp_path / "wide.png"], 10)[0]
    assert image[1, :, 1:-1].eq(255).all()
    assert image[1].min() > image[0].max()  # the seam is mixed into the outermost pixels


def test_a_camera_picture_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (8, 8), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 8, 4))  # the upper half is white
    exif = picture.getexif()
    exif[0x0112] = 3  # held upside down
    picture.save(tmp_path / "a.png", exif=exif)
    image = decode([tmp_path / "a.png"], 8)[0]
    assert image[:, :4].eq(0).all()
    assert image[:, 4:].eq(255).all()


def test_pictures_are_decoded_once_and_again_when_they_change(tmp_path, monkeypatch):
    write_folder(tmp_path, 2)
    files = pictures(tmp_path)
    first = decode(files, 8)
    with monkeypatch.context() as patch:
        patch.setattr("earlycrop_lab.data.pictures.read", lambda *_: pytest.fail("decoded again"))
        assert torch.equal(decode(files, 8), first)
    write_picture(files[0], (9, 9, 9))
    assert decode(files, 8)[0].eq(9).all()


def test_a_damaged_cache_is_passed_over_and_one_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", 2)
    files = pictures(tmp_path / "data")
    first = decode(files, 8)
    cache = cache_file(files, 8)
    cache.write_bytes(cache.read_bytes()[:50])
    assert torch.equal(decode(files, 8), first)
    assert sorted(cache.parent.iterdir()) == [cache]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(decode(files, 8), first)


def test_pictures_that_do_not_fit_into_memory_are_refused(tmp_path):
    write_folder(tmp_path, 2)
    with pytest.raises(DataError, match=r"more than half of this machine's memory.*smaller size"):
        load(f"folder:{tmp_path}", size=2**20)


@pytest.mark.parametrize("left", [0, 30, 200])
def test_a_damaged_picture_is_named_and_left(tmp_path, left):
    write_folder(tmp_path, 3)
    file = tmp_path / "green" / "1.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(file)
    content = file.read_bytes()[:left]
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"is not a whole picture.*{left} bytes found") as caught:
        load(f"folder:{tmp_path}", size=8)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content


def test_what_is_no_folder_of_class_folders_is_refused(tmp_path):
    name = f"folder:{tmp_path}"
    with pytest.raises(DataError, match="There is no folder"):
        load(f"{name}/absent")
    with pytest.raises(DataError, match="holds 0 class folders"):
        load(name)
    write_folder(tmp_path, 1)
    with pytest.raises(DataError, match="has one picture"):
        load(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*empty"):
        load(name)


def test_splits_that_do_not_agree_are_refused(tmp_path):
    write_folder(tmp_path / "train", 2)
    with pytest.raises(DataError, match="but has none"):
        load(f"folder:{tmp_path}")
    write_folder(tmp_path / "val", 2)
    write_picture(tmp_path / "val" / "yellow" / "1.png", (200, 200, 0))
    with pytest.raises(DataError, match="has not: yellow"):
        load(f"folder:{tmp_path}")
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    with pytest.raises(DataError, match="test and val"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("form", ["png", "tif"])
def test_grey_values_of_16_bits_are_scaled_and_not_clipped(form, tmp_path):
    values = np.array([[0, 257], [128 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{form}")
    assert decode([tmp_path / f"a.{form}"], 2)[0, 1].tolist() == [[0, 1], [128, 255]]


def test_a_picture_of_16_bits_looks_as_that_of_8(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "b.png")
    fine, coarse = (decode([tmp_path / name], 8)[0].int() for name in ("b.png", "a.png"))
    assert (fine - coarse).abs().max() <= 1


@pytest.mark.parametrize(("kind", "told"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")])
def test_values_of_which_nothing_says_what_is_white_are_refused(kind, told, tmp_path):
    Image.fromarray(np.zeros((4, 4), kind)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif has pixels of mode .*{told}.* Convert it to 8 or 16 bits"):
        decode([tmp_path / "a.tif"], 2)
