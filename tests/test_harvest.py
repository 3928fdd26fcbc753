"""Harvest: what leaves is exactly what changes nothing, by an oracle that only looks at outputs."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from earlycrop import EarlyCropError, HarvestReport, VerificationError, harvest
from earlycrop.structure import Verification, Verifier, cut, layers_of, trace
from earlycrop.units import Weights
from tests import dense
from tests.cases import CASES
from tests.pruners import make_pruner


def masked(net: nn.Module, x: Tensor, density: float, seed: int = 1) -> nn.Module:
    """Random weights are zero; nothing holds them there."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers_of(net):
        parameter = net.get_parameter(layer.weight).data
        parameter *= torch.rand(parameter.shape, generator=generator) < density
    return net


def leaves(net: nn.Module, inputs: tuple) -> list[Tensor]:
    with torch.no_grad():
        outputs = tree_leaves(copy.deepcopy(net).eval()(*inputs))
    return [one for one in outputs if isinstance(one, Tensor) and one.is_floating_point()]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    scale = max(float(one.abs().max()) for one in a) or 1.0
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / scale


def redrawn(net: nn.Module, seed: int) -> nn.Module:
    """Other values wherever the network has any but zero: what still agrees then, agrees by its zeros."""
    twin, generator = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
        if tensor.is_floating_point():
            drawn = 0.3 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            sign = 1.0 if "var" in name else torch.randn(tensor.shape, generator=generator).sign().double()
            tensor.data = torch.where(tensor != 0, sign * drawn, 0.0)
    return twin


