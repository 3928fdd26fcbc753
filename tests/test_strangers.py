"""Models and losses of other fields, each trained through a cut in a plain loop."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from earlycrop import Budget, Pruner, Scoring

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # narrow networks are starved easily
EPOCHS = 8


def seeded(model) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def classes(count: int, *shape: int) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(2))


def trained(model, method, loss, batches, example, **options) -> tuple[Pruner, list[float]]:
    """A plain training; the pruner, and the loss after each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scoring = Scoring(loss, batches)
    pruner = Pruner(
        model, method, 0.5, example_inputs=example, scoring=scoring, optimizer=optimizer, epochs=EPOCHS, **options
    )
    losses = []
    for epoch in range(EPOCHS):
        pruner.check(epoch)
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            optimizer.step()
        losses.append(float(value.detach()))
    assert pruner.pruned
    assert 0.4 < pruner.report.weight_sparsity < 0.6
    assert losses[-1] < losses[0]
    return pruner, losses


METHODS = ["earlycrop-s", "earlycrop-u", "crop-s-poster"]


class Detector(nn.Module):
    """One class and one box for each image; losses in training, predictions in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2), nn.ReLU()
        )
        self.kind, self.box = nn.Linear(16, 3), nn.Linear(16, 4)

    def forward(self, images, targets=None):
        features = self.body(images).mean((2, 3))
        kinds, boxes = self.kind(features), self.box(features).sigmoid()
        if self.training:
            return {
                "kind": F.cross_entropy(kinds, targets["labels"]),
                "box": F.smooth_l1_loss(boxes, targets["boxes"]),
            }
        return [{"scores": one.softmax(0), "boxes": box} for one, box in zip(kinds, boxes, strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_a_detector(method):
    targets = {"labels": classes(3, 16), "boxes": numbers(16, 4).sigmoid()}
    batches = [(numbers(16, 3, 10, 10), targets)]
    model = seeded(Detector)
    pruner, _ = trained(model, method, lambda m, batch: sum(m(*batch).values()), batches, batches[0][0][:2])
    if method != "earlycrop-u":
        assert model.body[0].out_channels < 12 or model.body[3].out_channels < 16
        assert pruner.report.verification.exact
    assert len(model.eval()(batches[0][0][:2])) == 2


def contrastive(model, batch):
    a, b = (F.normalize(model(part), dim=-1) for part in batch)
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


@pytest.mark.parametrize("method", METHODS)
def test_a_contrastive_loss(method):
    x = numbers(24, 10)
    model = seeded(lambda: nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)))
    trained(model, method, contrastive, [(x, x + 0.1 * numbers(24, 10).flip(0))], x[:2])


class GraphNetwork(nn.Module):
    """Messages along edges by a product with the adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, nodes, adjacency):
        hidden = torch.relu(adjacency @ self.first(nodes))
        return self.head(torch.relu(adjacency @ self.second(hidden)))


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_network(method):
    adjacency = (numbers(20, 20) > 0.8).float() + torch.eye(20)
    batch = (numbers(20, 6), adjacency / adjacency.sum(1, keepdim=True), classes(3, 20))
    model = seeded(GraphNetwork)
    trained(model, method, lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), [batch], batch[:2])
    assert method == "earlycrop-u" or model.first.out_features + model.second.out_features < 48


class Speech(nn.Module):
    """Frames to letters: convolutions over time and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(10, 24, 3, padding=1)
        self.over_time = nn.GRU(24, 16, batch_first=True)
        self.letters = nn.Linear(16, 5)

    def forward(self, frames):
        hidden, _ = self.over_time(torch.relu(self.front(frames)).transpose(1, 2))
        return self.letters(hidden)


def ctc(model, batch):
    frames, letters, lengths, spelt = batch
    return F.ctc_loss(model(frames).log_softmax(-1).transpose(0, 1), letters, lengths, spelt)


@pytest.mark.parametrize("method", METHODS)
def test_a_speech_model_with_ctc(method):
    letters = 1 + classes(4, 6, 4)
    batch = numbers(6, 10, 20), letters, torch.full((6,), 20), torch.full((6,), 4)
    trained(seeded(Speech), method, ctc, [batch], batch[0][:2])


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_a_gan_with_two_optimizers(method):
    """Each player has a pruner and an optimizer of its own; the loss of each calls the other."""
    real = numbers(32, 6) * 0.5 + 1
    maker = seeded(lambda: nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 6)))
    judge = seeded(lambda: nn.Sequential(nn.Linear(6, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1)))
    noise = numbers(32, 4).flip(0)

    def judging(model, batch):
        true, false = model(batch), model(maker(noise).detach())
        return F.softplus(-true).mean() + F.softplus(false).mean()

    def making(model, batch):
        return F.softplus(-judge(model(batch))).mean()

    players = [(maker, making, noise), (judge, judging, real)]
    optimizers = [torch.optim.Adam(model.parameters(), lr=2e-3) for model, *_ in players]
    pruners = [
        Pruner(
            model,
            method,
            Budget(0.5),
            example_inputs=batch[:2],
            scoring=Scoring(loss, [batch]),
            optimizer=optimizer,
            epochs=EPOCHS,
        )
        for (model, loss, batch), optimizer in zip(players, optimizers, strict=True)
    ]
    for epoch in range(EPOCHS):
        for pruner in pruners:
            pruner.check(epoch)
        for (model, loss, batch), optimizer in zip(players, optimizers, strict=True):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    for pruner, (model, *_) in zip(pruners, players, strict=True):
        assert 0.35 < pruner.report.weight_sparsity < 0.65
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        for name, keep in pruner.units.masks().items():
            assert not bool(model.get_parameter(name)[~keep].any())


class Deep(nn.Module):
    """A second head that exists in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 32), nn.Linear(32, 32)
        self.head, self.early = nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        out = self.head(torch.relu(self.second(hidden)))
        return (out, self.early(hidden)) if self.training else out


def supervised(model, batch):
    outputs = model(batch[0])
    return sum(F.cross_entropy(one, batch[1]) for one in (outputs if isinstance(outputs, tuple) else (outputs,)))


@pytest.mark.parametrize("method", METHODS)
def test_an_auxiliary_head_and_an_average(method):
    model = seeded(Deep)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    batch = numbers(24, 10), classes(4, 24)
    trained(model, method, supervised, [batch], batch[0][:2], copies=[average])
    average.update_parameters(model)
    shapes = [parameter.shape for parameter in model.parameters()]
    assert [parameter.shape for parameter in average.module.parameters()] == shapes
    assert average.module.eval()(batch[0]).shape == (24, 4)
    if method != "earlycrop-u":
        assert model.first.out_features == model.early.in_features < 32
    else:
        assert int((average.module.first.weight == 0).sum()) > 0
    assert copy.deepcopy(model).train()(batch[0])[1].shape == (24, 4)
