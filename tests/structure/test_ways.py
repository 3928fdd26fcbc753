"""Every way through the model: in training, with other arguments, with the loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop import EarlyCropError, Pruner, Scoring
from earlycrop.structure import Call, cut, trace
from earlycrop.structure.trace import export
from earlycrop.structure.trial import others
from tests.cases import CASES
from tests.loops import INPUTS, TARGETS, cross_entropy, half, trained
from tests.structure.cuts import assert_unchanged, random_keep, state_of

BATCH = INPUTS, TARGETS


class Trunk(nn.Module):
    """A trunk, a head, and another head that the relatives use each in its own way."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o, self.aux = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 4), nn.Linear(32, 4)

    def trunk(self, x):
        return F.relu(self.a(x))

    def head(self, h):
        return self.o(F.relu(self.b(h)))

    def forward(self, x):
        return self.head(self.trunk(x))


class InTraining(Trunk):
    def forward(self, x):
        h = self.trunk(x)
        return (self.head(h), self.aux(h)) if self.training else self.head(h)


class Deep(Trunk):
    """A head of two layers, as in deep supervision."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

    forward = InTraining.forward


class Added(Trunk):
    """A branch that is added to the stream in training."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(10, 32)

    def forward(self, x):
        h = self.trunk(x)
        return self.head(h + self.aux(x) if self.training else h)


class WithTargets(Trunk):
    def forward(self, x, targets=None):
        h = self.trunk(x)
        if targets is None:
            return self.head(h)
        return F.cross_entropy(self.head(h), targets) + F.cross_entropy(self.aux(h), targets)


class ByKeyword(Trunk):
    def forward(self, x, *, second=False):
        h = self.trunk(x)
        return self.head(h) + self.aux(h) if second else self.head(h)


class Values(Trunk):
    """What the second head reads depends on values, so that no graph shows it."""

    def forward(self, x):
        h = self.trunk(x)
        return self.head(h) + self.aux(h[h.sum(1) > -1]).sum(0) if self.training and h.sum() > -1 else self.head(h)


def all_outputs(model, batch):
    out = model(batch[0])
    return sum(F.cross_entropy(one, batch[1]) for one in (out if isinstance(out, tuple) else (out,)))


def aside(model, batch):
    return cross_entropy(model, batch) + F.cross_entropy(model.aux(model.trunk(batch[0])), batch[1])


SEEN = [
    (InTraining, all_outputs),
    (Deep, all_outputs),
    (Added, cross_entropy),
    (WithTargets, lambda model, batch: model(*batch)),
    (ByKeyword, lambda model, batch: F.cross_entropy(model(batch[0], second=True), batch[1])),
]


@pytest.mark.parametrize(("kind", "loss"), SEEN)
def test_the_stream_is_cut_with_all_that_reads_it(kind, loss):
    pruner = trained(kind(), loss=loss)
    assert pruner.model.a.out_features < 32
    assert pruner.report.verification.precision == "float64"


@pytest.mark.parametrize(("kind", "loss"), [(Values, cross_entropy), (Trunk, aside)])
def test_what_no_call_shows_is_frozen_before_training(kind, loss):
    pruner = trained(kind(), loss=loss)
    assert pruner.model.a.out_features == 32
    assert any("no call that could be traced" in one.reason for one in pruner.report.frozen)
    assert pruner.model.b.out_features < 32


def test_what_only_training_creates_stays_whole():
    model = Deep()
    structure = trace(model, INPUTS[:2])
    assert structure.tensors["aux.0.weight"].classes[0] is None
    assert structure.tensors["aux.0.weight"].classes[1] is not None
    assert any(one.where == "aux.0.weight dim 0" and "another call" in one.reason for one in structure.frozen)


def test_ways_are_traced_beside_the_example():
    model = ByKeyword()
    alone, beside = (trace(model, INPUTS[:2], ways=ways) for ways in ((), (Call((INPUTS,), {"second": True}),)))
    assert alone.tensors["aux.weight"].classes[1] is None
    assert beside.tensors["aux.weight"].classes[1].equal(beside.tensors["a.weight"].classes[0])
    cut(beside, model, random_keep(beside, model), None)
    model(INPUTS, second=True)


@pytest.mark.parametrize("name", ["mlp", "resnet", "convnext", "transformer_encoder"])
def test_modes_that_touch_the_same_channels_are_one_way(name):
    model, inputs = CASES[name].build().double(), CASES[name].inputs()
    assert others(model, export(model, inputs), ()) == ([], False)


class Encoder(nn.Module):
    def __init__(self, heads=4, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, heads, 64, batch_first=True, **options)
        self.i, self.e, self.o = nn.Linear(10, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 4)

    def forward(self, x, mask=None):
        return self.o(self.e(self.i(x), src_key_padding_mask=mask)[:, 0])


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of nested tensors
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"heads": 2}, {"dropout": 0.0}])
def test_a_padding_mask_in_validation(options, masked):
    x, mask = torch.randn(8, 5, 10), torch.zeros(8, 5, dtype=torch.bool)
    mask[:, 3:] = True
    model = Encoder(**options).eval()
    half(model, (x[:2], mask[:2]) if masked else x[:2])
    with torch.no_grad():
        inference = model(x, mask)
    torch.testing.assert_close(inference, model(x, mask))


def test_a_cut_that_breaks_the_loss_is_put_back():
    model = Trunk()
    scoring = Scoring(aside, lambda: [BATCH])  # data that change with training are not asked for before
    pruner = Pruner(model, "snap", 0.5, example_inputs=INPUTS[:2], scoring=scoring)
    before = state_of(model)
    with pytest.raises(EarlyCropError, match=r"no longer computes the loss.* in `aux`.*`ignore=`"):
        pruner.check(0)
    assert_unchanged(model, before)
    assert not pruner.pruned


def test_a_loss_that_never_works_in_training_is_no_reason_to_fail():
    def loss(model, batch):
        if model.training:
            raise ValueError("only in evaluation")
        return cross_entropy(model, batch)

    pruner = Pruner(Trunk(), "snap", 0.5, example_inputs=INPUTS[:2], scoring=Scoring(loss, [BATCH]))
    assert pruner.check(0).verification.exact


def test_the_trial_leaves_no_trace():
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 4)).train()
    buffers, modes = {k: v.clone() for k, v in model.named_buffers()}, [m.training for m in model.modules()]
    random = torch.get_rng_state()
    pruner = Pruner(model, "snap", 0.0, example_inputs=INPUTS[:2], scoring=Scoring(cross_entropy, [BATCH]))
    pruner.check(0)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())
