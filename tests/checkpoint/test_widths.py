"""Loaded into the ordinary constructor's model: widths, heads and groups follow."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from earlycrop import load, save
from earlycrop.structure import cut, trace
from tests import dense
from tests.cases import CASES
from tests.checkpoint.helpers import there_and_back, tied


class Attention(nn.Module):
    """Its sizes are its own numbers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.sizes, self.parts = heads, (2 * heads, heads), [heads, heads]
        self.qkv = nn.Linear(4, 6 * heads)
        self.out = nn.Linear(2 * heads, 4)
        self.register_buffer("turn", torch.arange(float(heads)), persistent=False)
        self.cache: torch.Tensor | None = None

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:-1], 3, self.heads, 2).unbind(-3)
        sizes = v.flatten(-2).new_tensor([sum(self.sizes), *self.parts]).sum()
        return self.out((torch.softmax(q * k, -1) * v * self.turn[:, None]).flatten(-2)) * sizes


def weight_norm(width: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, width))


def spectral_norm(width: int) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, width))


def encoder(heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(2 * heads, heads, 3 * heads, batch_first=True)


NARROWED = {
    # made with a width, and what it then takes
    "linear": (lambda n: nn.Linear(4, n), lambda n: torch.randn(2, 4)),
    "grouped": (lambda n: nn.Conv2d(2 * n, 2 * n, 3, groups=n, padding=1), lambda n: torch.randn(2, 2 * n, 5, 5)),
    "transposed": (lambda n: nn.ConvTranspose2d(n, 3, 3), lambda n: torch.randn(2, n, 5, 5)),
    "batch norm": (nn.BatchNorm1d, lambda n: torch.randn(5, n)),
    "group norm": (lambda n: nn.GroupNorm(n, 2 * n), lambda n: torch.randn(2, 2 * n, 3)),
    "layer norm": (lambda n: nn.LayerNorm((3, n)), lambda n: torch.randn(2, 3, n)),
    "bilinear": (lambda n: nn.Bilinear(n, n + 1, 3), lambda n: (torch.randn(2, n), torch.randn(2, n + 1))),
    "embedding": (lambda n: nn.Embedding(5, n), lambda n: torch.tensor([0, 4])),
    "lstm": (lambda n: nn.LSTM(3, n, num_layers=2, bidirectional=True), lambda n: torch.randn(4, 2, 3)),
    "projected lstm": (lambda n: nn.LSTM(3, 2 * n, proj_size=n), lambda n: torch.randn(4, 2, 3)),
    "gru": (lambda n: nn.GRU(3, n), lambda n: torch.randn(4, 2, 3)),
    "cell": (lambda n: nn.LSTMCell(3, n), lambda n: torch.randn(2, 3)),
    "attention": (lambda n: nn.MultiheadAttention(2 * n, n), lambda n: (torch.randn(3, 2, 2 * n),) * 3),
    "encoder": (encoder, lambda n: torch.randn(2, 3, 2 * n)),
    "own": (Attention, lambda n: torch.randn(2, 4)),
    "weight norm": (weight_norm, lambda n: torch.randn(2, 4)),
    "spectral norm": (spectral_norm, lambda n: torch.randn(2, 4)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # that one way of computing it is not there
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NARROWED)
def test_whatever_its_class_the_wide_one_becomes_the_narrow_one(name, mode, tmp_path):
    """Built wide, it computes after loading what the narrow one does, and trains."""
    make, inputs = NARROWED[name]
    narrow, wide = make(2).eval(), make(4).eval()
    there_and_back(narrow, wide, tmp_path / "model")
    for net in (narrow, wide):
        getattr(net, mode)()
        torch.manual_seed(1)
        net.found = net(*given) if isinstance(given := inputs(2), tuple) else net(given)
    found, expected = (torch.utils._pytree.tree_leaves(net.found) for net in (wide, narrow))
    assert all(map(torch.equal, found, expected))
    sum(one.sum() for one in found).backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in wide.parameters())
    if isinstance(wide, nn.RNNBase):
        assert list(map(id, wide._flat_weights)) == list(map(id, wide.parameters()))


def test_a_number_that_the_model_does_not_have_is_left_out(tmp_path):
    net, anew = nn.Linear(2, 2), nn.Linear(2, 2)
    net.steps, net.flag, net.name, net._hidden, anew.flag = 5, True, "net", 3, False
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    assert not hasattr(anew, "steps")
    assert not hasattr(anew, "_hidden")
    assert anew.flag is False


def test_a_passing_buffer_that_only_one_has_is_no_other_network(tmp_path):
    net, anew = Attention(2), Attention(2)
    del net.cache
    net.register_buffer("cache", torch.ones(3), persistent=False)
    save(net, tmp_path / "model")
    load(anew, tmp_path / "model")
    assert anew.cache is None
    save(anew, tmp_path / "model")
    load(net, tmp_path / "model")
    assert net.cache.tolist() == [1, 1, 1]


def test_tied_weights_stay_tied(tmp_path):
    net, anew = tied(dense.residual_net()), tied(dense.residual_net())
    there_and_back(net, anew, tmp_path / "model")
    assert anew.conv1.weight is anew.conv2.weight


@pytest.mark.parametrize("name", ["transformer_layer", "multihead_attention", "recurrent_lstm", "group_norm_two"])
def test_attributes_that_a_cut_changed_come_back_in_a_network_built_anew(name, tmp_path):
    """Heads, hidden units and groups live in integers of modules, and in one case in the kind of a module."""
    torch.manual_seed(0)
    case = CASES[name]
    net = case.build().double().eval()
    structure = trace(net, case.inputs())
    cut(structure, net, torch.arange(len(structure)) % 3 > 0, None)
    save(net, tmp_path / "small")
    again = case.build().double().eval()
    load(again, tmp_path / "small")
    with torch.no_grad():
        found, wanted = tree_leaves(again(*case.inputs())), tree_leaves(net(*case.inputs()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
