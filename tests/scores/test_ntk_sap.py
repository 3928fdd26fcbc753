"""NTK-SAP: finite differences over the mask, draws that are fresh and repeatable, and a model that is as it was."""

import copy
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from earlycrop import METHODS, Method, Pruner
from earlycrop.scores import NtkSap
from earlycrop.scores.ntk_sap import _redrawn
from earlycrop.steps import Exponential
from earlycrop.structure.heads import HeadedAttention
from earlycrop.timing import AtInit
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import channels, check_rounds, pruner, worth

QUICK = NtkSap(resamplings=2, batch_size=5)


def draws(net: nn.Module, score: NtkSap, shape: tuple[int, ...], masks: dict[str, Tensor], seed: int = 0):
    """θ, θ + εξ and x of each draw, as the score is specified to draw them: a network with its norms set, noise, ξ."""
    left = int(sum(mask.sum() for mask in masks.values()))
    with torch.random.fork_rng():
        torch.manual_seed(Random(f"{seed}, {left}").getrandbits(32))
        for _ in range(score.resamplings):
            fresh = copy.deepcopy(net)
            for module in reversed(list(fresh.modules())):
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            x = torch.randn(score.batch_size, *shape, dtype=torch.float64)
            theta = {name: fresh.get_parameter(name).detach().clone() for name in masks}
            moved = {name: t + score.epsilon * torch.randn(t.shape, dtype=torch.float64) for name, t in theta.items()}
            fresh.train()
            for module in fresh.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            functional_call(fresh, {name: masks[name] * theta[name] for name in masks}, (x,))
            yield fresh.eval(), theta, moved, x


def by_differences(net: nn.Module, score: NtkSap, shape: tuple[int, ...], masks: dict[str, Tensor]) -> Tensor:
    """|∂/∂m| of the mean squared distance, an entry of m at a time."""
    drawn = list(draws(net, score, shape, masks))

    @torch.no_grad()
    def distance(masks: dict[str, Tensor]) -> float:
        total = 0.0
        for fresh, theta, moved, x in drawn:
            one, two = (functional_call(fresh, {n: masks[n] * t[n] for n in masks}, (x,)) for t in (theta, moved))
            total += float((one - two).square().sum()) / len(x)
        return total / len(drawn)

    slopes = []
    for name, mask in masks.items():
        for index in range(mask.numel()):
            sides = []
            for step in (1e-5, -1e-5):
                shifted = {n: m.clone() for n, m in masks.items()}
                shifted[name].view(-1)[index] += step
                sides.append(distance(shifted))
            slopes.append(abs(sides[0] - sides[1]) / 2e-5 * float(mask.view(-1)[index]))
    return dense.f64(*slopes)


def masks_of(here: Pruner) -> dict[str, Tensor]:
    return {name: mask.double() for name, mask in here.units.masks().items()}


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: dense.mlp(4, 3, 3), dense.vectors()[0]),
        (lambda: dense.mlp(4, 5, 2, act=nn.ReLU), dense.vectors()[0]),
        (lambda: dense.conv_norm_net(), dense.images()[0]),
        (lambda: dense.residual_net(torch.relu), dense.images()[0]),
    ],
    ids=["mlp", "relu", "conv-norm", "residual"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_finite_differences_over_the_mask(make, x, masked):
    net = make()
    here = pruner(net, QUICK, example_inputs=x)
    if masked:
        generator = torch.Generator().manual_seed(2)
        here.units.keep_only(torch.rand(here.units.keep.shape, generator=generator) > 0.4)
    expected = by_differences(net, QUICK, tuple(x.shape[1:]), masks_of(here))
    found = here.scores()
    torch.testing.assert_close(found, expected, atol=1e-7 * float(expected.max()), rtol=1e-5)
    assert not found[~here.units.keep].any()


def test_on_average_the_distance_is_the_trace_of_the_kernel():
    """f = Σ mθx: E(f(θ) − f(θ + εξ))² = ε² Σ m² E x², so each weight is worth 2 ε² E x² = 2 ε², whatever it is."""
    net = dense.scalar_net(5, -0.1, 0.0)
    found = worth(net, NtkSap(0.1, resamplings=50, batch_size=400), example_inputs=torch.ones(2, 3).double())
    torch.testing.assert_close(found / (2 * 0.1**2), torch.ones(3).double(), atol=0.5, rtol=0)


def test_the_networks_own_weights_play_no_part():
    net, x = dense.mlp(4, 6, 3), dense.vectors()[0]
    before = worth(net, QUICK, example_inputs=x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.linspace(-3, 3, parameter.numel()).view_as(parameter))
    assert torch.equal(worth(net, QUICK, example_inputs=x), before)


def test_everything_is_as_it_was():
    net = dense.residual_net(torch.relu).train()
    net.norm1.eval()
    net.head.weight.requires_grad_(False)
    net.stem.weight.grad = torch.ones_like(net.stem.weight)
    here = pruner(net, QUICK, example_inputs=dense.images()[0])
    before = dense.everything(net)
    first = here.scores()
    assert dense.everything(net) == before
    assert torch.equal(here.scores(), first)


def test_each_seed_and_each_round_has_its_own_draw():
    net, x = dense.mlp(4, 6, 3), dense.vectors()[0]
    scores = [worth(net, QUICK, example_inputs=x, seed=seed) for seed in (0, 1, 0)]
    assert torch.equal(scores[0], scores[2])
    assert not torch.isclose(scores[0], scores[1]).any()
    here = pruner(net, QUICK, example_inputs=x)
    keep = torch.ones_like(here.units.keep)
    keep[0] = (
        False  # the first row of the first layer loses one weight: its neighbours of other rows feel no other mask
    )
    here.units.keep_only(keep)
    assert not torch.isclose(here.scores(), scores[0])[keep].any()


def test_rounds_never_revive_and_no_layer_is_emptied():
    net, x = dense.mlp(8, 16, 16, 3, act=nn.ReLU), dense.vectors(width=8)[0]
    here = Pruner(net, Method("t", QUICK, METHODS["ntk-sap"].units, AtInit(), Exponential(6)), 0.9, example_inputs=x)
    check_rounds(here, 6)


def test_a_channel_feels_what_its_weights_do_together():
    """Without biases a hidden channel is its filter: the slope by its gate is the sum over the filter's masks."""
    net = dense.mlp(5, 7, 3, bias=False, act=nn.ReLU)
    x = torch.zeros(2, 5).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "abs", lambda tensor: tensor)  # the score's last step
        signed = worth(net, QUICK, example_inputs=x)[:35].view(7, 5).sum(1)
        found = channels(net, QUICK, "0", None, example_inputs=x)
    torch.testing.assert_close(found, signed, atol=0, rtol=1e-10)


