"""How a loss is asked: whole or in parts, in evaluation mode or in training mode; and other ways to Hg."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from earlycrop import ScoreError
from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.units import Channels, Weights
from tests import dense


def mlp(activation: nn.Module | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 24), activation or nn.Tanh(), nn.Linear(24, 4)).double()


X = torch.randn(16, 10, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(16) % 4


def at(net, loss, batches, units=None, **options) -> Evaluation:
    found = (units or Weights()).of(net, X[:2], None, ())
    return Evaluation(MeanLoss(net, loss, batches, "running", **options), found.coordinates)


def by_hand(net, loss, batches) -> Tensor:
    """Hg of the mean loss over the batches as they were given."""
    leaves = [net[0].weight, net[2].weight]
    total = sum(loss(net, batch) * len(batch[0]) for batch in batches) / sum(len(batch[0]) for batch in batches)
    gradient = torch.autograd.grad(total, leaves, create_graph=True)
    flow = sum(g.square().sum() for g in gradient) / 2
    return torch.cat([one.flatten() for one in torch.autograd.grad(flow, leaves)])


# Losses that are no mean over samples -----------------------------------------------------------------------------


def contrastive(model, batch):
    a, b = (F.normalize(model(part), dim=-1) for part in batch)
    return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


def ignoring(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], ignore_index=0)


def pairs(model, batch):
    out = model(batch[0])
    return (out[:, None] - out[None]).square().sum(-1).add(1).log().mean()


def labels_ignored() -> list:
    return [(X, torch.cat([torch.zeros(7, dtype=torch.int64), Y[7:]]))]


@pytest.mark.parametrize(
    ("loss", "batches"),
    [
        (contrastive, [(X[:8], X[:8] + 0.1), (X[8:], X[8:] - 0.1)]),
        (ignoring, labels_ignored()),
        (pairs, [(X[:10], Y[:10]), (X[10:], Y[10:])]),
    ],
)
def test_a_loss_over_whole_batches_is_asked_of_whole_batches(loss, batches):
    net = mlp()
    expected = by_hand(net, loss, batches)
    torch.testing.assert_close(at(net, loss, batches).hessian_gradient(), expected, rtol=1e-9, atol=1e-12)


def test_a_mean_over_samples_is_worked_through_in_parts():
    sizes = []

    def loss(model, batch):
        sizes.append(len(batch[0]))
        return dense.cross_entropy(model, batch)

    at(mlp(), loss, [(X, Y)]).gradient()
    assert sizes == [16, 8, 8, 4, 4, 4, 4]  # the batch and its halves once, then a quarter at a time


def test_samples_that_cannot_be_cut_stay_together():
    """A graph: nodes in one tensor, edges in another, whose first dimension is two."""
    edges = torch.randint(16, (2, 40), generator=torch.Generator().manual_seed(2))

    def loss(model, batch):
        nodes, links, labels = batch
        mixed = nodes.new_zeros(nodes.shape).index_add(0, links[1], nodes[links[0]])
        return F.cross_entropy(model(mixed), labels)

    net, batch = mlp(), (X, edges, Y)
    torch.testing.assert_close(at(net, loss, [batch]).hessian_gradient(), by_hand(net, loss, [batch]))


# Losses that the model gives in training mode ---------------------------------------------------------------------


class Detector(nn.Module):
    """Its loss in training, its predictions in evaluation, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.drop = nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x, y=None):
        out = self.head(self.drop(torch.relu(self.norm(self.body(x)))))
        return {"loss": F.cross_entropy(out, y)} if self.training else [{"scores": one} for one in out]


def given_by_the_model(model, batch):
    return sum(model(*batch).values())


def test_a_loss_that_needs_training_mode_is_asked_in_it_without_noise():
    net = Detector().double().eval()
    before = dense.everything(net)
    first, again = (at(net, given_by_the_model, [(X, Y)]).gradient() for _ in range(2))
    assert torch.equal(first, again)  # no dropout, no statistics of a batch
    assert dense.everything(net) == before
    assert not any(module.training for module in net.modules())


def test_the_mode_can_be_chosen():
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return dense.cross_entropy(model, batch)

    at(mlp(), loss, [(X, Y)], training=True).gradient()
    assert set(modes) == {True}


def test_a_loss_that_fails_in_both_modes_fails_with_its_own_words():
    def loss(model, batch):
        raise RuntimeError(f"not in {'training' if model.training else 'evaluation'}")

    with pytest.raises(RuntimeError, match="not in evaluation"):
        at(mlp(), loss, [(X, Y)]).gradient()


# Losses and operators without a second derivative -----------------------------------------------------------------


class Slope(torch.autograd.Function):
    """SiLU whose slope is computed in the forward pass: its backward has no graph, and nothing says so."""

    @staticmethod
    def forward(ctx, x):
        sigmoid = torch.sigmoid(x)
        ctx.slope = sigmoid * (1 + x * (1 - sigmoid))
        return x * sigmoid

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.slope


class ByHand(nn.Module):
    def forward(self, x):
        return Slope.apply(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_a_backward_that_is_no_graph_is_found_out(units, dtype):
    batch = X.to(dtype), Y
    found, expected = (
        at(mlp(one).to(dtype), dense.cross_entropy, [batch], units).hessian_gradient() for one in (ByHand(), nn.SiLU())
    )
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def ctc(model, batch):
    x, targets, lengths, labels = batch
    return F.ctc_loss(model(x).log_softmax(-1).transpose(0, 1), targets, lengths, labels)


@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_a_loss_without_a_second_derivative(units):
    """CTC: in single precision the product is that of double precision, where a difference is exact to seven places."""
    generator = torch.Generator().manual_seed(0)
    batch = (
        torch.randn(6, 20, 10, generator=generator),
        torch.randint(1, 4, (6, 5), generator=generator),
        torch.full((6,), 20),
        torch.full((6,), 4),
    )
    net = mlp(nn.ReLU())
    exact = at(net, ctc, [(batch[0].double(), *batch[1:])], units)
    expected = exact.hessian_gradient()
    found = at(mlp(nn.ReLU()).float(), ctc, [batch], units).hessian_gradient()
    assert (found - expected).norm() <= 1e-3 * expected.norm()
    v, w = (torch.randn(expected.shape, generator=generator).double() for _ in range(2))
    one, other = float(exact.hessian_product(v) @ w), float(exact.hessian_product(w) @ v)
    assert abs(one - other) <= 1e-5 * max(abs(one), abs(other))  # a Hessian is symmetric


def test_differences_that_do_not_agree_are_refused():
    class Rough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * (1 + torch.sin(1e9 * ctx.saved_tensors[0]))  # no slope of anything

    class Net(nn.Module):
        def forward(self, x):
            return Rough.apply(x)

    with pytest.raises(ScoreError, match="no second derivative"):
        at(mlp(Net()), dense.cross_entropy, [(X, Y)]).hessian_gradient()


def test_checkpoints_of_the_older_kind():
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Sequential):
        def forward(self, x):
            return self[2](checkpoint(lambda h: self[1](self[0](h)), x, use_reentrant=True))

    plain = mlp()
    net = Net(*mlp())
    torch.testing.assert_close(
        at(net, dense.cross_entropy, [(X, Y)]).hessian_gradient(),
        at(plain, dense.cross_entropy, [(X, Y)]).hessian_gradient(),
    )
