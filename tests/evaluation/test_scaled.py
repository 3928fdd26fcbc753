"""Norms that divide their whole input by one number while scoring, against networks where that is written out."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from earlycrop.evaluation import CALIBRATION, Evaluation, MeanLoss
from earlycrop.units import Channels, Weights
from tests import dense
from tests.evaluation.helpers import Noisy, cut, lived_in


class Divided(nn.Module):
    """γ x / r + β, with r the root mean square of all that came in first."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.number = norm.weight, norm.bias, None

    def forward(self, x: Tensor) -> Tensor:
        if self.number is None:
            self.number = math.sqrt(float((x.detach() ** 2).sum()) / x.numel())
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.weight.view(shape) * (x / self.number) + self.bias.view(shape)


def by_hand(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose norms divide by numbers, taken one layer after the other from these inputs."""
    twin = copy.deepcopy(net).eval()
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            path, _, attribute = name.rpartition(".")
            setattr(twin.get_submodule(path), attribute, Divided(module))
    twin(x)
    return twin


def vector_net() -> nn.Module:
    return dense.awake(
        nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        )
    )


NETS = [dense.conv_norm_net, dense.residual_net, dense.depthwise_net, dense.concat_net, vector_net]


def data(make, samples: int = 10) -> tuple[Tensor, Tensor]:
    return dense.vectors(samples) if make is vector_net else dense.images(samples)


def at(net: nn.Module, batches, units=None, **options) -> Evaluation:
    found = (units or Weights()).of(net, batches[0][0], None, ())
    return Evaluation(MeanLoss(net, dense.cross_entropy, batches, bn_mode="scaled", **options), found.coordinates)


@pytest.mark.parametrize("make", NETS)
def test_weights_are_scored_as_in_the_network_that_divides(make):
    net, batch = make(), data(make)
    here, twin = at(net, [batch], micro_batch=3), by_hand(net, batch[0])
    _, g, hessian = dense.full_hessian(twin, dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(here.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(here.hessian_gradient(), hessian @ g, atol=1e-11, rtol=0)


@pytest.mark.parametrize("make", NETS)
def test_gates_are_scored_as_in_the_network_that_divides(make):
    net, batch = make(), data(make)
    units = Channels().of(net, batch[0], None, ())
    twin = by_hand(net, batch[0])
    sites = {gate.where: gate.classes for gate in units.structure.gates}
    assert sites
    g, hessian = dense.gate_hessian(twin, dense.cross_entropy, batch, sites, len(units.keep))
    here = Evaluation(MeanLoss(net, dense.cross_entropy, [batch], "scaled", 4), units.coordinates)
    torch.testing.assert_close(here.gradient(), g, atol=1e-12, rtol=0)
    torch.testing.assert_close(here.hessian_gradient(), hessian @ g, atol=1e-11, rtol=0)


def test_the_numbers_are_those_of_the_first_samples_of_the_set():
    """However they were batched, and however large the set is."""
    x, y = dense.images(CALIBRATION + 40)
    x[CALIBRATION:] *= 3
    net = dense.conv_norm_net()
    twin = by_hand(net, x[:CALIBRATION])
    expected = torch.autograd.grad(
        dense.cross_entropy(twin, (x, y)), [twin.get_parameter(name) for name in dense.prunable(net)]
    )
    flat = torch.cat([one.reshape(-1) for one in expected])
    for batches in ([(x, y)], cut((x, y), 100, 100, 96)):
        torch.testing.assert_close(at(net, batches).gradient(), flat, atol=1e-12, rtol=0)


@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_the_score_does_not_depend_on_how_the_set_is_cut(units):
    net, batch = dense.residual_net(), dense.images(64)
    scores = [
        at(net, cut(batch, *sizes), units, micro_batch=micro_batch).hessian_gradient()
        for sizes in ((64,), (16,) * 4, (20, 20, 20, 4))
        for micro_batch in (None, 20, 7)
    ]
    for other in scores[1:]:
        assert (other - scores[0]).norm() <= 1e-12 * scores[0].norm()


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_bit_for_bit(fails):
    net, batch = lived_in(), dense.images()
    before, calls = dense.everything(net), []

    def loss(model, batch):
        calls.append([module.training for module in model.modules()])
        torch.rand(3)
        if fails and len(calls) > 2:
            raise KeyboardInterrupt
        return dense.cross_entropy(model, batch)

    found = Evaluation(MeanLoss(net, loss, [batch], "scaled", 2), Weights().of(net, batch[0], None, ()).coordinates)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            found.hessian_gradient()
    else:
        found.hessian_gradient()
    assert dense.everything(net) == before
    assert not any(flag for flags in calls for flag in flags)  # dropout is off, and statistics are not the batch's


def test_what_a_norm_has_seen_does_not_matter():
    net, batch = dense.conv_norm_net(), dense.images()
    first = at(net, [batch]).hessian_gradient()
    with torch.no_grad():
        net.norm1.running_mean.normal_()
        net.norm1.running_var.uniform_(1, 9)
        net.norm2.num_batches_tracked.zero_()
    assert torch.equal(at(net, [batch]).hessian_gradient(), first)


class Grouped(nn.Module):
    """Norms that keep no statistics, of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)
        self.norm3, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.head(self.norm3(x.mean((2, 3))))


