"""Gradient and Hessian products of the mean loss, against dense Hessians and numbers worked out by hand."""

import pytest
import torch
from torch import nn

from earlycrop.errors import ScoreError
from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.units import Weights
from tests import dense
from tests.evaluation.helpers import at_gates, at_weights, classes_of

# 8.1, 8.4: by hand -----------------------------------------------------------------------------------------


def test_one_sample_of_a_linear_model():
    batch = dense.f64([1, 2]), dense.f64([1])
    at = at_weights(dense.scalar_net(1, 1), dense.half_square, [batch])
    assert at.gradient().tolist() == [2, 4]
    assert at.hessian_gradient().tolist() == [10, 20]


def test_one_sample_of_a_linear_model_in_general():
    x, y, theta = torch.randn(1, 5).double(), torch.randn(1, 1).double(), torch.randn(5).double()
    at = at_weights(dense.scalar_net(*theta.tolist()), dense.half_square, [(x, y)])
    r = (x[0] @ theta - y[0, 0]).item()
    torch.testing.assert_close(at.gradient(), r * x[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), r * x[0].square().sum() * x[0], atol=1e-12, rtol=0)


CROSS = (
    dense.f64([1, 0], [2, 0], [0, 1]),
    dense.f64([-1], [3], [0.1]),
)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_cross_terms_between_batches_are_there(micro_batch):
    at = at_weights(dense.scalar_net(1, 1), dense.half_square, [CROSS], micro_batch=micro_batch)
    torch.testing.assert_close(at.gradient(), dense.f64(0, 0.3), atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), dense.f64(0, 0.1), atol=1e-12, rtol=0)


def test_cross_terms_are_missing_from_the_one_pass_mean():
    """The trap itself: if this were not so, the test above would show nothing."""
    one_pass = torch.zeros(2).double()
    for x, y in zip(*CROSS, strict=True):
        at = at_weights(dense.scalar_net(1, 1), dense.half_square, [(x[None], y[None])])
        one_pass += at.hessian_gradient() / 3
    torch.testing.assert_close(one_pass, dense.f64(-2, 0.3), atol=1e-12, rtol=0)


# Dense Hessians: weights -----------------------------------------------------------------------------------


IMAGE_NETS = [dense.conv_norm_net, dense.residual_net, dense.depthwise_net, dense.concat_net]


@pytest.mark.parametrize("micro_batch", [6, 4])
@pytest.mark.parametrize("make", IMAGE_NETS)
def test_weights_against_the_dense_hessian(make, micro_batch):
    net, batch = make(), dense.images()
    at = at_weights(net, dense.cross_entropy, [batch], micro_batch=micro_batch, bn_mode="running")
    theta, g, hessian = dense.full_hessian(net.eval(), dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(at.values, theta, atol=0, rtol=0)
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-12, rtol=0)
    v = torch.randn(theta.numel()).double()
    torch.testing.assert_close(at.hessian_product(v), hessian @ v, atol=1e-11, rtol=0)


def test_the_product_is_of_all_layers_and_not_of_each_alone():
    """The block-diagonal reading of the poster's formula is another quantity."""
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    at = at_weights(net, dense.cross_entropy, [batch])
    _, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, dense.prunable(net))
    blocks = torch.cat([hessian[:20, :20] @ g[:20], hessian[20:, 20:] @ g[20:]])
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-12, rtol=0)
    assert (at.hessian_gradient() - blocks).norm() > 0.1 * blocks.norm()


def test_weights_that_have_left_have_neither_value_nor_slope():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    units = Weights().of(net, batch[0], None, ())
    keep = torch.rand(35) < 0.6
    units.keep_only(keep)
    at = Evaluation(MeanLoss(net, dense.cross_entropy, [batch]), units.coordinates)
    theta, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, dense.prunable(net))
    assert not theta[~keep].any()
    torch.testing.assert_close(at.gradient(), g * keep, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), keep * (hessian @ (g * keep)), atol=1e-12, rtol=0)
    v = torch.randn(35, dtype=torch.float64)
    torch.testing.assert_close(at.hessian_product(v), keep * (hessian @ (v * keep)), atol=1e-12, rtol=0)