def dead_by_trying(net: nn.Module, inputs: tuple) -> Tensor:
    """A class is dead if without it every network with the same zeros computes the same for every input."""
    structure = trace(net, inputs)
    dead = torch.ones(len(structure), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for seed in range(8):
        twin = redrawn(net, seed)
        fresh = tree_map_only(Tensor, lambda t: 3 * torch.randn(t.shape, generator=generator, dtype=t.dtype), inputs)
        before = leaves(twin, fresh)
        for number in dead.nonzero().flatten().tolist():
            keep = torch.ones_like(dead)
            keep[number] = False
            smaller = copy.deepcopy(twin)
            cut(structure, smaller, keep, None)
            dead[number] = apart(before, leaves(smaller, fresh)) < 1e-13
    return dead


def small_mlp(act=nn.Tanh):
    return dense.mlp(4, 10, 8, 3, act=act), dense.vectors(12)[0]


NETS = {
    "tanh": lambda: small_mlp(),
    "relu": lambda: small_mlp(nn.ReLU),
    "sigmoid": lambda: small_mlp(nn.Sigmoid),
    "bare": lambda: (dense.mlp(4, 10, 8, 3, bias=False, act=nn.SiLU), dense.vectors(12)[0]),
    "bare sigmoid": lambda: (dense.mlp(4, 10, 8, 3, bias=False, act=nn.Sigmoid), dense.vectors(12)[0]),
    "relu6": lambda: (dense.mlp(4, 10, 8, 3, bias=False, act=nn.ReLU6), dense.vectors(12)[0]),
    "hardtanh off zero": lambda: (
        dense.mlp(4, 10, 8, 3, bias=False, act=lambda: nn.Hardtanh(0.5, 1.0)),
        dense.vectors(12)[0],
    ),
    "conv": lambda: (dense.conv_norm_net(), dense.images()[0]),
    "residual": lambda: (dense.residual_net(), dense.images()[0]),
    "depthwise": lambda: (dense.depthwise_net(), dense.images()[0]),
    "concat": lambda: (dense.concat_net(), dense.images()[0]),
}


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("density", [pytest.param(0.05, marks=pytest.mark.slow), 0.15])
@pytest.mark.parametrize("name", dense.some_of([*NETS], ["tanh", "relu", "residual", "depthwise"]))
def test_what_leaves_is_what_changes_nothing(name, density, silent):
    """Sound and complete, against cutting each class in turn from networks with the same zeros."""
    net, x = NETS[name]()
    masked(net, x, density, seed=len(name)).eval()
    if silent:  # so that channels can be zero and not only unread
        for part in net.modules():
            for tensor in (getattr(part, "bias", None), getattr(part, "running_mean", None)):
                if tensor is not None:
                    tensor.data[torch.rand(tensor.shape) < 0.8] = 0.0
    before, dense_net = leaves(net, (x,)), copy.deepcopy(net)
    dead = dead_by_trying(net, (x,))
    report = harvest(net, x)
    assert report.channels + len(report.spared) >= int(dead.sum()) >= report.channels
    assert apart(before, leaves(net, (x,))) < 1e-13
    if not report.spared:
        assert report.channels == int(dead.sum())
        assert {n: tuple(p.shape) for n, p in net.named_parameters()} == shapes_without(dense_net, (x,), dead)


def shapes_without(net, inputs, dead):
    cut(trace(net, inputs), net, ~dead, None)
    return {name: tuple(p.shape) for name, p in net.named_parameters()}


QUICK = ["mlp", "mlp_of_tokens", "resnet", "mobilenet", "chain", "unet", "group_norm_pairs", "glu", "concat"]


@pytest.mark.parametrize("name", dense.some_of([name for name, case in CASES.items() if not case.refused], QUICK))
def test_no_network_of_the_zoo_computes_anything_else(name):
    """On other inputs than those of the proof, in eval mode, and its gradients for what is left."""
    case = CASES[name]
    torch.manual_seed(0)
    net, inputs = case.build().double(), case.inputs()
    if not list(layers_of(net)):
        pytest.skip("its weights are no layer's")
    structure = trace(net, inputs)
    for density in (0.02, 0.2) if not case.slow else (0.02,):
        twin = masked(copy.deepcopy(net), inputs, density)
        before = copy.deepcopy(twin)
        report = harvest(twin, inputs)
        assert report.verification.exact
        assert report.after.params == sum(p.numel() for p in twin.parameters())
        fresh = tree_map_only(Tensor, lambda t: torch.randn_like(t) if t.is_floating_point() else t, inputs)
        assert apart(leaves(before, fresh), leaves(twin, fresh)) < 1e-9
    assert len(structure) >= case.least


def test_by_hand():
    """One unit unread, one zero, one constant, and a chain: a dead reader frees its writer."""
    net, x = small_mlp()
    first, second, third = net[0], net[2], net[4]
    with torch.no_grad():
        second.weight[:, 3] = 0  # unit 3 of the first layer is read by nobody
        first.weight[5], first.bias[5] = 0, 0  # unit 5 is zero
        first.weight[6] = 0  # unit 6 is its bias: a constant
        third.weight[:, 2] = 0  # unit 2 of the second layer is read by nobody ...
        second.weight[:, 7] = 0
        second.weight[2, 7] = 1.0  # ... and it alone reads unit 7 of the first
    before, values = net(x), first.weight.detach().clone()
    report = harvest(net, x)
    assert report.channels == 4
    assert report.constants == 1
    assert report.spared == report.barred == ()
    stay = torch.tensor([0, 1, 2, 4, 6, 8, 9])
    assert torch.equal(first.weight, values[stay])
    assert [(w.before, w.after) for w in report.widths] == [(10, 7), (8, 7), (3, 3)]
    torch.testing.assert_close(net(x), before, atol=1e-15, rtol=0)
    zeros = 8 + 4 + 4 + 3 + 7
    assert report.masked == zeros
    # rows 3 and 7; columns 5 and 6; entry (2, 7); the rest of row 2
    assert report.lonely == 2 * 4 + 2 * 8 + 1 + 6
    assert report.sparsity == zeros / (40 + 80 + 24)
    assert report.effective_sparsity == (zeros + report.lonely) / 144
    assert report.real_sparsity == 1 - (28 + 49 + 21) / 144


def test_a_constant_is_told_and_stays():
    net, x = small_mlp(nn.Sigmoid)
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 0, 0  # sigmoid(0) is a half
    report = harvest(net, x)
    assert (report.channels, report.constants) == (0, 1)
    assert "constant    1" in str(report)


def test_a_layer_that_is_dead_whole_keeps_one_channel():
    net, x = small_mlp()
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.zero_()
    before = net(x)
    report = harvest(net, x)
    assert [tuple(p.shape) for p in net.parameters()] == [(1, 4), (1,), (1, 1), (1,), (3, 1), (3,)]
    assert report.spared == ("0", "2")
    assert torch.equal(net(x), before)


def test_a_dead_branch_of_a_stream_leaves_but_for_one_channel():
    net, x = dense.residual_net(), dense.images()[0]
    net.conv2.weight.data.zero_()
    before = leaves(net, (x,))
    report = harvest(net, x)
    assert net.conv1.out_channels == 1
    assert net.stem.out_channels == 4
    assert report.spared == ("conv1",)
    assert apart(before, leaves(net, (x,))) < 1e-15


def test_channels_of_a_layer_norm_are_not_judged_and_it_is_told():
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = dense.vectors()[0]
    with torch.no_grad():
        net[2].weight[:, 1] = 0
        net[4].weight[:, 1] = 0
    report = harvest(net, x)
    assert (net[0].out_features, net[2].out_features) == (6, 4)
    assert [(one.where, one.channels) for one in report.barred] == [("layer_norm in `1`", 6)]
    assert "layer_norm in `1`" in str(report)


def test_products_of_activations_are_not_judged():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)

        def forward(self, x):
            return self.a(x) @ self.b(x).transpose(0, 1)

    net, x = Bilinear().double(), dense.vectors()[0]
    before = net(x)
    assert harvest(net, x).channels == 0
    assert torch.equal(net(x), before)