@pytest.mark.parametrize("make", [Grouped, lambda: dense.mlp(4, 5, 3)])
def test_a_network_without_running_statistics_is_unaffected(make):
    net = make().double()
    batch = dense.images() if isinstance(net, Grouped) else dense.vectors()
    units = Weights().of(net, batch[0], None, ()).coordinates
    found = [
        Evaluation(MeanLoss(net, dense.cross_entropy, [batch], mode), units).hessian_gradient()
        for mode in ("scaled", "running", "calibrated")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def deep(gain: float) -> nn.Sequential:
    """Twelve convolutions whose signal would grow or fade by far."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inside in [2, *[6] * 11]:
        layers += [nn.Conv2d(inside, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for number, module in enumerate(net):
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(gain)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.fill_((-1) ** number * (0.5 + number / 10))
    return net


@pytest.mark.parametrize("gain", [1e-2, 1.0, 30.0])
def test_the_signal_neither_grows_nor_fades(gain):
    """Behind every norm the root mean square is |γ|, where γ is one number and β zero."""
    net, batch = deep(gain), dense.images(16)
    loss, seen = MeanLoss(net, dense.cross_entropy, [batch], "scaled"), {}
    norms = [module for module in net if isinstance(module, nn.BatchNorm2d)]
    with loss.scoring([]), torch.no_grad():
        handles = [
            n.register_forward_hook(lambda m, _, out: seen.update({m: out.square().mean().sqrt()})) for n in norms
        ]
        net(batch[0])
    for handle in handles:
        handle.remove()
    assert len(seen) == 12
    for norm, size in seen.items():
        assert float(size) == pytest.approx(abs(float(norm.weight.detach()[0])), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4])
def test_a_norm_that_nothing_or_almost_nothing_reaches_gives_no_nan(dtype, size):
    """A layer of zeros (all its weights may have left) is divided by something, and stays zero."""
    net = Noisy().to(dtype)
    with torch.no_grad():
        net.conv.weight.mul_(size)
    x, y = dense.images()
    loss = MeanLoss(net, dense.cross_entropy, [(x.to(dtype), y)], "scaled")
    with loss.scoring([]), torch.no_grad():
        out = net.norm(net.conv(x.to(dtype)))
    assert bool(torch.isfinite(out).all())
    assert (size == 0) == (not out.any())
    assert float(out.square().mean()) <= 1 + 1e-3
    here = Evaluation(loss, Weights().of(net, x.to(dtype), None, ()).coordinates)
    assert bool(torch.isfinite(here.hessian_gradient()).all())


def test_one_number_keeps_the_proportions_of_channels_and_calibration_does_not():
    net, batch = dense.conv_norm_net(), dense.images(16)
    with torch.no_grad():
        net.norm1.weight.fill_(1)
        net.norm1.bias.zero_()
        net.conv1.weight[2] *= 10
    created = net.conv1(batch[0]).detach().square().mean((0, 2, 3)).sqrt()
    sizes = {}
    for mode in ("scaled", "calibrated"):
        with MeanLoss(net, dense.cross_entropy, [batch], mode).scoring([]), torch.no_grad():
            out = net.norm1(net.conv1(batch[0]))
        sizes[mode] = out.square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(sizes["scaled"] / sizes["scaled"][0], created / created[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(sizes["calibrated"], torch.ones(4).double(), atol=0.02, rtol=0)