def test_frozen_weights_are_scored_and_stay_frozen():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    before = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    net[0].weight.requires_grad_(False)
    after = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    assert torch.equal(before, after)
    assert not net[0].weight.requires_grad


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    net, batch = dense.scalar_net(1, 2, 3), (torch.ones(2, 3).double(), torch.zeros(2, 1).double())
    at = at_weights(net, lambda model, b: model(b[0]).mean(), [batch])
    assert at.gradient().tolist() == [1, 1, 1]
    assert at.hessian_gradient().tolist() == [0, 0, 0]


# Dense Hessians: gates -------------------------------------------------------------------------------------


AFTER_NORM = {
    dense.conv_norm_net: {"norm1": "conv1", "norm2": "conv2"},
    dense.residual_net: {"norm0": "stem", "norm1": "conv1", "norm2": "conv2"},
    dense.depthwise_net: {"norm1": "expand", "norm3": "project"},  # not behind the depthwise layer again
    dense.concat_net: {"left": "left", "norm": "right", "merge": "merge"},
}

BEFORE_NORM = {make: {layer: layer for layer in places.values()} for make, places in AFTER_NORM.items()}


@pytest.mark.parametrize("gate", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("make", IMAGE_NETS)
def test_gates_against_explicit_gates(make, gate):
    net, batch = make(), dense.images()
    at = at_gates(net, dense.cross_entropy, [batch], gate, micro_batch=4, bn_mode="running")
    sites = (AFTER_NORM if gate == "post_norm" else BEFORE_NORM)[make]
    places = {module: classes_of(at, layer) for module, layer in sites.items()}
    count = len(at.values)
    g, hessian = dense.gate_hessian(net.eval(), dense.cross_entropy, batch, places, count)
    assert at.values.tolist() == [1] * count
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-12, rtol=0)
    v = torch.randn(count).double()
    torch.testing.assert_close(at.hessian_product(v), hessian @ v, atol=1e-11, rtol=0)


def test_a_residual_stream_has_one_gate_for_all_its_creators():
    at = at_gates(dense.residual_net(), dense.cross_entropy, [dense.images()])
    assert torch.equal(classes_of(at, "stem"), classes_of(at, "conv2"))
    assert len(at.values) == 4 + 3


def test_a_depthwise_carrier_has_no_gate_of_its_own():
    at = at_gates(dense.depthwise_net(), dense.cross_entropy, [dense.images()])
    assert len(at.values) == 5 + 3
    assert [gate.where for gate in at.coordinates.gates] == ["norm1", "norm3"]


