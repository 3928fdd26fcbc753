"""NYU-Depth-v2's official files: right ones, wrong ones, and the real ones where they are."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from earlycrop_lab.data import DataError
from earlycrop_lab.data.nyu_depth import nyu_depth
from tests.lab.data.forms import write_nyu_depth

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")

SIZE, DEPTH = (19, 38), (4, 6)


@pytest.fixture
def root(tmp_path):
    write_nyu_depth(tmp_path / "nyu_depth_v2")
    return tmp_path


def labeled(root):
    return h5py.File(root / "nyu_depth_v2" / "nyu_depth_v2_labeled.mat", "a")


def write_splits(root, **indices):
    scipy_io.savemat(root / "nyu_depth_v2" / "splits.mat", indices)


def test_pairs_are_turned_cropped_and_split(tmp_path):
    images, depths = write_nyu_depth(tmp_path / "nyu_depth_v2")
    pairs = nyu_depth(tmp_path, SIZE, DEPTH)
    test, train = np.arange(2, 12, 3), np.array([n for n in range(12) if n % 3 != 2])
    inner = images.transpose(0, 1, 3, 2)[:, :, 0:19, 1:39]  # 19 of 20 rows, 38 of 40 columns
    assert np.array_equal(pairs.train_images, inner[train])
    assert np.array_equal(pairs.test_images, inner[test])
    metres = torch.tensor(depths.transpose(0, 2, 1)[:, 0:19, 1:39])
    assert torch.equal(pairs.test_depths, metres[test])
    torch.testing.assert_close(pairs.train_depths, F.adaptive_avg_pool2d(metres[train], DEPTH))
    assert (
        str(pairs)
        == "nyu-depth-v2: 8 training and 4 test pairs, images of 38x19 pixels (read at 40x20, its frame cut off)"
    )
    channels = pairs.train_images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(pairs.mean, dtype=torch.double), channels.mean(1))
    torch.testing.assert_close(torch.tensor(pairs.std, dtype=torch.double), channels.std(1, correction=0))


def test_unknown_depths_stay_unknown(root):
    with labeled(root) as file:
        file["depths"][:, :, ::2] = 0
    pairs = nyu_depth(root, SIZE, DEPTH)
    assert (pairs.test_depths == 0).any()
    assert pairs.train_depths.min() >= 0.7


def test_the_order_of_indices_does_not_matter(root):
    before = nyu_depth(root, SIZE, DEPTH)
    write_splits(root, trainNdxs=[11, 1, 2, 4, 5, 7, 8, 10], testNdxs=[[12], [3], [6], [9]])
    after = nyu_depth(root, SIZE, DEPTH)
    assert torch.equal(before.train_images, after.train_images)
    assert torch.equal(before.test_depths, after.test_depths)


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat"])
def test_a_missing_file_is_asked_for_by_name(root, name):
    (root / "nyu_depth_v2" / name).unlink()
    with pytest.raises(
        DataError, match=rf"nyu_depth_v2/{name} is missing. Put http://horatio.*{name} there.*EARLYCROP"
    ):
        nyu_depth(root, SIZE, DEPTH)


@pytest.mark.parametrize("name", ["nyu_depth_v2_labeled.mat", "splits.mat"])
@pytest.mark.parametrize("part", [0.0, 0.4, 0.9])
def test_a_truncated_file_is_refused(root, name, part):
    file = root / "nyu_depth_v2" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError, match=f"{name} is not the published file.*Delete it and get http"):
        nyu_depth(root, SIZE, DEPTH)


@pytest.mark.parametrize("written", [0, 255])
def test_a_damaged_header_is_refused_or_without_consequence(root, written):
    """h5py has many names for damage: OSError, RuntimeError, KeyError, ValueError, TypeError."""
    file, right = root / "nyu_depth_v2" / "nyu_depth_v2_labeled.mat", nyu_depth(root, SIZE, DEPTH)
    content, refused = file.read_bytes(), 0
    with h5py.File(file) as opened:
        header = opened["images"].id.get_offset()
    for at in range(0, header, 32):
        file.write_bytes(content[:at] + 8 * bytes([written]) + content[at + 8 :])
        try:
            found = nyu_depth(root, SIZE, DEPTH)
        except DataError as error:
            assert "Delete it and get http" in str(error)  # noqa: PT017 - not each place matters
            refused += 1
        else:
            assert torch.equal(found.train_images, right.train_images)
            assert torch.equal(found.test_depths, right.test_depths)
    assert refused > 10


def test_a_foreign_file_is_refused(root):
    for name in ("nyu_depth_v2_labeled.mat", "splits.mat"):
        content = (root / "nyu_depth_v2" / name).read_bytes()
        (root / "nyu_depth_v2" / name).write_bytes(b"<html>Not found</html>" * 100)
        with pytest.raises(DataError, match=f"{name} is not the published file of NYU-Depth-v2: it cannot be read"):
            nyu_depth(root, SIZE, DEPTH)
        (root / "nyu_depth_v2" / name).write_bytes(content)


def drop(file):
    del file["depths"]


def group(file):
    del file["images"]
    file.create_group("images")


def replaced(name, change):
    def apply(file):
        content = change(file[name][:])
        del file[name]
        file[name] = content

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "it holds images, scenes, but no depths"),
        (group, "it holds depths, images, scenes, but no images"),
        (replaced("images", lambda x: x.astype(np.float32)), "images is float32 .* not bytes in 4 dimensions"),
        (replaced("depths", lambda x: (1000 * x).astype(np.uint16)), "depths is uint16 .* not metres"),
        (replaced("depths", lambda x: x[:, None]), "not metres as floating-point numbers in 3 dimensions"),
        (replaced("images", lambda x: x.transpose(0, 1, 3, 2)), r"images of shape \(12, 3, 20, 40\) and depths"),
        (replaced("depths", lambda x: x[:-1]), r"depths of shape \(11, 40, 20\) are no pairs"),
        (replaced("depths", lambda x: -x), "depths run from -9.99.* to -0.7.*no metres"),
        (replaced("depths", lambda x: 0 * x), "training depths of nyu-depth-v2 run from 0 to 0"),
        (replaced("depths", lambda x: np.nan * x), "depths run from nan to nan, which are no metres"),
    ],
)
def test_other_contents_are_refused(root, change, message):
    with labeled(root) as file:
        change(file)
    with pytest.raises(DataError, match=message):
        nyu_depth(root, SIZE, DEPTH)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ({"trainNdxs": [1, 2]}, "it holds trainNdxs, but no testNdxs"),
        ({"other": [1]}, "nothing like it, but no trainNdxs"),
        ({"trainNdxs": [1, 2], "testNdxs": [13]}, "testNdxs runs from 13 to 13, but there are pairs 1 to 12"),
        ({"trainNdxs": [0, 1], "testNdxs": [3]}, "trainNdxs runs from 0 to 1"),
        ({"trainNdxs": [], "testNdxs": [3]}, "trainNdxs is .* not a list of numbers of pairs"),
        ({"trainNdxs": ["a"], "testNdxs": [3]}, "trainNdxs is .* not a list of numbers of pairs"),
        ({"trainNdxs": [1, 2, 3], "testNdxs": [3, 2]}, "2 pairs are in both splits"),
    ],
)
def test_other_splits_are_refused(root, indices, message):
    write_splits(root, **indices)
    with pytest.raises(DataError, match=message):
        nyu_depth(root, SIZE, DEPTH)


def test_without_h5py_the_error_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match="no h5py to read them with: `pip install h5py scipy`"):
        nyu_depth(root, SIZE, DEPTH)


@pytest.mark.data
def test_the_real_pairs(data_root):
    """The official split; mean depths as the data set's description has them."""
    pairs = nyu_depth(data_root, (114, 152), (64, 80))
    assert (len(pairs.train_images), len(pairs.test_images)) == (795, 654)
    assert pairs.test_depths[pairs.test_depths > 0].mean().item() == pytest.approx(2.77, abs=0.03)
    assert 0.5 < pairs.test_depths.min() < pairs.test_depths.max() < 10
    assert pairs.test_images.float().mean((0, 1))[[0, -1]].max() < 200  # no white frame
