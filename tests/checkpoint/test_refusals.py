"""Damaged and foreign files are refused, and the model is untouched."""

import json
import struct

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from earlycrop import CheckpointError, load, save
from tests import dense
from tests.checkpoint.helpers import masked, refused, tied


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "model"
    save(masked(), path)
    return path.read_bytes()


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "nothing", "nothing")


def test_a_folder(tmp_path):
    refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" * 100, b"\x80\x02}q\x00.", b"\xff" * 64, bytes(64)])
def test_a_file_of_another_kind(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    refused(tmp_path / "model", "Save it again")


def test_a_pickle(tmp_path):
    torch.save(dense.residual_net().state_dict(), tmp_path / "model")
    refused(tmp_path / "model")


def test_safetensors_that_somebody_else_wrote(tmp_path):
    safetensors.torch.save_file(dense.residual_net().state_dict(), tmp_path / "model")
    refused(tmp_path / "model", r"earlycrop\.save")
    safetensors.torch.save_file(dense.residual_net().state_dict(), tmp_path / "model", metadata={"format": "pt"})
    refused(tmp_path / "model", "'pt'")


def test_a_truncated_file(file, tmp_path):
    net = masked()
    for length in [*range(0, 200, 7), *range(200, len(file), 97), len(file) - 1]:
        (tmp_path / "model").write_bytes(file[:length])
        refused(tmp_path / "model", net=net)
    (tmp_path / "model").write_bytes(file + b"\0")
    refused(tmp_path / "model", net=net)


@pytest.mark.parametrize("flip", [1, 0x10, 0xFF])
def test_a_damaged_byte_is_never_loaded(file, tmp_path, flip):
    """Wherever it lies: in the header, in the widths, in a bitmap, in a value."""
    net, path = masked(), tmp_path / "model"
    path.write_bytes(file)
    load(net, path)
    (header,) = struct.unpack("<Q", file[:8])
    step = 13
    for place in [*range(0, header, step), *range(header, len(file), step)]:
        damaged = bytearray(file)
        damaged[place] ^= flip
        path.write_bytes(damaged)
        before = dense.everything(net)
        try:
            load(net, path)
        except CheckpointError:
            assert dense.everything(net) == before
        else:  # a byte that means nothing, such as a space at the header's end
            assert dense.everything(net) == before, f"byte {place} of {len(file)} was changed and nobody noticed"


@pytest.mark.parametrize(
    "other",
    [
        dense.conv_norm_net,
        lambda: nn.Sequential(dense.residual_net()),
        lambda: dense.residual_net().stem,
        lambda: nn.Identity(),
        lambda: tied(dense.residual_net()),
    ],
)
def test_another_network(file, tmp_path, other):
    (tmp_path / "model").write_bytes(file)
    refused(tmp_path / "model", "another network", net=other())


def test_a_network_that_is_too_small(tmp_path):
    save(dense.mlp(4, 10, 3), tmp_path / "model")
    refused(tmp_path / "model", r"0\.weight.*\(10, 4\).*\(9, 4\)", net=dense.mlp(4, 9, 3))


def test_nothing_is_unpickled(file):
    size = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8 : 8 + size])
    assert header["__metadata__"]["format"] == "earlycrop-2"
    assert all(set(entry) == {"dtype", "shape", "data_offsets"} for name, entry in header.items() if name[0] != "_")


def test_another_geometry_is_another_network(tmp_path):
    save(nn.Conv2d(2, 3, 3, stride=2), tmp_path / "model")
    refused(tmp_path / "model", r"`stride` of `` is \(2, 2\), in this model \(1, 1\)", net=nn.Conv2d(2, 3, 3))
    save(nn.Conv2d(2, 3, 3), tmp_path / "model")
    refused(tmp_path / "model", r"`kernel_size`.*\(3, 3\).*\(5, 5\)", net=nn.Conv2d(2, 3, 5))
    save(nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d(2)), tmp_path / "model")
    refused(tmp_path / "model", "`1` is 2, in this model", net=nn.Sequential(nn.Linear(2, 2), nn.MaxPool1d((3,))))


def test_another_type_is_refused_and_not_rounded(tmp_path):
    save(nn.Linear(2, 2).double(), tmp_path / "model")
    refused(tmp_path / "model", r"torch\.float64, in this model it is torch\.float32", net=nn.Linear(2, 2))
    with torch.device("meta"):
        net = nn.Linear(2, 2, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="meta device"):
        load(net, tmp_path / "model")


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"scale": 3}


def test_what_cannot_be_stored_is_said_and_nothing_is_written(tmp_path):
    lazy, meta, sparse = nn.LazyLinear(3), nn.Linear(2, 2, device="meta"), nn.Linear(2, 2)
    sparse.register_buffer("adjacency", torch.eye(3).to_sparse())
    complex_ = nn.Linear(2, 2, dtype=torch.complex128)
    for net, why in (
        (lazy, "`weight`: it has no shape yet"),
        (meta, "`weight`: it is on the meta device"),
        (sparse, r"`adjacency`: it is torch\.sparse_coo"),
        (complex_, r"`weight`: the format has no torch\.complex128"),
        (nn.Sequential(Extra(2, 2)), "`0` whole: it has an extra state"),
    ):
        with pytest.raises(CheckpointError, match=why):
            save(net, tmp_path / "model")
    assert not list(tmp_path.iterdir())
