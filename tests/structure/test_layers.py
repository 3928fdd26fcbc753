"""What counts as a layer: every matrix that multiplies activations, however it is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from earlycrop import METHODS, EarlyCropError, Pruner, Scoring
from earlycrop.budget import Budget
from earlycrop.counting import Counter, flops
from earlycrop.structure import cut, layers_in, layers_of, trace
from tests.cases import CASES
from tests.oracles import make_unique

X = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
SEQUENCE = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))


class Transposed(nn.Module):
    """y = x W + b, as in GPT-2."""

    def __init__(self, inside, outside):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inside, outside) * 0.2)
        self.bias = nn.Parameter(torch.zeros(outside))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Product(Transposed):
    def forward(self, x):
        return x @ self.weight + self.bias


class FromTheLeft(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(outside, inside) * 0.2)

    def forward(self, x):
        return (self.matrix @ x.T).T


class Listed(nn.Module):
    """Bare parameters in a list, a dictionary, or on the model itself; one of them is read transposed."""

    def __init__(self, holder):
        super().__init__()
        sizes = ((32, 10), (32, 16), (4, 16))
        every = [nn.Parameter(torch.randn(*size) * 0.3) for size in sizes]
        if holder is None:
            self.a, self.b, self.c = every
        elif holder is nn.ParameterDict:
            self.w = nn.ParameterDict(dict(zip("abc", every, strict=True)))
        else:
            self.w = nn.ParameterList(every)

    def forward(self, x):
        a, b, c = list(self.parameters())
        return F.linear(F.linear(F.linear(x, a).relu(), b.T).relu(), c)


class Experts(nn.Module):
    """Three experts, as one tensor of three dimensions a layer."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.up, self.down = nn.Parameter(torch.randn(3, 10, 32)), nn.Parameter(torch.randn(3, 32, 4))

    def forward(self, x):
        if self.how == "bmm":
            return torch.bmm(torch.bmm(x.expand(3, *x.shape), self.up).relu(), self.down).sum(0)
        if self.how == "einsum":
            return torch.einsum("ebo,eok->bk", torch.einsum("bi,eio->ebo", x, self.up).relu(), self.down)
        return sum(F.linear((x @ self.up[e]).relu(), self.down[e].T) for e in range(3))


class Attends(nn.Module):
    """Queries are learned: an input that the model brings itself, and no weight."""

    def __init__(self, **sizes):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 3, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **sizes)

    def forward(self, x):
        return self.attention(self.queries.expand(len(x), -1, -1), x, x)[0]


def encoder():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), 1)


def of_linears(wrap, **options):
    return nn.Sequential(wrap(nn.Linear(10, 32), **options), nn.ReLU(), nn.Linear(32, 4))


class HandNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(32, 10)), nn.Parameter(torch.ones(32, 1))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(F.linear(x, self.g * self.v / self.v.norm(dim=1, keepdim=True)).relu())


class BranchOnValue(Experts):
    """No graph can be had of it."""

    def forward(self, x):
        return x @ self.up[0] @ self.down[0] if float(x.sum()) > 1e9 else x @ self.up[1] @ self.down[1]


MODELS = {
    "addmm": (lambda: nn.Sequential(Transposed(10, 32), nn.ReLU(), nn.Linear(32, 4)), X, {"0": 320, "2": 128}),
    "product": (lambda: nn.Sequential(Product(10, 32), nn.ReLU(), Product(32, 4)), X, {"0": 320, "2": 128}),
    "left": (lambda: nn.Sequential(FromTheLeft(10, 32), nn.ReLU(), nn.Linear(32, 4)), X, {"0": 320, "2": 128}),
    "list": (lambda: Listed(nn.ParameterList), X, {"w.0": 320, "w.1": 512, "w.2": 64}),
    "dictionary": (lambda: Listed(nn.ParameterDict), X, {"w.a": 320, "w.b": 512, "w.c": 64}),
    "model": (lambda: Listed(None), X, {"a": 320, "b": 512, "c": 64}),
    "bmm": (lambda: Experts("bmm"), X, {"up": 960, "down": 384}),
    "einsum": (lambda: Experts("einsum"), X, {"up": 960, "down": 384}),
    "one by one": (lambda: Experts("loop"), X, {"up": 960, "down": 384}),
    "encoder": (
        encoder,
        SEQUENCE,
        {
            "layers.0.self_attn.in_proj_weight": 3072,
            "layers.0.self_attn.out_proj": 1024,
            "layers.0.linear1": 2048,
            "layers.0.linear2": 2048,
        },
    ),
    "cross": (Attends, SEQUENCE, {"attention.in_proj_weight": 3072, "attention.out_proj": 1024}),
    "other widths": (
        lambda: Attends(kdim=8, vdim=8),
        torch.randn(2, 5, 8),
        {
            "attention.q_proj_weight": 1024,
            "attention.k_proj_weight": 256,
            "attention.v_proj_weight": 256,
            "attention.out_proj": 1024,
        },
    ),
    "weight norm": (lambda: of_linears(weight_norm), X, {"0": 320, "2": 128}),
    "spectral norm": (lambda: of_linears(spectral_norm), X, {"0": 320, "2": 128}),
    "by hand": (HandNormed, X, {"v": 320, "head": 128}),
    "orthogonal": (lambda: of_linears(orthogonal), X, {"2": 128}),  # a zero of its parameter is no zero of the weight
    "branch": (lambda: BranchOnValue(""), X, {"up": 960, "down": 384}),
}
TRACED = [name for name in MODELS if name != "branch"]


