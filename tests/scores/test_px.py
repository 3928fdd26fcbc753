"""PX: path by path on networks that are small enough, and what is refused because it has no paths."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop import METHODS, Method, ScoreError
from earlycrop.scores import Px, SynFlow
from earlycrop.steps import Exponential
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from tests import dense
from tests.pruners import make_pruner
from tests.scores.worth import channels, check_rounds, pruner, worth

SLOPE = 0.3


def path_by_path(net: nn.Sequential, x: Tensor, masks: list[Tensor], below: float) -> Tensor:
    """For a perceptron: Σ over outputs of the open paths' x², times the squared values of the paths through a weight.

    Every path is one tuple of units, from an input to an output, and is looked at alone.
    """
    layers = [module for module in net if isinstance(module, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    slopes = []  # of each hidden layer, for each sample and unit
    h = x
    for layer in layers[:-1]:
        before = layer(h)
        slopes.append(torch.where(before > 0, dense.f64(1.0), below))
        h = before * slopes[-1]
    paths = list(itertools.product(*(range(width) for width in widths)))

    def there(path) -> bool:
        return all(bool(mask[b, a]) for mask, (a, b) in zip(masks, itertools.pairwise(path), strict=True))

    z1 = [0.0] * widths[-1]
    for path in filter(there, paths):
        for sample in range(len(x)):
            open_ = 1.0
            for number, unit in enumerate(path[1:-1]):
                open_ *= float(slopes[number][sample, unit]) ** 2
            z1[path[-1]] += open_ * float(x[sample, path[0]]) ** 2
    scores = [torch.zeros_like(layer.weight) for layer in layers]
    for path in filter(there, paths):
        value = 1.0
        for layer, (a, b) in zip(layers, itertools.pairwise(path), strict=True):
            value *= float(layer.weight.detach()[b, a]) ** 2
        for score, (a, b) in zip(scores, itertools.pairwise(path), strict=True):
            score[b, a] += z1[path[-1]] * value
    return torch.cat([score.detach().reshape(-1) for score in scores])


@pytest.mark.parametrize(("act", "below"), [(nn.ReLU(), 0.0), (nn.LeakyReLU(SLOPE, inplace=True), SLOPE)])
@pytest.mark.parametrize("masked", [False, True])
def test_path_by_path(act, below, masked):
    net = nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 3), act, nn.Linear(3, 2)).double()
    batch = (dense.vectors(classes=2)[0], dense.vectors(classes=2)[1])
    here = pruner(net, Px(), batches=[batch])
    if masked:
        generator = torch.Generator().manual_seed(2)
        here.units.keep_only(torch.rand(here.units.keep.shape, generator=generator) > 0.4)
    expected = path_by_path(net, batch[0], list(here.units.masks().values()), below)
    found = here.scores()
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-12)
    assert not found[~here.units.keep].any()
    assert found.any()


def test_by_hand():
    """Σ v_k relu(u_k x) at x = 2 and x = −1: unit 1 is open at 2, unit 2 at −1; so Z = 4 + 1, each path (uv)²."""
    net = dense.two_neurons((1, -3), (2, -0.5))
    x = dense.f64(2, -1)[:, None]
    found = worth(net, Px(), batches=[(x, x)], loss=dense.half_square)
    torch.testing.assert_close(found, 5 * dense.f64(4, 2.25, 4, 2.25), atol=0, rtol=1e-14)


def test_a_prelu_of_its_own_slope_in_each_channel():
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.PReLU(2), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(dense.f64(1, 1)[:, None])
        net[1].weight.copy_(dense.f64(0.5, -2))
        net[2].weight.copy_(dense.f64(3, 1)[None])
    x = dense.f64(-1)[:, None]
    found = worth(net, Px(), batches=[(x, x)], loss=dense.half_square)
    torch.testing.assert_close(found, (0.25 + 4) * dense.f64(9, 1, 9, 1), atol=0, rtol=1e-14)


def residual_by_hand(net: nn.Module, x: Tensor, masks: dict[str, Tensor]) -> Tensor:
    """The two linear networks of `dense.residual_net(relu)`, written out."""

    def patterns(x: Tensor) -> list[Tensor]:
        one = net.norm0(net.stem(x))
        stream = one.relu()
        two = net.norm1(net.conv1(stream))
        three = stream + net.norm2(net.conv2(two.relu()))
        return [(before > 0).double() for before in (one, two, three)]

    def through(x: Tensor, weights: dict[str, Tensor], scales: list[Tensor], open_: list[Tensor] | None) -> Tensor:
        a, b, c = open_ if open_ is not None else [torch.ones(())] * 3
        s0, s1, s2 = (scale.view(1, -1, 1, 1) for scale in scales)
        stream = a * (s0 * F.conv2d(x, weights["stem.weight"], padding=1))
        block = b * (s1 * F.conv2d(stream, weights["conv1.weight"], padding=1))
        block = s2 * F.conv2d(block, weights["conv2.weight"], padding=1)
        return (c * (stream + block)).mean((2, 3)) @ weights["head.weight"].T

    net.eval()
    norms = [net.norm0, net.norm1, net.norm2]
    ones = [torch.ones_like(norm.weight) for norm in norms]
    with torch.no_grad():
        z1 = through(x.square(), masks, ones, patterns(x)).sum(0)
        squared = {name: net.get_parameter(name).square() for name in masks}
        scales = [(norm.weight / (norm.running_var + norm.eps).sqrt()).square() for norm in norms]
    for weight in squared.values():
        weight.requires_grad_()
    z2 = through(torch.ones_like(x[:1]), squared, scales, None)
    slopes = torch.autograd.grad((z1 * z2).sum(), list(squared.values()))
    return torch.cat([(s * w).detach().reshape(-1) for s, w in zip(slopes, squared.values(), strict=True)])


@pytest.mark.parametrize("masked", [False, True])
def test_norms_and_a_stream_that_is_added_to(masked):
    net, batch = dense.residual_net(torch.relu), dense.images()
    here = pruner(net, Px(), batches=[batch], bn_mode="running")
    if masked:
        generator = torch.Generator().manual_seed(5)
        here.units.keep_only(torch.rand(here.units.keep.shape, generator=generator) > 0.3)
    masks = {name: mask.double() for name, mask in here.units.masks().items()}
    found = here.scores()
    torch.testing.assert_close(found, residual_by_hand(net, batch[0], masks), atol=0, rtol=1e-11)


def test_at_birth_norms_scale_by_one():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-12), nn.ReLU(), nn.Linear(4, 2)).double()
    bare = nn.Sequential(net[0], nn.ReLU(), net[3])
    with torch.no_grad():
        net[0].bias.zero_()
    batch = dense.vectors(width=3, classes=2)
    assert torch.allclose(worth(net, Px(), batches=[batch]), worth(bare, Px(), batches=[batch]), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "pool",
    [lambda x: F.max_pool2d(x, 2, 1), nn.MaxPool2d(2, stride=1, padding=1), nn.AdaptiveMaxPool2d(2)],
    ids=["function", "module", "adaptive"],
)
def test_a_max_pool_lets_its_own_winner_through(pool):
    """z₁ by hand: after the pool of the network's own map there is the count of the position that won."""
    net = dense.Net(lambda n, x: n.head(pool(n.conv(x)).flatten(1)), conv=nn.Conv2d(1, 2, 2, bias=False))
    x = dense.images(5, 1, 4)[0]
    net.double()
    net.head = nn.Linear(pool(net.conv(x)).flatten(1).shape[1], 3).double()
    with torch.no_grad():
        own = net.conv(x)
        counts = F.conv2d(x.square(), torch.ones_like(net.conv.weight))
        won = torch.zeros_like(pool(own))
        for n, c, i, j in itertools.product(*map(range, won.shape)):
            place = (own[n, c] == pool(own)[n, c, i, j]).nonzero()
            assert len(place) == 1
            won[n, c, i, j] = counts[n, c, place[0, 0], place[0, 1]]
        z1 = won.flatten(1).sum(1).sum(0).expand(3)  # the head's weights are one
    squares = [net.conv.weight.detach().square().requires_grad_(), net.head.weight.detach().square().requires_grad_()]
    z2 = pool(F.conv2d(torch.ones_like(x[:1]), squares[0])).flatten(1) @ squares[1].T
    slopes = torch.autograd.grad((z1 * z2).sum(), squares)
    expected = torch.cat([(s * w).detach().reshape(-1) for s, w in zip(slopes, squares, strict=True)])
    found = worth(net, Px(), batches=[(x, torch.zeros(5, dtype=torch.long))])
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-12)