def test_gates_behind_a_norm_are_gamma_and_beta_together():
    net, batch = dense.conv_norm_net(), dense.images()
    at = at_gates(net, dense.cross_entropy, [batch], bn_mode="running")
    names = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
    theta, g, _ = dense.full_hessian(net.eval(), dense.cross_entropy, batch, names)
    terms = (theta * g).split([4, 4, 3, 3])
    expected = torch.zeros(7).double()
    expected[classes_of(at, "conv1")] = terms[0] + terms[1]
    expected[classes_of(at, "conv2")] = terms[2] + terms[3]
    torch.testing.assert_close(at.gradient(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("act", [torch.relu, lambda x: nn.functional.leaky_relu(x, 0.1)])
def test_gates_before_and_after_a_positively_homogeneous_activation_are_one(act):
    batch = dense.images()
    parts = {
        "conv": nn.Conv2d(2, 4, 3),
        "after": nn.Identity(),
        "head": nn.Linear(4, 3),
    }
    net = dense.Net(lambda n, x: n.head(n.after(act(n.conv(x))).mean((2, 3))), **parts).double()
    at = at_gates(net, dense.cross_entropy, [batch])
    g, hessian = dense.gate_hessian(net, dense.cross_entropy, batch, {"after": classes_of(at, "conv")}, 4)
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-12, rtol=0)


def test_gates_before_and_after_tanh_differ():
    batch = dense.images()
    net = dense.Net(
        lambda n, x: n.head(n.after(torch.tanh(n.conv(x))).mean((2, 3))),
        conv=nn.Conv2d(2, 4, 3),
        after=nn.Identity(),
        head=nn.Linear(4, 3),
    ).double()
    at = at_gates(net, dense.cross_entropy, [batch])
    g, _ = dense.gate_hessian(net, dense.cross_entropy, batch, {"after": classes_of(at, "conv")}, 4)
    assert (at.gradient() - g).norm() > 1e-3 * g.norm()


def test_a_scaled_loss_scales_the_gradient_once_and_the_product_twice():
    net, batch = dense.conv_norm_net(), dense.images()
    one = at_weights(net, dense.cross_entropy, [batch])
    minus_three = at_weights(net, lambda m, b: -3 * dense.cross_entropy(m, b), [batch])
    torch.testing.assert_close(minus_three.gradient(), -3 * one.gradient(), atol=1e-12, rtol=0)
    torch.testing.assert_close(minus_three.hessian_gradient(), 9 * one.hessian_gradient(), atol=1e-12, rtol=0)


def test_temperature_divides_the_logits():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    at = at_weights(net, dense.cross_entropy, [batch]).tempered(7.0)
    _, g, hessian = dense.full_hessian(
        net, lambda m, b: nn.functional.cross_entropy(m(b[0]) / 7, b[1]), batch, dense.prunable(net)
    )
    torch.testing.assert_close(at.gradient(), g, atol=1e-13, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: model(batch[0]).sum() * torch.nan, "nan"),
        (lambda model, batch: model(batch[0]).sum() * torch.inf, "inf"),
        (lambda model, batch: model(batch[0]), "shape"),
        (lambda model, batch: model(batch[0]).mean().item(), "float"),
        (lambda model, batch: model(batch[0]).mean().detach(), "does not depend"),
        (lambda model, batch: None, "NoneType"),
    ],
)
def test_a_loss_that_cannot_be_scored_is_refused(loss, message):
    net = dense.mlp(4, 5, 3)
    before = dense.everything(net)
    with pytest.raises(ScoreError, match=message):
        at_weights(net, loss, [dense.vectors()]).gradient()
    assert dense.everything(net) == before


def test_a_temperature_needs_logits_that_are_a_tensor():
    net = dense.mlp(4, 5, 3)
    wrapped = dense.Net(lambda n, x: {"logits": n.net(x)}, net=net)
    at = at_weights(wrapped, lambda m, b: nn.functional.cross_entropy(m(b[0])["logits"], b[1]), [dense.vectors()])
    with pytest.raises(ScoreError, match="dict"):
        at.tempered(200.0).gradient()


def test_a_temperature_divides_the_first_of_several_outputs():
    """Of logits and a value it is the logits, as if the loss had divided them."""
    net, temperature = dense.mlp(4, 5, 3), 7.0
    two = dense.Net(lambda n, x: (n.net(x), n.net(x).sum(1)), net=net)

    def loss(model, batch):
        logits, value = model(batch[0])
        return nn.functional.cross_entropy(logits, batch[1]) + value.square().mean()

    def divided(model, batch):
        logits, value = model(batch[0])
        return nn.functional.cross_entropy(logits / temperature, batch[1]) + value.square().mean()

    found = at_weights(two, loss, [dense.vectors()]).tempered(temperature)
    expected = at_weights(two, divided, [dense.vectors()])
    torch.testing.assert_close(found.hessian_gradient(), expected.hessian_gradient(), atol=1e-12, rtol=0)
