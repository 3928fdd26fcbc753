"""Pruned networks in other runtimes: exported programs and ONNX compute what the model computes, at any batch size."""

import pytest
import torch
from torch import nn

import earlycrop
from benchmarks.export import BATCHES, NETWORKS, error, exported, prune, to_onnx
from earlycrop.structure.strided import SubsampledConv2d, subsample

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # torch's own, while it exports
    pytest.mark.filterwarnings("ignore:_check_is_size:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights:UserWarning"),  # of dense ones too
]
EQUAL = 1e-5


@pytest.fixture(params=NETWORKS)
def network(request):
    if request.param in ("vit", "gpt2"):
        pytest.importorskip("transformers")
    model, parameters = prune(request.param, 16, sparsity=0.5)
    assert parameters["after"] < 0.9 * parameters["before"]
    return model, NETWORKS[request.param][1]


def test_an_exported_program_computes_the_same_at_every_batch_size(network):
    model, draw = network
    program = exported(model, draw(2)).module()
    assert max(error(program, model, draw(batch)) for batch in BATCHES) <= EQUAL


def test_onnxruntime_computes_the_same_at_every_batch_size(network, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model, draw = network
    session = to_onnx(model, draw(2), tmp_path / "small.onnx")
    assert max(error(session, model, draw(batch)) for batch in BATCHES) <= EQUAL
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_a_file_is_as_small_as_the_network(tmp_path):
    pytest.importorskip("onnxscript")
    model, parameters = prune("cnn", 32)
    to_onnx(model, torch.randn(2, 3, 16, 16), tmp_path / "small.onnx")
    assert 4 * parameters["after"] <= (tmp_path / "small.onnx").stat().st_size <= 4 * parameters["after"] + 20_000


def test_a_masked_network_and_a_loaded_one(tmp_path):
    """Masks are zeros in the parameters, which is all that a program sees."""
    model, _ = prune("cnn", 8, "crop-u")
    inputs = torch.randn(2, 3, 16, 16)
    program = exported(model, inputs)
    assert error(program.module(), model, torch.randn(5, 3, 16, 16)) <= EQUAL
    zeros = sum(int((tensor == 0).sum()) for name, tensor in program.state_dict.items() if name.endswith("weight"))
    assert zeros > 0.5 * sum(p.numel() for p in model.parameters())
    earlycrop.save(model, tmp_path / "masked")
    again = NETWORKS["cnn"][0](8).eval()
    earlycrop.load(again, tmp_path / "masked")
    assert error(exported(again, inputs).module(), model, inputs) <= EQUAL


def test_a_shortcut_that_became_narrow():
    """What stands in for it in training exports like the layer that it was."""
    model = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.ReLU()).eval()
    subsample(model)
    assert isinstance(model[0], SubsampledConv2d)
    program = exported(model, torch.randn(2, 4, 8, 8)).module()
    assert error(program, model, torch.randn(5, 4, 8, 8)) <= EQUAL