def test_every_layer_and_unit_carries_the_same():
    net, batch = dense.mlp(4, 7, 6, 3, bias=False, act=nn.ReLU), dense.vectors()
    parts = worth(net, Px(), batches=[batch]).split([28, 42, 18])
    parts = [part.view(p.shape) for part, p in zip(parts, net.parameters(), strict=True)]
    total = torch.stack([part.sum() for part in parts])
    torch.testing.assert_close(total, total[:1].expand(3), atol=0, rtol=1e-12)
    torch.testing.assert_close(parts[0].sum(1), parts[1].sum(0), atol=0, rtol=1e-12)


def test_where_all_outputs_are_reached_alike_it_is_synflow_of_the_squares():
    net, batch = dense.mlp(4, 7, 6, 3, bias=False, act=nn.ReLU), dense.vectors()
    found = worth(net, Px(), batches=[batch])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.square_()
    ratio = found / worth(net, SynFlow(), example_inputs=batch[0])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=0, rtol=1e-12)


def test_on_channels_it_is_what_goes_through_the_channel():
    net, batch = dense.mlp(4, 7, 3, bias=False, act=nn.ReLU), dense.vectors()
    of_weights = worth(net, Px(), batches=[batch])[:28].view(7, 4).sum(1)
    found = channels(net, Px(), "0", [batch])
    torch.testing.assert_close(found, of_weights, atol=0, rtol=1e-12)
    method = Method("px-s", Px(), Channels(), AtInit(), Exponential(3))
    net, batch = dense.residual_net(torch.relu), dense.images()
    options = {"example_inputs": batch[0], "batches": [batch], "loss": dense.cross_entropy}
    assert make_pruner(net, method, 0.5, **options).check(0).verification.exact