def test_zeros_of_ignored_layers_are_no_masks():
    """A matrix that begins at zero (as in LoRA) is not dead."""
    net, x = small_mlp()
    with torch.no_grad():
        net[4].weight[:, :4] = 0
    assert harvest(copy.deepcopy(net), x).channels == 4
    assert harvest(net, x, ignore=("4",)).channels == 0


# Beside a pruner --------------------------------------------------------------------------------------------------


def pruned(method="snip", sparsity=0.97, seed=0, net=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = net or nn.Sequential(
            nn.Conv2d(2, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3),
        ).double()  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-3)
    batch = dense.images(24)
    options = {"loss": dense.cross_entropy, "batches": [batch], "example_inputs": batch[0][:3]} | options
    return net, optimizer, make_pruner(net, method, sparsity, optimizer=optimizer, **options)


def train(net, optimizer, steps=2):
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        dense.cross_entropy(net, dense.images(24)).backward()
        optimizer.step()


@pytest.mark.parametrize("method", ["snip", "crop-u"])
@pytest.mark.parametrize("optimizer_state", ["slice", "reset"])
@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # it is the harvest that is tested
def test_99_percent_becomes_real_and_training_goes_on_as_it_would_have(method, optimizer_state):
    """Against a twin that is never harvested: the same losses; masks hold; state is cut with the weights."""
    runs = []
    for harvested in (True, False):
        net, optimizer, pruner = pruned(method, 0.99, optimizer_state=optimizer_state)
        train(net, optimizer)
        report = pruner.check(0)
        train(net, optimizer)
        if harvested:
            objects = [id(p) for p in net.parameters()]
            found = pruner.harvest()
            assert [id(p) for p in net.parameters()] == objects
        elif optimizer_state == "reset":
            optimizer.state.clear()
        train(net, optimizer, 4)
        runs.append((net, optimizer, pruner, dense.cross_entropy(net.eval(), dense.images(24)).item()))
    (net, optimizer, pruner, loss), (_, _, other, expected) = runs
    assert loss == pytest.approx(expected, rel=1e-9)
    assert found.channels > 20
    assert 0.9 < found.real_sparsity < found.sparsity == pytest.approx(0.99, abs=1e-3)
    assert found.sparsity <= found.effective_sparsity <= 1
    assert report.after.prunable - found.lonely <= int(pruner.units.keep.sum()) <= report.after.prunable
    assert int(pruner.units.keep.sum()) < int(other.units.keep.sum())
    for name, keep in pruner.units.masks().items():
        parameter = net.get_parameter(name)
        assert keep.shape == parameter.shape
        assert not parameter[~keep].any()
        assert parameter[keep].all()
        assert not parameter.grad[~keep].any()
        assert all(v.shape == parameter.shape for v in optimizer.state[parameter].values() if v.ndim)
    assert pruner.units.counts().prunable == int(pruner.units.keep.sum())
    assert pruner.units.counts().params == sum(p.numel() for p in net.parameters()) - int((~pruner.units.keep).sum())
    widths = [int(keep.sum()) for keep in pruner.units.masks().values()]
    assert pruner.units.widths() == list(zip(["0", "3", "7", "9"], widths, strict=True))
    assert pruner.units.counts().flops < other.units.counts().flops
    json.dumps(found.as_dict(), allow_nan=False)
    assert isinstance(found, HarvestReport)


