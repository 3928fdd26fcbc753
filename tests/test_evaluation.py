"""Gradient and Hessian products of the mean loss, against dense Hessians and numbers worked out by hand."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from earlycrop.errors import ScoreError
from earlycrop.evaluation import Evaluation, MeanLoss, ScoringSet
from earlycrop.units import Channels, Weights
from tests import dense


def at_weights(net: nn.Module, loss, batches, **options) -> Evaluation:
    units = Weights().of(net, example(batches), None, ())
    return Evaluation(MeanLoss(net, loss, batches, **options), units.units)


def at_gates(net: nn.Module, loss, batches, gate: str = "post_norm", **options) -> Evaluation:
    units = Channels(gate).of(net, example(batches), None, ())
    at = Evaluation(MeanLoss(net, loss, batches, **options), units.units)
    at.structure = units.structure  # which says what class each channel is in
    return at


def example(batches) -> Tensor:
    return batches[0][0]


def classes_of(at: Evaluation, layer: str) -> Tensor:
    return at.structure.tensors[f"{layer}.weight"].classes[0]


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
    at = Evaluation(MeanLoss(net, dense.cross_entropy, [batch]), units.units)
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
    assert [gate.where for gate in at.chart.gates] == ["norm1", "norm3"]


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


# Batch norm's modes ------------------------------------------------------------------------------------------


def test_calibrated_statistics_are_those_of_the_scoring_set():
    net, batch = dense.residual_net(), dense.images(20)
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="calibrated", micro_batch=3)
    twin = dense.residual_net()
    twin.load_state_dict(net.state_dict())
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    twin.train()(batch[0])
    _, g, _ = dense.full_hessian(twin.eval(), dense.cross_entropy, batch, dense.prunable(twin))
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sizes", [(300,), (20, 20, 20, 4)])
def test_calibrated_statistics_are_a_mean_by_samples(sizes):
    """A large set in even pieces; one that does not join by its own batches, which count by their sizes."""
    x, y = dense.images(sum(sizes))
    net, pieces = dense.conv_norm_net(), (150, 150) if sizes == (300,) else sizes
    seen = []

    def loss(model, batch):
        if not seen and torch.is_grad_enabled():
            seen.extend(t.clone() for t in (model.norm1.running_mean, model.norm1.running_var))
        return dense.cross_entropy(model, batch[:2])

    at_weights(net, loss, tagged(cut((x, y), *sizes)) if len(sizes) > 1 else [(x, y)], bn_mode="calibrated").gradient()
    created = [net.conv1(part).transpose(0, 1).flatten(1).detach() for part in x.split(list(pieces))]
    mean = sum(part.mean(1) * n for part, n in zip(created, pieces, strict=True)) / len(x)
    var = sum(part.var(1) * n for part, n in zip(created, pieces, strict=True)) / len(x)
    torch.testing.assert_close(seen[0], mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(seen[1], var, atol=1e-12, rtol=0)


def test_batch_mode_uses_the_statistics_of_the_batch():
    net, batch = dense.residual_net(), dense.images()
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="batch")
    _, g, hessian = dense.full_hessian(net.train(), dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(at.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-11, rtol=0)


def test_auto_calibrates_norms_that_never_saw_a_batch_and_trusts_others():
    net, batch = dense.conv_norm_net(), dense.images()

    def gradient(mode: str) -> Tensor:
        return at_weights(net, dense.cross_entropy, [batch], bn_mode=mode).gradient()

    assert torch.equal(gradient("auto"), gradient("running"))
    net.norm1.num_batches_tracked.zero_()
    assert torch.equal(gradient("auto"), gradient("calibrated"))
    assert not torch.allclose(gradient("running"), gradient("calibrated"))


def test_a_filter_before_batch_statistics_has_no_scale():
    """8.3: θₖᵀgₖ = 0 and θₖᵀ(Hg)ₖ = −‖gₖ‖², if eps is nothing beside the variance."""
    net, batch = dense.conv_norm_net(torch.relu), dense.images(16)
    net.norm1.eps = 1e-300
    at = at_weights(net, dense.cross_entropy, [batch], bn_mode="batch")
    filters = slice(0, 4 * 18)  # conv1, without a bias
    theta, g, hg = (v[filters].view(4, 18) for v in (at.values, at.gradient(), at.hessian_gradient()))
    assert g.norm() > 1e-3
    torch.testing.assert_close((theta * g).sum(1), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close((theta * hg).sum(1), -g.square().sum(1), atol=1e-12, rtol=0)


# 8.3: however the set is cut ----------------------------------------------------------------------------------


def cut(batch, *sizes):
    return list(zip(*(part.split(list(sizes)) for part in batch), strict=True))


def tagged(batches):
    """With a string in each batch, so that they cannot be joined and are worked through as given."""
    return [(x, y, "as given") for x, y in batches]


def untagged_loss(model, batch):
    return dense.cross_entropy(model, batch[:2])


SPLITS = [(64,), (16,) * 4, (20, 20, 20, 4)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("bn_mode", ["running", "calibrated"])
@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_the_score_does_not_depend_on_how_the_set_is_cut(dtype, tolerance, bn_mode, unit):
    net, (x, y) = dense.residual_net().to(dtype), dense.images(64)
    batch = x.to(dtype), y
    units = (Weights() if unit == "weights" else Channels()).of(net, batch[0], None, ()).units
    scores = []
    for sizes in SPLITS:
        given = cut(batch, *sizes)
        variants = [(dense.cross_entropy, given, micro_batch) for micro_batch in (None, 20, 7)]
        if bn_mode == "running":  # calibration of batches that do not join is by these batches
            variants.append((untagged_loss, tagged(given), None))
        for loss, batches, micro_batch in variants:
            at = Evaluation(MeanLoss(net, loss, batches, bn_mode, micro_batch), units)
            scores.append(at.values * at.hessian_gradient())
    for other in scores[1:]:
        assert (other - scores[0]).norm() <= tolerance * scores[0].norm()


def test_unequal_batches_would_be_noticed():
    """Without weights for 20, 20, 20 and 4 samples the test above must fail."""
    net, batch = dense.residual_net(), dense.images(64)
    whole = at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient()
    parts = [
        at_weights(net, dense.cross_entropy, [part], bn_mode="running").gradient() for part in cut(batch, 20, 20, 20, 4)
    ]
    assert (torch.stack(parts).mean(0) - whole).norm() > 1e-3 * whole.norm()


def test_the_same_data_twice_changes_nothing():
    net, batch = dense.conv_norm_net(), dense.images()
    once = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    twice = at_weights(net, dense.cross_entropy, [batch, batch]).hessian_gradient()
    torch.testing.assert_close(once, twice, atol=1e-13, rtol=0)


def test_a_scaled_loss_scales_the_gradient_once_and_the_product_twice():
    net, batch = dense.conv_norm_net(), dense.images()
    one = at_weights(net, dense.cross_entropy, [batch])
    minus_three = at_weights(net, lambda m, b: -3 * dense.cross_entropy(m, b), [batch])
    torch.testing.assert_close(minus_three.gradient(), -3 * one.gradient(), atol=1e-12, rtol=0)
    torch.testing.assert_close(minus_three.hessian_gradient(), 9 * one.hessian_gradient(), atol=1e-12, rtol=0)


def test_batches_may_be_dictionaries():
    net, (x, y) = dense.mlp(4, 5, 3), dense.vectors()
    expected = at_weights(net, dense.cross_entropy, [(x, y)]).hessian_gradient()
    loss = MeanLoss(
        net, lambda m, b: dense.cross_entropy(m, (b["x"], b["y"])), [{"x": x[:4], "y": y[:4]}, {"x": x[4:], "y": y[4:]}]
    )
    units = Weights().of(net, x, None, ())
    torch.testing.assert_close(Evaluation(loss, units.units).hessian_gradient(), expected, atol=1e-13, rtol=0)


def test_texts_of_different_lengths_are_weighted_by_their_number():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).double()

    def loss(model, tokens):
        return nn.functional.cross_entropy(model(tokens)[:, -1], tokens[:, 0])

    batches = [torch.randint(7, (3, 5)), torch.randint(7, (1, 2))]
    at = Evaluation(MeanLoss(net, loss, batches), Weights().of(net, batches[0], None, ()).units)
    parts = [torch.autograd.grad(loss(net, batch), net[1].weight)[0].reshape(-1) for batch in batches]
    torch.testing.assert_close(at.gradient(), 0.75 * parts[0] + 0.25 * parts[1], atol=1e-12, rtol=0)


def test_temperature_divides_the_logits():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    at = at_weights(net, dense.cross_entropy, [batch]).tempered(7.0)
    _, g, hessian = dense.full_hessian(
        net, lambda m, b: nn.functional.cross_entropy(m(b[0]) / 7, b[1]), batch, dense.prunable(net)
    )
    torch.testing.assert_close(at.gradient(), g, atol=1e-13, rtol=0)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ g, atol=1e-14, rtol=0)


# What scoring may not do --------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Dropout, a norm, a frozen part, a part in eval mode, and a buffer that counts forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def lived_in() -> nn.Module:
    net = Noisy().double()
    dense.cross_entropy(net, dense.images()).backward()
    net.head.bias.grad = None
    net.conv.weight.requires_grad_(False)
    net.train()
    net.norm.eval()
    return net


@pytest.mark.parametrize("bn_mode", ["auto", "running", "calibrated", "batch"])
@pytest.mark.parametrize("fails", [False, True])
def test_scoring_leaves_everything_bit_for_bit(bn_mode, fails):
    net, batch = lived_in(), dense.images()
    before = dense.everything(net)
    calls = []

    def loss(model, batch):
        calls.append(model.drop.training)
        torch.rand(3)
        value = dense.cross_entropy(model, batch)
        return value * torch.nan if fails and torch.is_grad_enabled() and len(calls) > 3 else value

    at = at_weights(net, loss, [batch], bn_mode=bn_mode, micro_batch=2)
    if fails:
        with pytest.raises(ScoreError, match="nan"):
            at.hessian_gradient()
    else:
        at.hessian_gradient()
    assert dense.everything(net) == before
    assert not any(calls)


def test_dropout_is_off_while_scoring():
    net, batch = lived_in(), dense.images()
    first, second = (at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient() for _ in range(2))
    assert torch.equal(first, second)
    net.drop.p = 0.0
    assert torch.equal(at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient(), first)


def test_scoring_works_where_gradients_are_off_and_autocast_is_on():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    net, batch = net.float(), (batch[0].float(), batch[1])
    expected = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    assert torch.equal(found, expected)


def test_what_is_not_differentiated_needs_no_gradient_while_scoring():
    net, batch = lived_in(), dense.images()
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    seen = []

    def loss(model, batch):
        seen.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
        return dense.cross_entropy(model, batch)

    at_gates(net, loss, [batch], bn_mode="running").hessian_gradient()
    assert seen
    assert not any(seen)
    seen.clear()
    at_weights(net, loss, [batch], bn_mode="running").gradient()
    assert all(names == {"conv.weight", "head.weight"} for names in seen)
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags


@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_transformers_and_recurrent_layers_are_not_fused_while_scoring(unit):
    """Their fused kernels have no second derivative, or none at all in eval mode."""
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 1, enable_nested_tensor=False
    )
    net = dense.Net(
        lambda n, x: n.head(n.rnn(n.encoder(x))[0][:, -1]),
        encoder=encoder,
        rnn=nn.LSTM(6, 4, batch_first=True),
        head=nn.Linear(4, 3),
    ).float()
    batch = torch.randn(5, 4, 6), torch.randint(3, (5,))
    flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    make = at_weights if unit == "weights" else at_gates
    found = make(net, dense.cross_entropy, [batch]).hessian_gradient()
    exact = make(net.double(), dense.cross_entropy, [(batch[0].double(), batch[1])]).hessian_gradient()
    assert exact.norm() > 0
    assert (found - exact).norm() <= 1e-4 * exact.norm()
    now = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    assert now == flags


@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_a_model_in_half_precision_is_scored_in_its_own_and_summed_in_single(unit):
    net, batch = dense.mlp(4, 20, 3), dense.vectors(32)
    make = at_weights if unit == "weights" else at_gates
    exact = make(net, dense.cross_entropy, [batch])
    expected = exact.values * exact.hessian_gradient()
    half = make(net.bfloat16(), dense.cross_entropy, [(batch[0].bfloat16(), batch[1])], micro_batch=8)
    found = half.values * half.hessian_gradient()
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.double(), expected]))[0, 1] > 0.98


def test_texts_of_different_lengths_are_cut_one_by_one():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).double()
    sizes = []

    def loss(model, tokens):
        sizes.append(tuple(tokens.shape))
        return nn.functional.cross_entropy(model(tokens)[:, -1], tokens[:, 0])

    batches = [torch.randint(7, (5, 5)), torch.randint(7, (2, 3))]
    chart = Weights().of(net, batches[0], None, ()).units
    whole = Evaluation(MeanLoss(net, loss, batches, micro_batch=5), chart).gradient()
    sizes.clear()
    torch.testing.assert_close(Evaluation(MeanLoss(net, loss, batches, micro_batch=2), chart).gradient(), whole)
    assert sizes == [(1, 5), (2, 5), (2, 5), (2, 3)]


@pytest.mark.parametrize(("largest", "expected"), [(6, 2), (64, 16), (300, 30)])  # at most 32, in even pieces
def test_the_usual_micro_batch_is_a_part_of_the_given_batches(largest, expected):
    net, sizes = dense.conv_norm_net(), []

    def loss(model, batch):
        sizes.append(len(batch[0]))
        return dense.cross_entropy(model, batch)

    at_weights(net, loss, [dense.images(largest)], bn_mode="running").gradient()
    assert max(sizes) == expected
    sizes.clear()
    at_weights(net, loss, [dense.images(largest)], bn_mode="batch").gradient()
    assert sizes == [largest]  # whose statistics are asked for


TF32 = """
import torch
from torch import nn
from earlycrop import Pruner, Scoring

matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
read = {{
    "older": lambda: (matmul.allow_tf32, cudnn.allow_tf32),
    "newer": lambda: (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision),
}}["{which}"]
{setting}
before, inside = read(), []


def loss(model, batch):
    inside.append(read())
    return model(batch).square().mean()


x = torch.randn(4, 3)
Pruner(nn.Linear(3, 2), "crop-u", 0.5, example_inputs=x, scoring=Scoring(loss, [x])).check(0)
assert read() == before, (read(), before)
assert set(inside) == {{("ieee",) * 3 if "{which}" == "newer" else (False, False)}}, inside
"""


@pytest.mark.parametrize(
    ("which", "setting"),
    [
        pytest.param("older", "matmul.allow_tf32 = cudnn.allow_tf32 = True", marks=pytest.mark.slow),
        ("newer", "matmul.fp32_precision = cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = 'tf32'"),
        pytest.param("older", "", marks=pytest.mark.slow),
        pytest.param("older", "torch.set_float32_matmul_precision('high')", marks=pytest.mark.slow),
        pytest.param("newer", "torch.backends.fp32_precision = 'tf32'", marks=pytest.mark.slow),
    ],
)
def test_tf32_is_off_while_scoring_and_as_it_was_afterwards(which, setting):
    """In another process, for PyTorch never forgets which of its two switches was used."""
    if which == "newer" and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch has only the older switch")
    code = TF32.format(which=which, setting=setting)
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 4), torch.zeros(0))]])
def test_an_empty_scoring_set_is_refused(batches):
    with pytest.raises(ScoreError, match="empty"):
        ScoringSet(batches)


def test_a_batch_without_samples_to_count_is_refused():
    with pytest.raises(ScoreError, match="first dimension"):
        ScoringSet(["text"])


def test_a_micro_batch_of_nothing_is_refused():
    with pytest.raises(ScoreError, match="micro_batch"):
        ScoringSet([dense.vectors()], micro_batch=0)


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


# The set as a collection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "micro_batch"), [(64, 20), (7, 3), (5, 8), (6, 1)])
def test_every_sample_is_worked_through_once_and_no_more_than_asked_at_a_time(samples, micro_batch):
    batch = torch.arange(samples), torch.arange(samples)
    pieces = list(ScoringSet([batch]).chunks(micro_batch))
    assert torch.equal(torch.cat([x for (x, _), _ in pieces]), batch[0])
    assert all(size == len(x) == len(y) for (x, y), size in pieces)
    assert max(size for _, size in pieces) <= micro_batch
