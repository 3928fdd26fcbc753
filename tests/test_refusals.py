"""Models, inputs, budgets and epochs with which nothing can be done: refused before anything is touched."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop import Budget, EarlyCropError, Pruner, Scoring, harvest
from earlycrop.adopting import check_epoch
from earlycrop.errors import BudgetError
from tests.structure.cuts import assert_unchanged, state_of

X, Y = torch.randn(8, 10), torch.randint(4, (8,))
METHODS = ["random-s", "magnitude-u"]


def net():
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def refused(model, message, method="random-s", inputs=X, **options):
    before = state_of(model)
    with pytest.raises(EarlyCropError, match=message):
        Pruner(model, method, 0.5, example_inputs=inputs, **options)
    assert_unchanged(model, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scripted", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_of_torchscript(scripted, method):
    refused(scripted(net()), "The model is a module of TorchScript", method)
    refused(nn.Sequential(scripted(net()), nn.Linear(4, 4)), "`0` is a module of TorchScript", method)
    with pytest.raises(EarlyCropError, match="TorchScript"):
        harvest(scripted(net()), X)


@pytest.mark.parametrize("method", METHODS)
def test_no_example(method):
    refused(net(), "hold no example", method, X[:0])
    refused(net(), "hold no example", method, {"input": X[:0]})


@pytest.mark.parametrize("method", METHODS)
def test_no_parameter(method):
    refused(nn.ReLU(), "no parameters", method)
    with pytest.raises(EarlyCropError, match="no parameters"):
        harvest(nn.Sequential(), X)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_share_their_memory(method):
    model = net()
    model = net()
    model[4].bias.data = model[2].bias.data[:4]
    refused(model, "`4.bias` shares its memory with `2.bias`", method)
    with pytest.raises(EarlyCropError, match="shares its memory"):
        harvest(model, X)
    refused(model, "shares its memory", method, ignore=("2",))
    Pruner(model, method, 0.5, example_inputs=X, ignore=("2.bias", "4.bias"))


def test_parameters_that_are_one_stay_tied():
    model = net()
    model[2].bias = model[0].bias
    Pruner(model, "random-s", 0.5, example_inputs=X).check(0)
    assert model[2].bias is model[0].bias


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(10, 16, dtype=torch.cfloat), nn.Linear(16, 16, dtype=torch.cfloat)
        self.o = nn.Linear(16, 4)

    def forward(self, x):
        h = self.a(x.to(torch.cfloat))
        return self.o(self.b(torch.complex(h.real.relu(), h.imag.relu())).abs())


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("method", ["random-s", "crop-s", "magnitude-s", "snap", "snip", "earlycrop-u", "magnitude-u"])
def test_complex_weights_have_no_rank(method):
    refused(Complex(), "`a.weight` is complex", method, scoring=Scoring(loss, [(X, Y)]), epochs=4)


def test_complex_parameters_that_are_no_weights_of_layers_stay():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Parameter(torch.randn(1, dtype=torch.cfloat))
            self.a, self.o = nn.Linear(10, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.o((self.a(x) * self.turn).real)

    for method in ("random-s", "crop-s"):
        model = Turned()
        pruner = Pruner(model, method, 0.5, example_inputs=X, scoring=Scoring(loss, [(X, Y)]))
        assert pruner.check(0).verification.precision == "float64"
        assert model.a.out_features < 16


@pytest.mark.parametrize("epoch", ["0", None])
def test_what_is_no_number_of_epochs(epoch):
    with pytest.raises(EarlyCropError, match="number of epochs that have finished"):
        check_epoch(epoch)
    check_epoch(np.float32(0))


@pytest.mark.parametrize("epoch", [float("nan"), float("inf")])
def test_what_is_no_epoch(epoch):
    pruner = Pruner(net(), "random-s", 0.5, example_inputs=X)
    before = state_of(pruner.model)
    with pytest.raises(EarlyCropError, match="number of epochs that have finished"):
        pruner.check(epoch)
    assert_unchanged(pruner.model, before)
    assert pruner.check(0) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "0.5"}, "`sparsity` is a number; found '0.5'"),
        ({"sparsity": None}, "`sparsity` is a number"),
        ({"sparsity": 0.5, "round_to": 2.5}, "`round_to` is a whole number; found 2.5"),
        ({"sparsity": 0.5, "round_to": "8"}, "`round_to` is a whole number"),
        ({"sparsity": 0.5, "min_channels": "1"}, "`min_channels` is a number"),
    ],
)
def test_what_is_no_number(options, message):
    budget = Budget(0.5)
    vars(budget).update(options)
    with pytest.raises(BudgetError, match=message):
        budget.__post_init__()  # here in the tests, types are checked before
    vars(budget).update(sparsity=np.float32(0.5), round_to=np.int64(8), min_channels=None)
    budget.__post_init__()