def test_labels_and_the_loss_itself_play_no_part():
    net, (x, y) = dense.residual_net(torch.relu), dense.images()
    first = worth(net, Px(), batches=[(x, y)])
    assert torch.equal(worth(net, Px(), batches=[(x, (y + 1) % 3)]), first)
    assert torch.equal(
        worth(net, Px(), batches=[(x, y)], loss=lambda model, batch: model(batch[0]).square().mean()), first
    )
    assert torch.equal(worth(net, Px(), batches=[[x]], loss=by_keyword), first)


def by_keyword(model, batch):
    return model(x=batch[0]).relu().mean()  # an activation of the loss is none of the network's


def test_everything_is_as_it_was():
    net = dense.residual_net(torch.relu).train()
    net.norm1.eval()
    net.head.weight.requires_grad_(False)
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    here = pruner(net, Px(), batches=[dense.images()], bn_mode="calibrated")
    before = dense.everything(net)
    first = here.scores()
    assert dense.everything(net) == before
    assert torch.equal(here.scores(), first)


def test_how_norms_are_in_the_scored_network_decides_what_is_open():
    net, batch = dense.residual_net(torch.relu), dense.images()
    found = {mode: worth(net, Px(), batches=[batch], bn_mode=mode) for mode in ("running", "calibrated")}
    assert not torch.equal(found["running"], found["calibrated"])


def test_rounds_never_revive_and_no_layer_is_emptied():
    net, batch = dense.mlp(8, 16, 16, 3, act=nn.ReLU), dense.vectors(width=8)
    method = Method("px", Px(), Weights(), AtInit(), Exponential(6))
    here = make_pruner(net, method, 0.9, example_inputs=batch[0], batches=[batch], loss=dense.cross_entropy)
    check_rounds(here, 6)


@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_paths_beyond_single_precision(units):
    net = dense.mlp(50, *[200] * 30, 10, bias=False, act=nn.ReLU).float()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    x = dense.vectors(4, 50)[0].float()
    scores = worth(net, Px(), units, batches=[(x, torch.zeros(4, dtype=torch.long))])
    assert torch.isfinite(scores).all()
    assert scores.max() > 3e38


@pytest.mark.parametrize("depth", [3, 12, 40])
def test_single_precision_loses_nothing_that_counts(depth):
    """z₁ is had in float32 where it fits (the paths of forty layers do not), and is the same but for rounding."""
    net, (x, y) = dense.mlp(4, *[64] * depth, 3, bias=False, act=nn.ReLU).float(), dense.vectors()
    scores = []
    for dtype in (torch.float32, torch.float64):
        here = pruner(copy.deepcopy(net).to(dtype), Px(), batches=[(x.float().to(dtype), y)])
        here.units.keep_only(torch.rand(here.units.keep.shape, generator=torch.Generator().manual_seed(2)) > 0.4)
        scores.append(here.scores())
    torch.testing.assert_close(scores[0], scores[1], atol=0, rtol=1e-4)


