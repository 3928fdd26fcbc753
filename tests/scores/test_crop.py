"""CroP on weights and its three readings on channels: sections 8.1 to 8.5."""

import pytest
import torch
from torch import nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.scores import Crop, CropGroupSum, CropMixed, Magnitude
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import best, channels, classes, pruner, worth

ONE = dense.f64([1, -1, 0.5]), dense.f64([0.25])


def test_one_sample_of_a_linear_model():
    batch = dense.f64([1, 2]), dense.f64([1])
    assert worth(dense.scalar_net(1, 1), Crop(), None, [batch], dense.half_square).tolist() == [10, 20]


def test_crop_is_not_grasp():
    scores = worth(dense.scalar_net(3, 1, 0.5), Crop(), None, [ONE], dense.half_square)
    torch.testing.assert_close(scores, dense.f64(13.5, 4.5, 1.125), atol=1e-12, rtol=0)
    assert best(scores, 2) == {1, 2}
    assert best(scores, 1) == {1}


def test_the_cross_terms_decide_which_weight_leaves():
    batch = dense.f64([1, 0], [2, 0], [0, 1]), dense.f64([-1], [3], [0.1])
    for micro_batch in (1, 2, 3):
        net = dense.scalar_net(1, 1)
        here = pruner(net, Crop(), None, [batch], dense.half_square, micro_batch=micro_batch)
        torch.testing.assert_close(here.scores(), dense.f64(0, 0.1), atol=1e-12, rtol=0)
        here.check(0)
        assert net.weight[0].tolist() == [0, 1]


# 8.3 ---------------------------------------------------------------------------------------------------------


def signed_terms(net, loss, batch):
    """θ ∘ Hg in pieces, by the library's own product."""
    at = pruner(net, Crop(), None, [batch], loss, bn_mode="running").units.coordinates
    here = Evaluation(MeanLoss(net, loss, [batch], "running"), at)
    sizes = [net.get_parameter(name).numel() for name in dense.prunable(net)]
    terms = (here.values * here.hessian_gradient()).split(sizes)
    squares = here.gradient().square().split(sizes)
    shapes = [net.get_parameter(name).shape for name in dense.prunable(net)]
    return [t.view(s) for t, s in zip(terms, shapes, strict=True)], [
        q.view(s) for q, s in zip(squares, shapes, strict=True)
    ]


@pytest.mark.parametrize("make", [dense.conv_norm_net, dense.residual_net, dense.depthwise_net, dense.concat_net])
@pytest.mark.parametrize("part", ["all", "layer", "channel", "weight"])
def test_the_sum_rule_by_scaling(make, part):
    """Σ θ ∘ Hg over any part is the slope of the gradient flow as that part is scaled: first-order code only."""
    net, batch = make().eval(), dense.images()
    terms, _ = signed_terms(net, dense.cross_entropy, batch)
    name = dense.prunable(net)[1]
    last = net.get_parameter(name).shape[0] - 1
    index = {"all": ..., "layer": ..., "channel": last, "weight": (last, 0, -1, -1)}
    scaled = dense.prunable(net) if part == "all" else [name]
    expected = sum(t.sum() for t in terms) if part == "all" else terms[1][index[part]].sum()
    eps, flows = 1e-5, []
    for sign in (1, -1):
        state = {key: value.clone() for key, value in net.state_dict().items()}
        with torch.no_grad():
            for one in scaled:
                net.get_parameter(one)[index[part]] *= 1 + sign * eps
        flows.append(dense.flow(net, dense.cross_entropy, batch))
        net.load_state_dict(state)
    slope = (flows[0] - flows[1]) / (4 * eps)
    torch.testing.assert_close(expected, slope.detach(), atol=1e-8, rtol=1e-6)


def test_a_quadratic_through_the_origin():
    """y = 0, linear model: Σ θ ∘ Hg = ‖g‖²."""
    batch = torch.randn(7, 4).double(), torch.zeros(7, 3).double()
    net = nn.Linear(4, 3, bias=False).double()
    (terms,), (squares,) = signed_terms(net, dense.half_square, batch)
    torch.testing.assert_close(terms.sum(), squares.sum(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU])
def test_homogeneous_chains_conserve_by_layer_and_by_unit(act):
    net, batch = dense.mlp(4, 6, 5, 3, bias=False, act=act), dense.vectors(12)
    terms, squares = signed_terms(net, dense.cross_entropy, batch)
    by_layer = torch.stack([t.sum() + q.sum() for t, q in zip(terms, squares, strict=True)])
    torch.testing.assert_close(by_layer, by_layer[:1].expand(3), atol=1e-11, rtol=0)
    at_units = pruner(net, CropMixed(), Channels(), [batch])
    readings = at_units.scores()
    for layer, name in enumerate(["0", "2"]):
        incoming = (terms[layer] + squares[layer]).sum(1)
        outgoing = (terms[layer + 1] + squares[layer + 1]).sum(0)
        torch.testing.assert_close(incoming, outgoing, atol=1e-11, rtol=0)
        torch.testing.assert_close(readings[classes(at_units, name)], incoming.abs(), atol=1e-11, rtol=0)