def test_channels_of_a_network_with_norms():
    net = dense.residual_net(torch.relu)
    method = Method("ntk-sap-s", QUICK, Channels(), AtInit(), Exponential(3))
    report = Pruner(net, method, 0.5, example_inputs=dense.images()[0]).check(0)
    assert report.verification.exact


def test_attention_that_was_cut_is_drawn_anew_in_each_round():
    net = dense.Net(
        lambda n, x: n.head(n.attention(x, x, x, need_weights=False)[0].mean(1)),
        attention=nn.MultiheadAttention(8, 4, batch_first=True),
        head=nn.Linear(8, 3),
    ).double()
    method = Method("ntk-sap-s", QUICK, Channels(), AtInit(), Exponential(3))
    report = Pruner(net, method, 0.6, example_inputs=torch.randn(2, 5, 8).double()).check(0)
    assert report.verification.exact
    assert type(net.attention) is HeadedAttention
    drawn = _redrawn(net)
    assert not torch.isclose(drawn.attention.in_proj_weight, net.attention.in_proj_weight).any()
    assert not drawn.attention.in_proj_bias.any()
    assert not drawn.attention._qkv_same_embed_dim


def test_modules_draw_as_they_were_born_and_other_parameters_from_their_own_entries():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free = nn.Parameter(torch.arange(1.0, 101.0))
            self.masked = nn.Parameter(torch.tensor([0.0, 2.0, 0.0, 2.0]))
            self.zero = nn.Parameter(torch.zeros(4))
            self.layer = nn.Linear(400, 4)
            self.norm = nn.BatchNorm1d(4)
            self.attention = nn.MultiheadAttention(8, 2)

    net = Bare()
    with torch.no_grad():
        net.layer.weight.fill_(7)
        net.norm.weight.fill_(7)
        net.norm.running_var.fill_(7)
    before = dense.everything(net)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = _redrawn(net)
    assert dense.everything(net) == before
    assert set(drawn.free.tolist()) < set(net.free.tolist())
    assert not torch.equal(drawn.free, net.free)
    assert drawn.masked.tolist() == [2] * 4
    assert drawn.zero.tolist() == [0] * 4
    assert 0.04 < float(drawn.layer.weight.detach().abs().max()) <= 0.05  # U(±1/√400)
    assert drawn.norm.weight.tolist() == [1] * 4
    assert drawn.norm.running_var.tolist() == [1] * 4
    assert not torch.equal(drawn.attention.in_proj_weight, net.attention.in_proj_weight)
    assert not drawn.attention.out_proj.bias.any()  # the attention sets it after the linear layer


def test_in_single_and_half_precision():
    for dtype in (torch.float32, torch.bfloat16):
        net = dense.residual_net(torch.relu).to(dtype)
        scores = worth(net, NtkSap(), example_inputs=dense.images()[0].to(dtype))
        assert scores.dtype == torch.float32
        assert float((scores > 0).double().mean()) > 0.9


def test_tokens_are_those_of_the_example():
    """No noise looks like a token, so they are taken as they are, as often as is needed."""
    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).double()
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    scores = worth(net, NtkSap(resamplings=1, batch_size=5), example_inputs=tokens)
    assert scores.shape == (36,)
    assert bool((scores > 0).all())


def test_the_row():
    method = METHODS["ntk-sap"]
    assert method.score == NtkSap(epsilon=0.01, resamplings=5)
    assert method.steps == Exponential(20)
    report = Pruner(dense.mlp(5, 7, 3), method, 0.5, example_inputs=torch.zeros(1, 5).double()).check(0)
    assert report.samples == 0


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"resamplings": 0}, {"batch_size": 1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(NtkSap(), **wrong)
