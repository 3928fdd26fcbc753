"""What the restricted reader of pickles admits, and what it refuses."""

import os
import pickle
import struct

import numpy as np
import pytest

from earlycrop_lab.data import pickled


def python2(pixels: bytes, rows: int, columns: int) -> bytes:
    """{"data": array} as Python 2 and numpy 1 wrote it, opcode by opcode."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in (rows, columns)) + b"t"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = b"T" + struct.pack("<I", len(pixels)) + pixels
    return b"\x80\x02}(U\x04data" + array + b"(K\x01" + shape + kind + b"\x89" + content + b"tbu."


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_arrays_of_python_2_are_read(tmp_path):
    (tmp_path / "batch").write_bytes(python2(bytes(range(250, 256)), 2, 3))
    content = pickled.load(tmp_path / "batch")
    assert content["data"].tolist() == [[250, 251, 252], [253, 254, 255]]
    content["data"][0, 0] = 1  # may be written, as torch asks


@pytest.mark.parametrize("protocol", [0, 2, 3, 4])
def test_arrays_of_python_3_are_read(tmp_path, protocol):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = {"data": array, "labels": [1, 2, 3], "name": "é"}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=protocol))
    found = pickled.load(tmp_path / "batch")
    assert np.array_equal(found.pop("data"), array)
    assert found == {"labels": [1, 2, 3], "name": "é"}


@pytest.mark.parametrize(
    "evil",
    [Runs(os.system, "touch gone"), Runs(eval, "open('gone', 'w')"), Runs(os.mkdir, "gone"), Runs(np.load, "gone")],
    ids=["os.system", "eval", "os.mkdir", "numpy.load"],
)
def test_no_other_function_is_called(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": [1, evil]}, protocol=2)
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(pickled.PickleError, match=r"it asks for \S+, which no data set needs"):
        pickled.load(tmp_path / "batch")
    assert (tmp_path / "batch").read_bytes() == content
    assert not (tmp_path / "gone").exists()


def test_the_admitted_names_do_nothing_else(tmp_path):
    def refused(content: bytes, message: str) -> None:
        (tmp_path / "batch").write_bytes(content)
        with pytest.raises(pickled.PickleError, match=message):
            pickled.load(tmp_path / "batch")

    refused(pickle.dumps({"data": np.zeros(3)}, protocol=2), "not one of bytes")
    refused(pickle.dumps({"data": np.array([{}])}, protocol=2), "not one of bytes")
    refused(python2(b"abcd", 2, 3), "not one of bytes")  # fewer than the shape says
    refused(python2(b"abcd", -2, -2), "not one of bytes")
    refused(b"\x80\x02c_codecs\nencode\n(U\x04abcdU\x05zlib_tR.", "encoding")
    refused(b"\x80\x02cnumpy\nndarray\n}U\x05arrayK\x01sb.", "cannot be read")  # would set an attribute of the class
    assert callable(pickled._Array.array)


@pytest.mark.parametrize("left", [0, 1, 10, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, left):
    content = pickle.dumps({"data": np.zeros((4, 99), np.uint8), "labels": [1, 2]}, protocol=2)
    (tmp_path / "batch").write_bytes(content[:left])
    with pytest.raises(pickled.PickleError, match="cannot be read"):
        pickled.load(tmp_path / "batch")


def test_noise_is_refused(tmp_path):
    random = np.random.default_rng(0)
    for _ in range(200):
        (tmp_path / "batch").write_bytes(b"\x80\x02" + random.bytes(200))
        with pytest.raises(pickled.PickleError):
            pickled.load(tmp_path / "batch")