def test_biases_break_that_conservation():
    net, batch = dense.mlp(4, 6, 5, 3, act=nn.ReLU), dense.vectors(12)
    terms, squares = signed_terms(net, dense.cross_entropy, batch)
    by_layer = torch.stack([t.sum() + q.sum() for t, q in zip(terms, squares, strict=True)])
    assert (by_layer - by_layer[0]).abs().max() > 1e-3 * by_layer.abs().max()


@pytest.mark.parametrize("score", [Crop(), CropMixed(), CropGroupSum()])
def test_permuting_channels_permutes_their_scores(score):
    net, batch = dense.conv_norm_net(), dense.images()
    before = channels(net, score, "conv1", [batch])
    others = channels(net, score, "conv2", [batch])
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for tensor in (
            net.conv1.weight,
            net.norm1.weight,
            net.norm1.bias,
            net.norm1.running_mean,
            net.norm1.running_var,
        ):
            tensor.copy_(tensor[order].clone())
        net.conv2.weight.copy_(net.conv2.weight[:, order].clone())
    torch.testing.assert_close(channels(net, score, "conv1", [batch]), before[order], atol=1e-12, rtol=0)
    torch.testing.assert_close(channels(net, score, "conv2", [batch]), others, atol=1e-12, rtol=0)
    assert before.unique().numel() == 4


@pytest.mark.parametrize("score", [Crop(), CropMixed(), CropGroupSum()])
def test_a_dead_unit_is_worth_nothing(score):
    net, batch = dense.mlp(4, 6, 3, act=nn.ReLU), dense.vectors(12)
    with torch.no_grad():
        net[0].bias[2] = -100
    scores = channels(net, score, "0", [batch])
    assert scores[2] == 0
    assert (scores[[0, 1, 3, 4, 5]] > 0).sum() >= 3
    weights = worth(net, Crop(), None, [batch])
    assert not weights[:24].view(6, 4)[2].any()
    assert not weights[24:].view(3, 6)[:, 2].any()


def test_the_mean_over_one_set_is_the_mean_over_it_twice():
    net, batch = dense.conv_norm_net(), dense.images()
    for score in (Crop(), CropMixed(), CropGroupSum()):
        once = worth(net, score, Channels(), [batch])
        torch.testing.assert_close(worth(net, score, Channels(), [batch, batch]), once, atol=1e-13, rtol=0)


# 8.5 and 2.2: the three readings ---------------------------------------------------------------------------------

X = torch.ones(1, 1).double(), torch.zeros(1, 1).double()


@pytest.mark.parametrize(
    ("u", "v", "r1", "r2", "r3"),
    [
        ((1, -1), (2, 5), (16, 0), (40, 0), (24, 0)),  # unit 2 is dead
        ((1, 1), (2, 0), (16, 0), (44, 4), (28, 4)),  # unit 2 has no outgoing weight
    ],
)
def test_three_readings_of_two_neurons(u, v, r1, r2, r3):
    for score, expected in ((Crop(), r1), (CropMixed(), r2), (CropGroupSum(), r3)):
        found = channels(dense.two_neurons(u, v), score, "0", [X], loss=dense.half_square)
        torch.testing.assert_close(found, dense.f64(*expected), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("u", "v", "outgoing"), [((1, -1), (2, 5), (36, 0)), ((1, 1), (2, 0), (40, 0))])
def test_outgoing_sums_of_two_neurons(u, v, outgoing):
    terms, _ = signed_terms(dense.two_neurons(u, v), dense.half_square, X)
    torch.testing.assert_close(terms[1].sum(0), dense.f64(*outgoing), atol=1e-12, rtol=0)


SITES = {
    dense.conv_norm_net: {"conv1": "norm1", "conv2": "norm2"},
    dense.residual_net: {"stem": "norm0", "conv1": "norm1", "conv2": "norm2"},
    dense.depthwise_net: {"expand": "norm1", "project": "norm3"},
    dense.concat_net: {"left": "left", "right": "norm", "merge": "merge"},
}