def test_paths_beyond_double_precision_are_refused():
    net, (x, y) = dense.mlp(4, 50, 50, 50, 3, act=nn.ReLU), dense.vectors()
    with pytest.raises(ScoreError, match="more than float64 can hold"):
        worth(net, Px(), batches=[(x * 1e152, y)])


class Inner(nn.Module):
    """A module that hides an operator of its own between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        *(torch.tanh, torch.sigmoid, F.gelu, F.elu, F.relu6, F.hardswish, torch.abs, F.softplus),
        *(lambda x: x.clamp_min(0), lambda x: x * x, lambda x: torch.where(x > 0, x, 0.5 * x), lambda x: x + 1),
        *(lambda x: F.layer_norm(x, (5,)), lambda x: x.softmax(1), lambda x: x * (x > 0)),
    ],
)
def test_a_function_that_makes_no_paths_is_refused_with_the_module_that_runs_it(function):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Inner(function)).double()
    before = dense.everything(net)
    with pytest.raises(ScoreError, match=r"`2` \(Inner\) is not linear"):
        worth(net, Px(), batches=[dense.vectors()])
    assert dense.everything(net) == before


@pytest.mark.parametrize(
    "module", [nn.GELU(), nn.SELU(), nn.ReLU6(), nn.LayerNorm(5), nn.GroupNorm(1, 5), nn.Softmax(1), nn.Threshold(0, 0)]
)
def test_a_module_that_makes_no_paths_is_refused_by_name(module):
    net = nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Identity(), module), nn.Linear(5, 3)).double()
    with pytest.raises(ScoreError, match=rf"`1.1` \({type(module).__name__}\)"):
        worth(net, Px(), batches=[dense.vectors()])


@pytest.mark.parametrize("function", [torch.neg, lambda x: x - 2 * x])
def test_a_sign_on_the_way_is_refused(function):
    """Linear, but its square is not what a network of squares computes."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Inner(lambda x: torch.relu(function(x)))).double()
    with pytest.raises(ScoreError, match=r"`2` \(Inner\) turns the sign"):
        worth(net, Px(), batches=[dense.vectors()])


def test_an_output_that_is_no_samples_is_refused():
    net = dense.Net(lambda n, x: n.layer(x).sum(), layer=nn.Linear(4, 3)).double()
    with pytest.raises(ScoreError, match=r"an output of shape \(\)"):
        worth(net, Px(), batches=[dense.vectors()], loss=lambda model, batch: model(batch[0]))


def test_the_networks_own_forward_is_named_as_such():
    net = dense.conv_norm_net(torch.tanh)
    with pytest.raises(ScoreError, match="The `forward` of Net is not linear"):
        worth(net, Px(), batches=[dense.images()])


def test_a_weight_that_is_computed_is_refused():
    net = nn.Sequential(nn.Linear(4, 5), nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)), nn.Linear(5, 3))
    with pytest.raises(ScoreError, match=r"`1` .* computes its weight"):
        worth(net.double(), Px(), batches=[dense.vectors()])


def test_a_loss_that_never_calls_the_network_is_told():
    net = dense.mlp(4, 5, 3, act=nn.ReLU)
    with pytest.raises(ScoreError, match="never called it"):
        worth(net, Px(), batches=[dense.vectors()], loss=lambda model, batch: next(model.parameters()).sum())


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.ReLU(inplace=True)),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(3, 3, 2, stride=2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_is_linear_makes_paths(between):
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        between,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    scores = worth(net.double(), Px(), batches=[dense.images()])
    assert bool((scores > 0).all())


def test_outputs_of_any_form():
    """Nothing is asked of the outputs but that their first dimension counts samples."""

    def forward(n, x):
        h = F.relu(n.body(x))
        return {"map": n.map(h), "more": (n.vector(h.mean((2, 3))), 3)}

    parts = {"body": nn.Conv2d(2, 3, 3), "map": nn.Conv2d(3, 1, 1), "vector": nn.Linear(3, 2)}
    net = dense.Net(forward, **parts).double()
    x = dense.images()[0]
    scores = worth(net, Px(), batches=[x], example_inputs=x, loss=lambda model, x: model(x)["map"].mean())
    assert bool((scores > 0).all())


def test_the_row():
    method = METHODS["px"]
    assert method == replace(METHODS["synflow"], name="px", score=Px())
    assert method.steps == Exponential(100)
