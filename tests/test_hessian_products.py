"""Every way to a Hessian product against the dense Hessian, and what `auto` does where one of them fails."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.hessian_products import AUTODIFF_MODES
from earlycrop.scores import CropGroupSum, CropMixed
from earlycrop.scores.abstract import Network
from earlycrop.units import Channels, Weights
from tests import dense


def at(net: nn.Module, batch, units=None, loss=dense.cross_entropy, **options) -> Evaluation:
    coordinates = (units or Weights()).of(net, batch[0][:2], None, ()).coordinates
    return Evaluation(MeanLoss(net, loss, [batch], "running", **options), coordinates)


@pytest.mark.parametrize("way", AUTODIFF_MODES)
@pytest.mark.parametrize("make", [dense.conv_norm_net, dense.depthwise_net])
def test_every_way_agrees_with_the_dense_hessian_of_weights(make, way):
    net, batch = make(), dense.images()
    found = at(net, batch, hessian=way, micro_batch=4)
    _, g, hessian = dense.full_hessian(net.eval(), dense.cross_entropy, batch, dense.prunable(net))
    v = torch.randn(g.numel()).double()
    tolerance = 1e-8 if way == "central_difference" else 1e-12
    torch.testing.assert_close(found.hessian_gradient(), hessian @ g, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.hessian_product(v), hessian @ v, atol=1e3 * tolerance, rtol=0)


@pytest.mark.parametrize("way", AUTODIFF_MODES)
def test_every_way_agrees_with_the_dense_hessian_of_gates(way):
    net, batch = dense.residual_net(), dense.images()
    found = at(net, batch, Channels(), hessian=way, micro_batch=4)
    classes = {gate.where: gate.classes for gate in found.coordinates.gates}
    g, hessian = dense.gate_hessian(net.eval(), dense.cross_entropy, batch, classes, 7)
    torch.testing.assert_close(found.hessian_gradient(), hessian @ g, atol=1e-8 if way[0] == "c" else 1e-12, rtol=0)


@pytest.mark.parametrize("score", [CropMixed(), CropGroupSum()])
@pytest.mark.parametrize("way", AUTODIFF_MODES)
def test_every_way_agrees_on_mixed_derivatives(way, score):
    net, batch = dense.residual_net(), dense.images()
    units = Channels().of(net, batch[0], None, ())

    def scores(hessian) -> Tensor:
        loss = MeanLoss(net, dense.cross_entropy, [batch], "running", hessian=hessian)
        return score(
            Network(
                net,
                (batch[0],),
                lambda: loss,
                units.weights,
                units.coordinates,
                units.made_of,
                units.scales,
                units.readers,
            )
        )

    torch.testing.assert_close(scores(way), scores("double_backward"), atol=1e-8 if way[0] == "c" else 1e-12, rtol=0)


@pytest.mark.parametrize("make", [dense.conv_norm_net, dense.residual_net, dense.depthwise_net, dense.concat_net])
def test_auto_goes_the_fastest_way_on_ordinary_networks(make):
    found = at(make(torch.relu), dense.images())
    found.hessian_gradient()
    assert not found.loss._failed


FILTER = torch.arange(48, dtype=torch.float64).view(4, 3, 2, 2).sin()
MEAN = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

PARTS = {
    **{
        name: getattr(F, name) for name in ("relu", "leaky_relu", "tanh", "silu", "gelu", "elu", "softplus", "hardtanh")
    },
    **{name: getattr(torch, name) for name in ("tanh", "sigmoid", "square", "exp")},
    "relu_": lambda x: F.relu(x * 1, inplace=True),
    "leaky_relu_": lambda x: F.leaky_relu(x * 1, inplace=True),
    "relu6": F.relu6,
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "pow": lambda x: x**3,
    "log": lambda x: (x * x + 1).log(),
    "div": lambda x: x / (x * x + 1),
    "sub": lambda x: 1 - x - (-x).mul(x).add(x).sub(x * 2),
    "add_in_place": lambda x: (x * 2).__iadd__(x * x),
    "max_pool": lambda x: F.max_pool2d(x, 2, 1),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "pad": lambda x: F.pad(x, (1, 1)),
    "shapes": lambda x: torch.cat([*x.permute(0, 1, 3, 2).chunk(2, 1), x[:, :1].transpose(2, 3)], 1).unsqueeze(-1),
    "stack": lambda x: torch.stack([x, x * x], 1).squeeze(1).flatten(1, 2),
    "matmul": lambda x: x @ x.transpose(2, 3).contiguous(),
    "transposed": lambda x: F.conv_transpose2d(x, x.mean((0, 2, 3)).view(4, 1, 1, 1) * FILTER),
    "batch_norm": lambda x: F.batch_norm(x, MEAN, 2 * MEAN),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_operators_that_auto_trusts(part):
    """The dense Hessian of a network with that operator in its middle."""
    net = dense.Net(
        lambda n, x: n.head(PARTS[part](n.conv(x)).flatten(2).mean(2)[:, :3]),
        conv=nn.Conv2d(2, 4, 2),
        head=nn.Linear(3, 3),
    ).double()
    batch = dense.images()
    _, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, dense.prunable(net))
    found = at(net, batch, hessian="reverse_over_forward", micro_batch=6).hessian_gradient()
    torch.testing.assert_close(found, hessian @ g, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.BatchNorm1d(4)])
def test_norms_with_statistics_of_their_own_are_not_trusted_to_have_one(norm):
    net, batch = nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 3)).double(), dense.vectors(7)
    found = Evaluation(
        MeanLoss(net, dense.cross_entropy, [batch], "batch"), Weights().of(net, batch[0], None, ()).coordinates
    )
    _, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(found.hessian_gradient(), hessian @ g, atol=1e-12, rtol=0)
    assert found.loss._failed == {"reverse_over_forward"}


class Cube(torch.autograd.Function):
    """x³ with a gradient that has a gradient, and no forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def test_auto_goes_another_way_where_an_operator_has_no_forward_derivative():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    own = dense.Net(lambda n, x: n.b(Cube.apply(n.a(x))), a=net[0], b=net[2])
    plain = dense.Net(lambda n, x: n.b(n.a(x) ** 3), a=net[0], b=net[2])
    found = at(own, batch, micro_batch=2)
    torch.testing.assert_close(found.hessian_gradient(), at(plain, batch).hessian_gradient(), atol=1e-12, rtol=0)
    assert found.loss._failed == {"reverse_over_forward"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        at(own, batch, hessian="reverse_over_forward").hessian_gradient()


def test_auto_goes_another_way_where_a_part_has_no_gradient_but_a_tangent():
    """Under `no_grad` a target is a constant for autograd, and moves with the weights for dual numbers."""
    net, (x, y) = dense.mlp(4, 5, 3), dense.vectors()

    def frozen_target(model, batch) -> Tensor:
        with torch.no_grad():
            target = model(batch[0]).softmax(1)
        return dense.cross_entropy(model, batch) + (model(batch[0] * 2) - target).square().mean()

    def detached_target(model, batch) -> Tensor:
        target = model(batch[0]).softmax(1).detach()
        return dense.cross_entropy(model, batch) + (model(batch[0] * 2) - target).square().mean()

    found = at(net, (x, y), loss=frozen_target)
    expected = at(net, (x, y), loss=detached_target, hessian="double_backward").hessian_gradient()
    torch.testing.assert_close(found.hessian_gradient(), expected, atol=1e-12, rtol=0)
    assert found.loss._failed == {"reverse_over_forward"}
    detached = at(net, (x, y), loss=detached_target)
    torch.testing.assert_close(detached.hessian_gradient(), expected, atol=1e-12, rtol=0)
    assert found.loss._failed


def test_activations_that_are_computed_again_are_computed_with_the_gates():
    from torch.utils.checkpoint import checkpoint

    net, batch = dense.residual_net(), dense.images()
    again = dense.Net(lambda n, x: checkpoint(n.net, x, use_reentrant=False), net=net)
    for units in (Weights(), Channels()):
        expected = at(net, batch, units).hessian_gradient()
        coordinates = units.of(net, batch[0], None, ()).coordinates
        inner = MeanLoss(net, lambda m, b: nn.functional.cross_entropy(again(b[0]), b[1]), [batch], "running")
        torch.testing.assert_close(Evaluation(inner, coordinates).hessian_gradient(), expected, atol=1e-12, rtol=0)
