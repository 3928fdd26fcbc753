"""What scoring may not do: leave a trace, drop out, round, or run kernels without a second derivative."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from earlycrop import Pruner, Scoring
from earlycrop.errors import ScoreError
from tests import dense
from tests.evaluation.helpers import at_gates, at_weights, lived_in


@pytest.mark.parametrize("bn_mode", ["auto", "running", "calibrated", "batch"])
@pytest.mark.parametrize("fails", [False, True])
def test_scoring_leaves_everything_bit_for_bit(bn_mode, fails):
    net, batch = lived_in(), dense.images()
    before = dense.everything(net)
    calls = []

    def loss(model, batch):
        calls.append(model.drop.training)
        torch.rand(3)
        value = dense.cross_entropy(model, batch)
        return value * torch.nan if fails and torch.is_grad_enabled() and len(calls) > 3 else value

    at = at_weights(net, loss, [batch], bn_mode=bn_mode, micro_batch=2)
    if fails:
        with pytest.raises(ScoreError, match="nan"):
            at.hessian_gradient()
    else:
        at.hessian_gradient()
    assert dense.everything(net) == before
    assert not any(calls)


def test_dropout_is_off_while_scoring():
    net, batch = lived_in(), dense.images()
    first, second = (at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient() for _ in range(2))
    assert torch.equal(first, second)
    net.drop.p = 0.0
    assert torch.equal(at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient(), first)


def test_scoring_works_where_gradients_are_off_and_autocast_is_on():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    net, batch = net.float(), (batch[0].float(), batch[1])
    expected = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    assert torch.equal(found, expected)


def test_what_is_not_differentiated_needs_no_gradient_while_scoring():
    net, batch = lived_in(), dense.images()
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    seen = []

    def loss(model, batch):
        if torch.is_grad_enabled():  # else it is only asked how to ask
            seen.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
        return dense.cross_entropy(model, batch)

    at_gates(net, loss, [batch], bn_mode="running").hessian_gradient()
    assert seen
    assert not any(seen)
    seen.clear()
    at_weights(net, loss, [batch], bn_mode="running").gradient()
    assert all(names == {"conv.weight", "head.weight"} for names in seen)
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags


@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_transformers_and_recurrent_layers_are_not_fused_while_scoring(unit):
    """Their fused kernels have no second derivative, or none at all in eval mode."""
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1, enable_nested_tensor=False
    )
    net = dense.Net(
        lambda n, x: n.head(n.rnn(n.encoder(x))[0][:, -1]),
        encoder=encoder,
        rnn=nn.LSTM(6, 4, batch_first=True),
        head=nn.Linear(4, 3),
    ).float()
    batch = torch.randn(5, 4, 6), torch.randint(3, (5,))
    flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    make = at_weights if unit == "weights" else at_gates
    found = make(net, dense.cross_entropy, [batch]).hessian_gradient()
    exact = make(net.double(), dense.cross_entropy, [(batch[0].double(), batch[1])]).hessian_gradient()
    assert exact.norm() > 0
    assert (found - exact).norm() <= 1e-4 * exact.norm()
    now = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    assert now == flags


@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_a_model_in_half_precision_is_scored_in_its_own_and_summed_in_single(unit):
    net, batch = dense.mlp(4, 20, 3), dense.vectors(32)
    make = at_weights if unit == "weights" else at_gates
    exact = make(net, dense.cross_entropy, [batch])
    expected = exact.values * exact.hessian_gradient()
    half = make(net.bfloat16(), dense.cross_entropy, [(batch[0].bfloat16(), batch[1])], micro_batch=8)
    found = half.values * half.hessian_gradient()
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.double(), expected]))[0, 1] > 0.98


TF32 = """
import torch
from torch import nn
from earlycrop import Pruner, Scoring

matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
read = {{
    "older": lambda: (matmul.allow_tf32, cudnn.allow_tf32),
    "newer": lambda: (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision),
}}["{which}"]
{setting}
before, inside = read(), []


def loss(model, batch):
    if not model.training:  # in training mode it is asked as training asks it
        inside.append(read())
    return model(batch).square().mean()


x = torch.randn(4, 3)
Pruner(nn.Linear(3, 2), "crop-u", 0.5, example_inputs=x, scoring=Scoring(loss, [x])).check(0)
assert read() == before, (read(), before)
assert set(inside) == {{("ieee",) * 3 if "{which}" == "newer" else (False, False)}}, inside
"""


@pytest.mark.parametrize(
    ("which", "setting"),
    [
        pytest.param("older", "matmul.allow_tf32 = cudnn.allow_tf32 = True", marks=pytest.mark.slow),
        ("newer", "matmul.fp32_precision = cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = 'tf32'"),
        pytest.param("older", "", marks=pytest.mark.slow),
        pytest.param("older", "torch.set_float32_matmul_precision('high')", marks=pytest.mark.slow),
        pytest.param("newer", "torch.backends.fp32_precision = 'tf32'", marks=pytest.mark.slow),
    ],
)
def test_tf32_is_off_while_scoring_and_as_it_was_afterwards(which, setting):
    """In another process, for PyTorch never forgets which of its two switches was used; it warns of a mixture."""
    if which == "newer" and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has only the older switch")
    code = TF32.format(which=which, setting=setting)
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


def test_no_kernels_are_searched_while_scoring_and_cutting(monkeypatch):
    """The search is worth its seconds where a shape comes again."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    class Layer(nn.Linear):
        def forward(self, x):
            seen.append(torch.backends.cudnn.benchmark)
            return super().forward(x)

    net, x = nn.Sequential(Layer(3, 8), nn.Linear(8, 2)), torch.randn(4, 3)
    pruner = Pruner(
        net, "crop-s", 0.5, example_inputs=x, scoring=Scoring(lambda m, b: m(b).square().mean(), [x, x[:2]])
    )
    seen.clear()
    assert pruner.check(0).verification.exact
    assert seen
    assert not any(seen)
    net(x)
    assert seen[-1]
