"""Saved and loaded bit for bit: dense, masked and cut; damaged and foreign files are refused."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from earlycrop import CheckpointError, Pruner, load, save
from earlycrop import checkpoint as module
from tests import dense, oracles
from tests.cases import CASES


def state(net: nn.Module):
    return {name: dense.bits(tensor) for name, tensor in net.state_dict().items()}


def attributes(net: nn.Module):
    return {name: {k: v for k, v in vars(m).items() if isinstance(v, int | tuple)} for name, m in net.named_modules()}


def there_and_back(net: nn.Module, anew: nn.Module, path: Path) -> None:
    size = save(net, path)
    assert size == path.stat().st_size
    objects = [id(t) for t in (*anew.parameters(), *anew.buffers())]
    load(anew, path)
    assert [id(t) for t in (*anew.parameters(), *anew.buffers())] == objects
    assert state(anew) == state(net)
    assert attributes(anew) == attributes(net)


@pytest.mark.parametrize("name", ["resnet", "mlp_layer_norm", "buffers", "mlp_tied_square", "autoencoder_tied"])
def test_dense(name, tmp_path):
    there_and_back(CASES[name].build(), CASES[name].build(), tmp_path / "model")


FAMILIES = [
    *("resnet", "mobilenet", "densenet", "group_norm_two", "mlp_layer_norm", "transposed_groups"),
    *("prelu_channels", "shared_block", "instance_norm_tracked"),
]


@pytest.mark.parametrize(
    "name", dense.some_of(FAMILIES, ["mobilenet", "group_norm_two", "mlp_layer_norm", "shared_block"])
)
def test_cut(name, tmp_path):
    net, anew, inputs = CASES[name].build().double(), CASES[name].build().double(), CASES[name].inputs()
    report = Pruner(net, "random-s", 0.4, example_inputs=inputs).check(0)
    assert report.after.params < report.before.params
    there_and_back(net, anew, tmp_path / "model")
    assert oracles.attribute_faults(anew) == []
    found, expected = anew.eval()(*inputs), net.eval()(*inputs)
    assert torch.equal(found, expected)
    anew(*inputs).sum().backward()


def test_masked_and_small(tmp_path):
    net, anew = dense.mlp(100, 200, 50, 3).float(), dense.mlp(100, 200, 50, 3).float()
    whole = save(net, tmp_path / "dense")
    Pruner(net, "magnitude-u", 0.98, example_inputs=torch.zeros(1, 100)).check(0)
    there_and_back(net, anew, tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < whole * (1 / 32 + 0.02) + 4096


STRANGE = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1.0, 1e-45, 1e38]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zeros", [0, 100, 1001])
def test_every_bit_of_every_value(dtype, zeros, tmp_path):
    values = torch.cat([torch.tensor(STRANGE, dtype=torch.float64).to(dtype), torch.zeros(zeros, dtype=dtype)])
    values = values[torch.randperm(len(values))]

    def make(filled):
        net = nn.Linear(len(values), 2, bias=False).to(dtype)
        if filled:
            net.weight.data = torch.stack([values, values.flip(0)])
        return net

    there_and_back(make(True), make(False), tmp_path / "model")


def test_a_nan_keeps_its_payload(tmp_path):
    odd = torch.tensor([0x7FC12345, -1, 0x7F800001, 0, 0, 0, 0, 0, 0, 0], dtype=torch.int32).view(torch.float32)
    net, anew = nn.Linear(10, 1, bias=False), nn.Linear(10, 1, bias=False)
    net.weight.data = odd[None]
    there_and_back(net, anew, tmp_path / "model")


class Assorted(nn.Module):
    """Buffers of every kind."""

    def __init__(self, fill: int) -> None:
        super().__init__()
        whole = torch.arange(10.0) * fill
        self.register_buffer("count", torch.tensor(fill))
        self.register_buffer("zero", torch.tensor(0))
        self.register_buffer("flags", torch.tensor([True, False, False, False, False]) & bool(fill))
        self.register_buffer("bytes", torch.zeros(20, dtype=torch.uint8))
        self.register_buffer("numbers", torch.tensor([0, 0, 0, -fill]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("part", whole[:5])
        self.register_buffer("other_part", whole[5:])
        self.register_buffer("turned", (torch.arange(6.0) * fill).view(2, 3).T)
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.nothing = nn.Linear(2, 2)
        self.nothing.register_parameter("bias", None)


def test_buffers_of_every_kind(tmp_path):
    net, anew = Assorted(3), Assorted(0)
    anew.passing.fill_(7)
    there_and_back(net, anew, tmp_path / "model")
    assert anew.passing.tolist() == [7, 7, 7]


def test_modes_and_flags_are_the_loaders_own(tmp_path):
    save(dense.residual_net().eval(), tmp_path / "model")
    anew = dense.residual_net().train()
    anew.stem.weight.requires_grad_(False)
    load(anew, tmp_path / "model")
    assert anew.training
    assert not anew.stem.weight.requires_grad
    assert anew.conv1.weight.requires_grad


def test_training_goes_on_after_loading(tmp_path):
    net, anew = dense.residual_net(), dense.residual_net()
    batch = dense.images()
    Pruner(net, "random-s", 0.4, example_inputs=batch[0]).check(0)
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    for one in (net, anew):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        dense.cross_entropy(one.train(), batch).backward()
        optimizer.step()
    assert state(net) == state(anew)


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save(dense.residual_net(), path)
    before = path.read_bytes()

    def full(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(module.safetensors, "serialize_file", full)
    with pytest.raises(OSError, match="space"):
        save(dense.conv_norm_net(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_numpy_is_not_needed(tmp_path):
    """The library is installed without it, and the format's own writer would import it."""
    code = """
import sys
sys.modules["numpy"] = None
import torch, earlycrop
from torch import nn
net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
x = torch.randn(8, 4)
earlycrop.Pruner(net, "snap", 0.5, example_inputs=x, loss=lambda m, b: m(b).square().mean(), batches=[x]).check(0)
earlycrop.save(net, "model")
twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
earlycrop.load(twin, "model")
assert torch.equal(net(x), twin(x)) and net[0].out_features < 6
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


def test_folders_are_made(tmp_path):
    save(dense.residual_net(), tmp_path / "a" / "b" / "model")
    load(dense.residual_net(), str(tmp_path / "a" / "b" / "model"))


# Refusals -----------------------------------------------------------------------------------------------------


def refused(path: Path, message: str | None = None, net: nn.Module | None = None) -> None:
    net = net if net is not None else masked()
    before = dense.everything(net)
    with pytest.raises(CheckpointError, match=message):
        load(net, path)
    assert dense.everything(net) == before


def masked() -> nn.Module:
    net = dense.residual_net().float()
    Pruner(net, "magnitude-u", 0.9, example_inputs=dense.images()[0].float()).check(0)
    return net


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
    refused(tmp_path / "model", "Save the model again")


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
    assert header["__metadata__"]["format"] == "earlycrop-1"
    assert all(set(entry) == {"dtype", "shape", "data_offsets"} for name, entry in header.items() if name[0] != "_")
