"""After a cut, weights that no norm follows get back the scale that the cut took: against slow sums, in float64."""

import copy
import math

import pytest
import torch
from torch import nn

from earlycrop import Pruner, Report, get_method
from earlycrop.errors import VerificationError
from earlycrop.methods import METHODS
from earlycrop.structure.normed import scaled_weights
from earlycrop.structure.products import Products
from earlycrop.structure.trace import noted
from earlycrop.units import ChannelUnits


class Mixed(nn.Module):
    """A convolution with a norm, one without, a transposed one, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.normed, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.plain, self.up = nn.Conv2d(12, 10, 3), nn.ConvTranspose2d(10, 8, 2)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(self.normed(x)).relu()
        return self.out(self.up(self.plain(x).relu()).relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.table, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 20)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(self.lstm(self.table(ids))[0])


class Normed(nn.Module):
    """Every way in which a norm may follow a weight, and some in which it only seems to."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(4, 4, 1) for _ in range(5))
        self.batch, self.both, self.group = nn.BatchNorm2d(4), nn.BatchNorm2d(8), nn.GroupNorm(2, 8)

    def forward(self, x):
        a = self.batch(nn.functional.max_pool2d(self.a(x).relu(), 2, 1))  # through what a factor passes
        joined = torch.cat([self.b(a), self.c(a)], 1)  # each channel has a scale of its own
        grouped = self.group(torch.cat([a, self.d(a)], 1))  # two layers share a scale
        return self.both(joined) + grouped + torch.cat([a + self.e(a)] * 2, 1)  # the sum keeps the scale of both


IMAGES, IDS = torch.randn(6, 3, 9, 9), torch.randint(20, (5, 7))


def cut(model, method, inputs, sparsity=0.6, **options):
    model = copy.deepcopy(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    pruner = Pruner(model, method, sparsity, example_inputs=inputs, **options)
    return model, pruner.check(0), pruner


def plainly(method):
    """The same method without rescaling."""
    return type(get_method(method))(**{**vars(get_method(method)), "rescale": False})


def weights_with_a_scale(model, inputs):
    return scaled_weights(Products(model, noted(model, inputs)))


def factor(before, after, out):
    """The formula, entry by entry: only outputs that still read something count."""
    rows = [
        (math.fsum(v**2 for v in a.flatten().tolist()), math.fsum(v**2 for v in b.flatten().tolist()))
        for a, b in zip(before.unbind(out), after.unbind(out), strict=True)
    ]
    rows = [row for row in rows if row[1] > 0]
    return math.sqrt(math.fsum(a for a, _ in rows) / math.fsum(b for _, b in rows))


@pytest.mark.parametrize(("make", "inputs"), [(Mixed, IMAGES), (Recurrent, IDS)])
def test_masked_weights_are_multiplied_by_the_factor_of_the_formula(make, inputs):
    torch.manual_seed(0)
    dense = make()
    masked, _, _ = cut(dense, plainly("random-u"), inputs)
    scaled, report, _ = cut(dense, "random-u", inputs)
    factors = {one.weight: one.factor for one in report.rescaled}
    assert (
        set(factors)
        == {
            Mixed: {"plain.weight", "up.weight", "out.weight"},
            Recurrent: {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "out.weight"},
        }[make]
    )
    for name, before in dense.double().named_parameters():
        after = masked.get_parameter(name)
        wanted = factor(before, after, int(name == "up.weight")) if name in factors else 1.0
        assert factors.get(name, 1.0) == pytest.approx(wanted, rel=1e-12)
        torch.testing.assert_close(scaled.get_parameter(name), after * wanted, rtol=1e-12, atol=0)


def test_cut_weights_are_compared_with_the_outputs_that_stay():
    torch.manual_seed(0)
    dense = Mixed()
    plain, _, pruner = cut(dense, plainly("random-s"), IMAGES)
    scaled, report, _ = cut(dense, "random-s", IMAGES)
    units = pruner.units
    assert isinstance(units, ChannelUnits)
    for one in report.rescaled:
        out = int(one.weight == "up.weight")
        kept = units.dense.index(one.weight, units.keep)[out]
        before = dense.get_parameter(one.weight).double()
        before = before if kept is None else before.index_select(out, kept)
        assert one.factor == pytest.approx(factor(before, plain.get_parameter(one.weight), out), rel=1e-12)
        assert one.factor > 1
        torch.testing.assert_close(scaled.get_parameter(one.weight), plain.get_parameter(one.weight) * one.factor)
    assert {one.weight for one in report.rescaled} == {"plain.weight", "up.weight", "out.weight"}
    assert report.verification is not None  # of the cut itself, before weights were multiplied
    assert str(report).count("rescaled    plain.weight ×") == 1
    assert Report.from_dict(report.as_dict()).rescaled == report.rescaled


@pytest.mark.parametrize("method", ["random-u", "random-s"])
def test_the_second_moment_of_what_a_wide_layer_computes_stays(method):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 400), nn.Tanh(), nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 200))
    for layer in dense[::2]:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    x = torch.randn(200, 64, dtype=torch.float64)
    size = copy.deepcopy(dense).double()(x).square().mean()
    for with_scale, low, high in ((method, 0.75, 1.35), (plainly(method), 0.0, 0.3)):
        model, _, _ = cut(dense, with_scale, x, 0.9)
        assert low < float((model(x).square().mean() / size).detach()) < high


