"""Saved and loaded bit for bit: dense, masked and cut."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from earlycrop import Pruner, load, save
from earlycrop.structure.gated_norms import gate_norms
from tests import dense, oracles
from tests.cases import CASES
from tests.checkpoint.helpers import STRANGE, state, there_and_back


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


@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # so much is masked that a layer is empty
def test_masked_and_small(tmp_path):
    net, anew = dense.mlp(100, 200, 50, 3).float(), dense.mlp(100, 200, 50, 3).float()
    whole = save(net, tmp_path / "dense")
    Pruner(net, "magnitude-u", 0.98, example_inputs=torch.zeros(1, 100)).check(0)
    there_and_back(net, anew, tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < whole * (1 / 32 + 0.02) + 4096


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


def test_the_file_of_a_gated_network_is_that_of_the_ordinary_one(tmp_path):
    x = dense.images()[0]
    net, anew = dense.conv_norm_net(), dense.conv_norm_net()
    kinds = [type(module) for module in net.modules()]
    gate_norms(net)
    expected, values = net.eval()(x), state(net)
    save(net, tmp_path / "model")
    assert state(net) == values
    load(anew, tmp_path / "model")
    assert [type(module) for module in anew.modules()] == kinds
    torch.testing.assert_close(anew.eval()(x), expected, atol=1e-14, rtol=0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    load(net, tmp_path / "model")  # while it is gated
    assert [type(module) for module in net.modules()] != kinds
    torch.testing.assert_close(net(x), expected, atol=1e-14, rtol=0)


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


def test_numpy_is_not_needed(tmp_path):
    """The library is installed without it, and the format's own writer would import it."""
    code = """
import sys
sys.modules["numpy"] = None
import torch, earlycrop
from torch import nn

net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
x = torch.randn(8, 4)
scoring = earlycrop.Scoring(lambda m, b: m(b).square().mean(), [x])
earlycrop.Pruner(net, "snap", 0.5, example_inputs=x, scoring=scoring).check(0)
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


def test_a_loaded_masked_model_may_get_a_new_head(tmp_path, recwarn):
    """The guard of lost masks looks for parameters by name, of which some are gone, in the steps of any optimizer."""
    net = dense.mlp(6, 20, 4).float()
    Pruner(net, "magnitude-u", 0.8, example_inputs=torch.zeros(1, 6)).check(0)
    save(net, tmp_path / "model")
    recwarn.clear()
    loaded, other = dense.mlp(6, 20, 4).float(), nn.Linear(3, 3)
    load(loaded, tmp_path / "model")
    loaded[-1] = nn.Sequential(nn.Linear(20, 2))
    for trained, x in ((loaded[-1], torch.randn(5, 20)), (other, torch.randn(5, 3))):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained(x).sum().backward()
        optimizer.step()
    assert not recwarn.list


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_with_values_stay_when_parameters_come_from_the_meta_device(persistent, tmp_path):
    """As `accelerate.init_empty_weights()` leaves a model: its buffers are real."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 300)
            self.register_buffer("scale", torch.full((300,), 3.0), persistent=persistent)

    net, empty = Scaled(), Scaled()
    save(net, tmp_path / "model")
    empty.fc.to("meta")
    load(empty, tmp_path / "model", device="cpu")
    assert torch.equal(empty.scale, net.scale)
    assert torch.equal(empty.fc.weight, net.fc.weight)
