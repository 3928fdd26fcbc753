"""What others read in a file, and where its reader wants the model: plain names, plain tensors, a device."""

import pytest
import safetensors.torch
import torch
from torch import nn

from earlycrop import CheckpointError, Pruner, load, save
from tests import dense
from tests.cases import CASES
from tests.checkpoint.helpers import state

FAMILIES = ["resnet", "mobilenet", "mlp_layer_norm", "multihead_attention", "masked_weight"]


class Fresh(nn.Module):
    """All that is mostly zero without any mask: biases, statistics, tables of booleans, buffers that pass."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2)
        nn.init.zeros_(self.first.bias)
        self.register_buffer("seen", torch.zeros(50, dtype=torch.int64))
        self.register_buffer("causal", torch.eye(9, dtype=torch.bool))
        self.register_buffer("passing", torch.arange(3.0), persistent=False)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.first(x))))


def cut(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = CASES[name].build().double()
    Pruner(net, "random-s", 0.4, example_inputs=CASES[name].inputs()).check(0)
    return net


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_model_is_a_state_dict_to_others(name, tmp_path):
    net = cut(name)
    save(net, tmp_path / "model")
    found = safetensors.torch.load_file(tmp_path / "model")
    assert {key: dense.bits(value) for key, value in found.items()} == state(net)
    net.load_state_dict(found)


def test_nothing_that_is_zero_by_itself_counts_as_masked(tmp_path):
    save(Fresh(), tmp_path / "model")
    Fresh().load_state_dict(safetensors.torch.load_file(tmp_path / "model"))


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_model_has_plain_names_and_loads_from_them(tmp_path):
    net, other = Fresh(), Fresh()
    Pruner(net, "random-s", 0.4, example_inputs=torch.randn(3, 4)).check(0)
    net.head = torch.compile(net.head, backend="eager")  # a part of it, and then the whole
    save(torch.compile(net, backend="eager"), tmp_path / "model")
    assert {*safetensors.torch.load_file(tmp_path / "model")} == {*Fresh().state_dict()}
    load(torch.compile(other, backend="eager"), tmp_path / "model")
    x = torch.randn(3, 4)
    assert torch.equal(other.eval()(x), net.eval()(x))
    assert other.first.out_features < 8


def test_a_model_without_values_is_loaded_where_it_shall_be(tmp_path):
    net = Fresh()
    Pruner(net, "random-s", 0.4, example_inputs=torch.randn(3, 4)).check(0)
    save(net, tmp_path / "model")
    with torch.device("meta"):
        other = Fresh()
    with pytest.raises(CheckpointError, match="Give `device`"):
        load(other, tmp_path / "model")
    load(other, tmp_path / "model", device="cpu")
    assert state(other) == state(net)
    assert other.passing.tolist() == [0, 1, 2]
    load(other, tmp_path / "model", device=torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_is_loaded_onto_a_gpu(tmp_path):
    net = Fresh()
    Pruner(net, "random-s", 0.4, example_inputs=torch.randn(3, 4)).check(0)
    save(net.cuda(), tmp_path / "model")
    for other in (Fresh(), Fresh().cuda()):
        load(other, tmp_path / "model", device="cuda")
        assert {one.device.type for one in (*other.parameters(), *other.buffers())} == {"cuda"}
        assert state(other.cpu()) == state(net.cpu())


def test_a_passing_buffer_that_was_cut_is_in_the_state_from_then_on(tmp_path):
    """It is random, so a network that is built again has another one."""
    net, inputs = cut("masked_weight"), CASES["masked_weight"].inputs()
    assert "mask" in net.state_dict()
    torch.manual_seed(1)
    other = CASES["masked_weight"].build().double()
    assert "mask" not in other.state_dict()
    save(net, tmp_path / "model")
    load(other, tmp_path / "model")
    assert state(other) == state(net)
    assert torch.equal(other.eval()(*inputs), net.eval()(*inputs))


def test_a_cut_that_fails_leaves_passing_buffers_as_they_were():
    net = CASES["masked_weight"].build()
    pruner = Pruner(net, "random-s", 0.4, example_inputs=CASES["masked_weight"].inputs())
    pruner.dry_run()
    assert "mask" not in net.state_dict()