def test_an_optimizer_that_moves_every_weight_moves_no_masked_one_after_the_harvest():
    net, _, pruner = pruned(sparsity=0.95)
    pruner.check(0)
    pruner.harvest()
    pruner.optimizer = optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for parameter in net.parameters():
        parameter.data.add_(0.1)
    train(net, optimizer, 1)
    assert all(not net.get_parameter(name)[~keep].any() for name, keep in pruner.units.masks().items())


def test_going_on_after_a_harvest_is_not_stopping():
    net, optimizer, pruner = pruned()
    train(net, optimizer)
    pruner.check(0)
    pruner.harvest()
    train(net, optimizer)
    file = io.BytesIO()
    torch.save({"pruner": pruner.state_dict(), "model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twin, other, again = pruned(seed=9)
    again.load_state_dict(state["pruner"])
    twin.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    train(net, optimizer, 3)
    train(twin, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert torch.equal(again.units.keep, pruner.units.keep)
    before = dense.everything(twin, other)
    with pytest.raises(EarlyCropError, match="after a harvest"):
        again.load_state_dict(state["pruner"])
    assert dense.everything(twin, other) == before


def test_a_harvest_that_is_not_exact_is_undone(monkeypatch):
    net, optimizer, pruner = pruned()
    train(net, optimizer)
    pruner.check(0)
    train(net, optimizer)
    before, state = dense.everything(net, optimizer), pruner.state_dict()["units"]
    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "compare", lambda *_: Verification(0.5, 0.5))
        with pytest.raises(VerificationError, match=r"5\.0e-01"):
            pruner.harvest()
    assert dense.everything(net, optimizer) == before
    assert torch.equal(pruner.units.keep, state["keep"])
    assert pruner.units.left is None
    with monkeypatch.context() as patch:
        patch.setattr(Verifier, "compare", lambda *_: Verification(0.5, 0.5))
        with pytest.raises(VerificationError):
            harvest(net, dense.images()[0], optimizer)
    assert dense.everything(net, optimizer) == before
    train(net, optimizer)
    assert all(not net.get_parameter(name)[~keep].any() for name, keep in pruner.units.masks().items())
    assert pruner.harvest().channels > 0


def test_what_cannot_be_harvested_is_refused():
    net, optimizer, pruner = pruned()
    with pytest.raises(EarlyCropError, match="pruned nothing yet"):
        pruner.harvest()
    pruner.check(0)
    pruner.harvest()
    before = dense.everything(net, optimizer)
    with pytest.raises(EarlyCropError, match="already"):
        pruner.harvest()
    assert dense.everything(net, optimizer) == before
    for method in ("crop-s", "dense"):
        with pytest.raises(EarlyCropError, match="Cannot harvest"):
            pruned(method, 0.5)[2].harvest()


def test_between_two_rounds_nothing_is_harvested_and_the_next_round_comes():
    net, optimizer, pruner = pruned("ltr", 0.9, epochs=2)
    while not pruner.pruned:
        train(net, optimizer)
        pruner.check(2)
    with pytest.raises(EarlyCropError, match="1 of 6"):
        pruner.harvest()
    while not pruner.done:
        train(net, optimizer)
        assert pruner.check(2 + pruner.cuts)
    pruner.harvest()


def test_the_function_takes_zeros_for_masks_and_cuts_the_optimizer():
    net, x = small_mlp()
    optimizer = torch.optim.Adam(net.parameters())
    Weights().of(net, x, optimizer, ()).keep_only(torch.rand(144, generator=torch.Generator().manual_seed(3)) < 0.1)
    for _ in range(2):
        dense.cross_entropy(net, dense.vectors(12)).backward()
        optimizer.step()
    with torch.no_grad():
        net[0].bias.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = harvest(net, x, optimizer)
    assert report.channels > 0
    assert all(v.shape == p.shape for p in net.parameters() for v in optimizer.state[p].values() if v.ndim)


class Largest(nn.Module):
    """A layer reads the largest values, which an operator returns together with their positions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.last(self.first(x).max(1).values)


def test_what_an_operator_that_is_not_judged_returns_beside_other_results_is_not_zero():
    net = masked(Largest().double(), X := torch.randn(5, 7, 4, dtype=torch.float64), 0.3)
    net.last.bias.data.zero_()
    before = net(X)
    report = harvest(net, X)
    assert [barred.where for barred in report.barred] == ["max in ``"]
    torch.testing.assert_close(net(X), before, atol=1e-14, rtol=0)
