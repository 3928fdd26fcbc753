"""What modules keep from call to call: copies do not fail on it, and a cut does not leave old channels in it."""

import itertools
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from earlycrop.structure import trace
from earlycrop.structure.caches import holds_tensors
from earlycrop.structure.duplicates import duplicate, weightless
from tests.loops import INPUTS, cross_entropy, trained


class Rows(nn.Module):
    """Two hidden layers; the relatives differ in what they keep."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def keep(self, h):
        return h

    def forward(self, x):
        return self.o(F.relu(self.b(self.keep(F.relu(self.a(x))))))


class Activation(Rows):
    def keep(self, h):
        self.seen = h
        return h


class Features(Rows):
    def __init__(self):
        super().__init__()
        self.features = []

    def keep(self, h):
        self.features[:] = [h]
        return h


class Penalty(Rows):
    def keep(self, h):
        self.penalty = h.square().mean()
        return h


class Activations(Rows):
    """With a literal, so that the graph has to be exported."""

    def keep(self, h):
        self.seen = h * torch.tensor([0.3])
        return self.seen


class Cache(Rows):
    def __init__(self):
        super().__init__()
        self.cache = None

    def keep(self, h):
        if self.cache is None:
            self.cache = torch.full_like(h[:1], 0.5).detach()
        return h * self.cache


class CacheByName(Rows):
    def __init__(self):
        super().__init__()
        self.caches = {}

    def keep(self, h):
        return h * self.caches.setdefault("half", torch.full_like(h[:1], 0.5).detach())


class CacheInBuffer(Rows):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", None, persistent=False)

    keep = Cache.keep


class Memory:
    def __init__(self):
        self.keys = []


class CacheInObject(Rows):
    def __init__(self):
        super().__init__()
        self.memory = Memory()

    def keep(self, h):
        if not self.memory.keys:
            self.memory.keys.append(torch.full_like(h[:1], 0.5).detach())
        return h * self.memory.keys[0]


class State(Rows):
    """A state of as many channels as the layer before, which no cut can follow."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(32)

    def keep(self, h):
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0).detach()
        return h - self.mean


class Hidden(Rows):
    """The second call reads what the first has left."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def forward(self, x):
        before = 0 if self.hidden is None or len(self.hidden) != len(x) else self.b(self.hidden)
        h = torch.tanh(self.a(x) + before)
        self.hidden = h.detach()
        return self.o(h)


class Things(Rows):
    """What `copy.deepcopy` refuses."""

    def __init__(self):
        super().__init__()
        self.lock, self.file, self.random = threading.Lock(), open("/dev/null"), torch.Generator()  # noqa: SIM115
        self.numbers = (number for number in itertools.count())

    def keep(self, h):
        with self.lock:
            return h


def weight_norm():
    model = Rows()
    torch.nn.utils.weight_norm(model.a)
    return model


def spectral_norm():
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    torch.nn.utils.spectral_norm(model[4])
    return nn.Sequential(*model, nn.Linear(32, 4))


def masked():
    model = Rows()
    prune.l1_unstructured(model.a, "weight", 0.3)
    prune.random_unstructured(model.b, "weight", 0.3)
    return model


KINDS = [Activation, Features, Penalty, Activations, Cache, CacheByName, CacheInBuffer, CacheInObject, State, Hidden]
KINDS += [Things, weight_norm, spectral_norm, masked]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")  # of the older normalisations
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nobody closes the file
@pytest.mark.parametrize("method", ["earlycrop-s", "magnitude-s"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_with_a_cut(kind, method):
    pruner = trained(kind(), method, budget=0.25)
    assert pruner.model.o.in_features < 32 if hasattr(pruner.model, "o") else True


@pytest.mark.parametrize("kind", [Activation, Features, Penalty, CacheInBuffer])
def test_a_pruner_that_is_made_after_a_training_step(kind):
    model = kind()
    cross_entropy(model, (INPUTS, torch.zeros(32, dtype=torch.int64))).backward()
    trained(model, budget=0.25)


@pytest.mark.parametrize(("kind", "name"), [(Cache, "cache"), (CacheByName, "lifted"), (State, "mean")])
def test_channels_in_what_a_model_keeps_stay_and_it_is_named(kind, name):
    model = kind()
    model(INPUTS)
    frozen = trace(model, INPUTS[:2]).frozen
    assert any(one.where == "a.weight dim 0" and f"`{name}" in one.reason for one in frozen)


def test_a_cut_empties_caches_and_nothing_else():
    model = Cache()
    model.note = torch.ones(3)
    pruner = trained(model, "magnitude-s", epochs=1)
    assert model.cache.shape[-1] == model.a.out_features  # filled again in training
    assert torch.equal(model.note, torch.ones(3))
    assert [one.where for one in pruner.units.dense.caches] == ["cache"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("copy", [duplicate, weightless])
def test_copies_share_what_cannot_be_copied(copy):
    model = nn.Sequential(Things(), Activation())
    model[1](INPUTS)
    state = model[0].random.get_state()
    twin = copy(model)
    assert twin[0].lock is model[0].lock
    assert twin[0].a.weight is not model[0].a.weight
    assert twin[0].random is not model[0].random
    torch.rand(2, generator=twin[0].random)
    assert torch.equal(model[0].random.get_state(), state)
    assert twin[1].seen is not model[1].seen
    assert twin[1].seen.grad_fn is None


def test_what_holds_tensors():
    memory = Memory()
    assert not holds_tensors([1, "a", None, {"b": ()}, memory, nn.Linear(2, 2)])
    memory.keys.append(torch.ones(1))
    assert holds_tensors({"a": [memory]})