def test_which_weights_set_a_scale():
    torch.manual_seed(0)
    assert weights_with_a_scale(Normed(), torch.randn(2, 4, 5, 5)) == {"d.weight", "e.weight"}
    assert "table.weight" not in weights_with_a_scale(Recurrent(), IDS)
    assert "out.weight" in weights_with_a_scale(Recurrent(), IDS)


class Sums(nn.Module):
    """A bias is part of what a norm divides; the input of the network is not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1)
        self.shift, self.first, self.last = nn.Parameter(torch.randn(4)), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.last(x + self.b(self.first(self.a(x) + self.shift.view(4, 1, 1))))


def test_a_sum_with_an_activation_keeps_the_scale_of_a_weight():
    assert weights_with_a_scale(Sums(), torch.randn(2, 4, 5, 5)) == {"b.weight"}


def test_a_tied_table_keeps_its_scale():
    model, report, _ = cut(Recurrent(tied=True), "random-u", IDS)
    assert {one.weight for one in report.rescaled} == {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert model.out.weight is model.table.weight


def test_averages_are_multiplied_too():
    torch.manual_seed(0)
    dense = Mixed()
    average = copy.deepcopy(dense).double()
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(2)
    model, _, _ = cut(dense, "random-s", IMAGES, copies=[average])
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(average.get_parameter(name), 2 * parameter)


def test_a_cut_that_fails_and_a_plan_leave_the_scale_alone(monkeypatch):
    torch.manual_seed(0)
    model = Mixed()
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, "random-s", 0.6, example_inputs=IMAGES)
    pruner.dry_run()
    monkeypatch.setattr("earlycrop.pruner.remaining", lambda *_: (_ for _ in ()).throw(VerificationError("no")))
    with pytest.raises(VerificationError):
        pruner.check(0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_published_methods_leave_the_scale_alone():
    published = [name for name in METHODS if "poster" in name or "authors" in name]
    published += ["snip", "grasp", "synflow", "magnitude-u", "earlybird", "gate-decorators", "ltr", "imp"]
    assert not any(METHODS[name].rescale for name in published)
    assert all(METHODS[name].rescale for name in ("earlycrop-s", "earlycrop-u", "crop-s", "random-s", "snap"))
    _, report, _ = cut(Mixed(), "magnitude-u", IMAGES)
    assert report.rescaled == ()