def built(name):
    torch.manual_seed(0)
    build, x, sizes = MODELS[name]
    return build(), x, sizes


@pytest.mark.parametrize("name", MODELS)
def test_every_matrix_is_a_layer(name):
    model, x, sizes = built(name)
    layers = layers_in(model, x)
    assert {layer.name: model.get_parameter(layer.weight).numel() for layer in layers} == sizes


@pytest.mark.parametrize("name", TRACED)
def test_the_graph_and_a_run_find_the_same_layers(name):
    model, x, _ = built(name)
    structure = trace(model, x)
    assert structure.layers == layers_in(model, x)
    assert Counter(structure, model)().prunable == sum(MODELS[name][2].values())


@pytest.mark.parametrize("name", ["addmm", "product", "list", "dictionary", "bmm", "einsum", "one by one"])
def test_multiplications_are_counted(name):
    model, x, _ = built(name)
    assert Counter(trace(model, x), model)().flops == flops(model, x)


@pytest.mark.parametrize("name", TRACED)
def test_widths_follow_a_cut(name):
    model, x, _ = built(name)
    structure = trace(model, x)
    if not len(structure):
        return
    spaces = structure.spaces()
    left = cut(structure, model, torch.arange(len(spaces)) != int((spaces == spaces[0]).nonzero()[0]), None)
    assert left.layers == trace(model, x).layers
    assert Counter(left, model)() == Counter(trace(model, x), model)()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_masks_hold_half_of_each(name):
    model, x, sizes = built(name)
    report = Pruner(model, "magnitude-u", 0.5, example_inputs=x).check(0)
    assert report is not None
    assert report.before.prunable == sum(sizes.values())
    assert report.after.prunable == report.before.prunable - round(report.before.prunable / 2)
    left = {layer.name: int((model.get_parameter(layer.weight) != 0).sum()) for layer in layers_in(model, x)}
    assert left == {width.layer: width.after for width in report.widths}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["weight norm", "spectral norm", "by hand"])
def test_no_norm_is_left_without_a_weight(name):
    """It would be divided by zero: every row keeps its best weight, and no choice may take that."""
    model, x, _ = built(name)
    pruner = Pruner(model, "magnitude-u", 0.92, example_inputs=x)
    pruner.check(0)
    assert bool(torch.isfinite(model(x)).all())
    with pytest.raises(EarlyCropError, match="keep no weight"):
        pruner.units.keep_only(torch.zeros_like(pruner.units.keep))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["addmm", "list", "encoder", "weight norm"])
@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if not one.units.whole_channels])
def test_every_method_of_weights_scores_them(method, name):
    if method == "px" and name in ("encoder", "weight norm"):
        pytest.skip("paths end there, and it says so")
    model, x, sizes = built(name)
    batch = x, torch.zeros_like(model(x).detach())
    scoring = Scoring(lambda net, batch: (net(batch[0]) - batch[1]).square().mean(), [batch])
    pruner = Pruner(model, method, 0.3, example_inputs=x, scoring=scoring, epochs=8)
    assert pruner.scores().numel() == sum(sizes.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["addmm", "product"])
def test_harvest_cuts_what_masks_emptied(name):
    model, x, sizes = built(name)
    pruner = Pruner(model, "magnitude-u", 0.5, example_inputs=x)
    layer = layers_in(model, x)[0]
    weight = model.get_parameter(layer.weight)
    with torch.no_grad():
        weight.select(layer.dim, 3).zero_()
    pruner.check(0)
    before = model(x).detach()
    report = pruner.harvest()
    assert report.before.prunable == sum(sizes.values())
    assert report.channels >= 1
    assert weight.numel() < sizes[layer.name]
    assert torch.allclose(model(x), before, atol=1e-5)


def test_networks_of_modules_have_the_layers_that_they_had():
    for name in ("chain", "resnet", "mobilenet", "unet", "group_norm_two"):
        torch.manual_seed(0)
        model, inputs = make_unique(CASES[name].build()), CASES[name].inputs()
        assert trace(model, inputs).layers == layers_in(model, inputs) == layers_of(model)


class TestGPT2:
    """Of its weights all but the embeddings stand in transposed linear layers."""

    @pytest.fixture
    def model(self):
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
        none = {"use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **none))

    tokens = torch.arange(14).view(2, 7)

    @pytest.mark.parametrize(("target", "part"), [("weight", 0.5), ("node", 0.3), ("params", 0.5)])
    def test_channels_leave_as_many_as_was_asked(self, model, target, part):
        before = sum(parameter.numel() for parameter in model.parameters())
        report = Pruner(model, "random-s", Budget(part, target), example_inputs=self.tokens).check(0)
        assert report is not None
        assert 1 - report.after.of(target) / report.before.of(target) == pytest.approx(part, abs=0.02)
        assert report.before.prunable == 12 * 2 * 32 * 32 + 50 * 32  # the head is the table of tokens
        after = sum(parameter.numel() for parameter in model.parameters())
        assert (report.before.params, report.after.params) == (before, after)
        assert {width.layer: width.before for width in report.widths}["transformer.h.1.attn.c_attn"] == 96

    def test_weights_leave_as_many_as_was_asked(self, model):
        Pruner(model, "magnitude-u", 0.5, example_inputs=self.tokens).check(0)
        layers = layers_in(model, self.tokens)
        every = {layer.weight: model.get_parameter(layer.weight) for layer in layers if not layer.table}
        assert len(every) == 9
        gone, all_ = (sum(f(one) for one in every.values()) for f in (lambda w: int((w == 0).sum()), torch.numel))
        assert gone == all_ // 2