@pytest.mark.parametrize("gate", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("make", SITES)
def test_readings_on_networks_against_explicit_gates(make, gate):
    net, batch = make(), dense.images(10)
    here = pruner(net, Crop(), Channels(gate), [batch], bn_mode="running", micro_batch=3)
    count = len(here.units.keep)
    sites = {layer: norm if gate == "post_norm" else layer for layer, norm in SITES[make].items()}
    places = {site: classes(here, layer) for layer, site in sites.items()}
    gates = net.eval(), dense.cross_entropy, batch, places, count
    g, hessian = dense.gate_hessian(*gates)
    torch.testing.assert_close(here.scores(), (hessian @ g).abs(), atol=1e-12, rtol=0)
    mixed = worth(net, CropMixed(), Channels(gate), [batch], micro_batch=3)
    torch.testing.assert_close(mixed, dense.mixed_by_autograd(*gates).abs(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", SITES)
def test_group_sums_against_the_dense_hessian(make):
    """R3: θₖᵀ(Hg)ₖ with g over weights only, and θₖ with the bias."""
    net, batch = make().eval(), dense.images()
    weights = dense.prunable(net)
    names = weights + [f"{layer}.bias" for layer in SITES[make] if net.get_submodule(layer).bias is not None]
    theta, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, names)
    of_weights = sum(net.get_parameter(name).numel() for name in weights)
    terms = theta * (hessian[:, :of_weights] @ g[:of_weights])
    pieces = dict(zip(names, terms.split([net.get_parameter(name).numel() for name in names]), strict=True))
    here = pruner(net, CropGroupSum(), Channels(), [batch], bn_mode="running")
    expected = torch.zeros(len(here.units.keep)).double()
    for layer in SITES[make]:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in pieces:
                per_channel = pieces[name].view(net.get_parameter(name).shape[0], -1).sum(1)
                expected.index_add_(0, classes(here, layer), per_channel)
    torch.testing.assert_close(here.scores(), expected.abs(), atol=1e-12, rtol=0)


def test_mixed_is_the_group_sum_and_the_squared_gradient_without_norms():
    net, batch = dense.mlp(4, 6, 3, act=nn.ReLU), dense.vectors(12)
    parts = [net[0].weight, net[0].bias]
    slope = torch.autograd.grad(dense.cross_entropy(net, batch), net[0].weight)[0]
    theta, g, hessian = dense.full_hessian(net, dense.cross_entropy, batch, ["0.weight", "2.weight", "0.bias"])
    hg = hessian[:, : 24 + 18] @ g[: 24 + 18]
    terms = theta * hg
    r3 = terms[:24].view(6, 4).sum(1) + terms[42:]
    r2 = r3 + slope.square().sum(1)
    torch.testing.assert_close(channels(net, CropGroupSum(), "0", [batch]), r3.abs(), atol=1e-12, rtol=0)
    torch.testing.assert_close(channels(net, CropMixed(), "0", [batch]), r2.abs(), atol=1e-12, rtol=0)
    assert all(part.grad is None for part in parts)


def test_a_gate_before_batch_statistics_is_nothing_and_one_behind_them_is_not():
    """8.3: behind batch statistics a filter has no scale, so R1 and R2 of a gate on it vanish."""
    net, batch = dense.conv_norm_net(torch.relu), dense.images(16)
    net.norm1.eps = net.norm2.eps = 1e-300
    here = pruner(net, Crop(), Channels(), [batch], bn_mode="batch")
    places = {"conv1": classes(here, "conv1")}
    for module in net.modules():
        module.train()
    g, _ = dense.gate_hessian(net, dense.cross_entropy, batch, places, len(here.units.keep))
    assert g.abs().max() < 1e-12
    assert here.scores()[classes(here, "conv1")].min() > 1e-6  # behind the norm there is a signal


@pytest.mark.parametrize("score", [Crop(), CropMixed()])
@pytest.mark.parametrize("gate", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("reduce", ["sum_abs", "max"])
def test_separate_gates_of_a_stream_are_reduced_after_the_score(score, gate, reduce):
    """2.9: a gate for each creator of a residual stream, against as many gates written out."""
    net, batch = dense.residual_net(), dense.images()
    here = pruner(net, score, Channels(gate, reduce), [batch], bn_mode="running", micro_batch=3)
    sites = SITES[dense.residual_net]
    places = {norm if gate == "post_norm" else layer: classes(here, layer) for layer, norm in sites.items()}
    count = len(here.units.keep)
    apart = {site: number * count + found for number, (site, found) in enumerate(places.items())}
    arguments = net.eval(), dense.cross_entropy, batch, apart, count * len(places)
    if isinstance(score, Crop):
        g, hessian = dense.gate_hessian(*arguments)
        signed = hessian @ g
    else:
        signed = dense.mixed_by_autograd(*arguments)
    of_each = signed.abs().view(len(places), count)  # zero where a place has no such class
    expected = of_each.sum(0) if reduce == "sum_abs" else of_each.amax(0)
    torch.testing.assert_close(here.scores(), expected, atol=1e-12, rtol=0)
    shared = pruner(net, score, Channels(gate), [batch], bn_mode="running").scores()
    assert not torch.allclose(here.scores(), shared)
    here.check(0)  # and the cut goes by them


@pytest.mark.parametrize("reduce", ["sum_abs", "max"])
def test_scores_of_classes_need_no_reduction(reduce):
    net, batch = dense.residual_net(), dense.images()
    for score in (CropGroupSum(), Magnitude()):
        expected = worth(net, score, Channels(), [batch])
        assert torch.equal(worth(net, score, Channels(reduce=reduce), [batch]), expected)
