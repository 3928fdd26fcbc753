"""A scoring set whose batches are not alike: every kind of them is traced, and rehearsed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop import EarlyCropError, Pruner, ScoreError, Scoring
from earlycrop.evaluation import MeanLoss, ScoringSet
from earlycrop.evaluation.rehearsal import calls_of
from tests.loops import INPUTS, TARGETS, cross_entropy
from tests.structure.cuts import assert_unchanged, state_of


class Tasks(nn.Module):
    """A trunk, and a head for each task."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.heads = nn.ModuleDict({"class": nn.Linear(32, 4), "value": nn.Linear(32, 1), "rank": nn.Linear(32, 2)})

    def forward(self, x, task="class"):
        return self.heads[task](self.trunk(x))


BATCHES = {
    "class": ("class", INPUTS, TARGETS),
    "value": ("value", INPUTS, torch.randn(32, 1)),
    "rank": ("rank", INPUTS, torch.randn(32, 2)),
}


def task_loss(model, batch):
    task, x, y = batch
    return F.cross_entropy(model(x, task), y) if task == "class" else F.mse_loss(model(x, task=task), y)


def by_shape(model, batch):
    """The same with nothing but tensors: the targets show which task it is."""
    x, y = batch
    return task_loss(model, ({1: "class", 2: "value" if y.shape[-1] == 1 else "rank"}[y.ndim], x, y))


@pytest.mark.parametrize("method", ["random-s", "crop-s", "snap"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("order", [("class", "value", "rank"), ("rank", "value", "class"), ("class", "class", "rank")])
def test_the_head_of_every_task_is_cut(order, named, method):
    batches = [BATCHES[task] if named else BATCHES[task][1:] for task in order]
    loss, model = task_loss if named else by_shape, Tasks()
    scoring = Scoring(loss, batches)
    report = Pruner(model, method, 0.5, example_inputs=INPUTS[:2], scoring=scoring).check(0)
    assert report.verification.exact
    assert model.trunk[0].out_features < 32
    for batch in batches:
        loss(model, batch).backward()


class Sized(nn.Module):
    """Computes something else for large batches."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.o = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.o(h + self.n(h) if len(x) >= 16 else h)


@pytest.mark.parametrize("method", ["random-s", "crop-s"])
def test_the_batch_is_traced_as_it_was_given(method):
    model, batch = Sized(), (INPUTS, TARGETS)
    scoring = Scoring(cross_entropy, [batch])
    report = Pruner(model, method, 0.3, example_inputs=INPUTS[:2], scoring=scoring).check(0)
    assert report.verification.exact
    assert model.a.out_features < 32
    cross_entropy(model, batch)


def test_batches_alike_are_asked_once():
    asked = []

    def loss(model, batch):
        asked.append(len(batch[0]))
        return cross_entropy(model, batch)

    batches = [(INPUTS, TARGETS)] * 5 + [(INPUTS[:7], TARGETS[:7])]
    calls, aside = calls_of(MeanLoss(nn.Linear(10, 4), loss, batches))
    assert [len(call.args[0]) for call in calls] == [32]
    assert asked == [32, 8]  # of the whole batch only what the model is given
    assert not aside


def test_kinds():
    x, y = torch.randn(6, 3), torch.arange(6)
    texts = [("a", x), ("b", x), ("a", x[:4]), ("a", x, 1), ("a", x, True)]
    assert [number for number, _ in ScoringSet(texts).kinds()] == [0, 1, 3, 4]
    images = [{"x": [x, x[:2]], "y": y}, {"x": [x[:3]], "y": y[:2]}, {"x": [y], "y": y}]
    assert [number for number, _ in ScoringSet(images).kinds()] == [0, 2]
    lengths = [(torch.zeros(6, n, dtype=torch.int64), y) for n in range(1, 30)]
    assert [number for number, _ in ScoringSet(lengths).kinds()] == [0, 1, 2, 3]
    names = [(f"{n}", x) for n in range(100)]
    assert len(ScoringSet(names).kinds()) == 16


def test_a_loss_that_fails_on_another_kind_of_batch_is_refused_before_the_cut():
    model = Tasks()
    batches = [BATCHES["class"], ("value", INPUTS, torch.randn(32, 1), "surplus")]
    pruner = Pruner(model, "crop-s", 0.5, example_inputs=INPUTS[:2], scoring=Scoring(task_loss, batches))
    before = state_of(model)
    with pytest.raises(ScoreError, match="batch 1 of the scoring set"):
        pruner.check(0)
    assert_unchanged(model, before)


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.o = nn.Linear(16, 4)

    def forward(self, x):
        return self.o(self.f(x))


TEACHER = torch.randn(32, 16)


def distilled(model, batch):
    x, y, teacher = batch
    return F.cross_entropy(model(x), y) + F.mse_loss(model.f(x), teacher)


@pytest.mark.parametrize("method", ["random-s", "crop-s"])
def test_features_that_the_loss_compares_stay(method):
    model, scoring = Features(), Scoring(distilled, [(INPUTS, TARGETS, TEACHER)])
    pruner = Pruner(model, method, 0.5, example_inputs=INPUTS[:2], scoring=scoring)
    plan = pruner.dry_run()
    assert pruner.check(0).after == plan.after
    assert model.f[2].out_features == 16
    assert model.f[0].out_features < 32


@pytest.mark.parametrize("method", ["random-s", "crop-s"])
def test_a_dry_run_raises_what_the_cut_raises(method):
    def loss(model, batch):  # the features are seen in a call of the model, so nothing warns
        seen = []
        handle = model.f.register_forward_hook(lambda *found: seen.append(found[-1]))
        out = model(batch[0])
        handle.remove()
        return F.cross_entropy(out, batch[1]) + F.mse_loss(seen[0], batch[2])

    model = Features()
    scoring = Scoring(loss, [(INPUTS, TARGETS, TEACHER)])
    pruner = Pruner(model, method, 0.5, example_inputs=INPUTS[:2], scoring=scoring)
    before = state_of(model)
    for ask in (pruner.dry_run, lambda: pruner.check(0)):
        with pytest.raises(EarlyCropError, match="no longer computes the loss"):
            ask()
        assert_unchanged(model, before)
