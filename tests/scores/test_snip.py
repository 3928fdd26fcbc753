"""SNIP, and SNAP which is the same on channels."""

import pytest
import torch
from torch import nn

from earlycrop.scores import Snip
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import best, channels, worth


def test_by_hand():
    one = dense.f64([1, 2]), dense.f64([1])
    assert worth(dense.scalar_net(1, 1), Snip(), None, [one], dense.half_square).tolist() == [2, 4]
    two = dense.f64([1, -1, 0.5]), dense.f64([0.25])
    scores = worth(dense.scalar_net(3, 1, 0.5), Snip(), None, [two], dense.half_square)
    torch.testing.assert_close(scores, dense.f64(6, 2, 0.5), atol=1e-12, rtol=0)
    assert best(scores, 2) == {1, 2}


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_absolute_value_comes_after_the_sum(micro_batch):
    """Two samples whose gradients cancel: |mean| is 0 where the mean of |.| is 1."""
    batch = dense.f64([1, 0], [1, 0]), dense.f64([2], [0])
    scores = worth(dense.scalar_net(1, 1), Snip(), None, [batch], dense.half_square, micro_batch=micro_batch)
    assert scores.tolist() == [0, 0]


def test_against_autograd_on_every_weight():
    net, batch = dense.residual_net(), dense.images()
    theta, g, _ = dense.full_hessian(net.eval(), dense.cross_entropy, batch, dense.prunable(net))
    torch.testing.assert_close(worth(net, Snip(), None, [batch]), (theta * g).abs(), atol=1e-12, rtol=0)


def test_on_channels_it_is_the_sum_over_filter_and_bias():
    net, batch = dense.mlp(4, 6, 3), dense.vectors()
    w, b = net[0].weight, net[0].bias
    gw, gb = torch.autograd.grad(dense.cross_entropy(net, batch), (w, b))
    expected = ((w * gw).sum(1) + b * gb).abs().detach()
    torch.testing.assert_close(channels(net, Snip(), "0", [batch]), expected, atol=1e-12, rtol=0)


def test_on_channels_behind_a_norm_it_is_scale_and_shift():
    net, batch = dense.conv_norm_net(), dense.images()
    gamma, beta = net.norm1.weight, net.norm1.bias
    gg, gb = torch.autograd.grad(dense.cross_entropy(net.eval(), batch), (gamma, beta))
    expected = (gamma * gg + beta * gb).abs().detach()
    torch.testing.assert_close(channels(net, Snip(), "conv1", [batch]), expected, atol=1e-12, rtol=0)


def test_a_scaled_loss_scales_the_scores():
    net, batch = dense.mlp(4, 6, 3), dense.vectors()
    for units in (None, Channels()):
        one = worth(net, Snip(), units, [batch])
        scaled = worth(net, Snip(), units, [batch], lambda m, b: -3 * dense.cross_entropy(m, b))
        torch.testing.assert_close(scaled, 3 * one, atol=1e-12, rtol=0)


def test_a_dead_unit_is_worth_nothing():
    net, batch = dense.mlp(4, 6, 3, act=nn.ReLU), dense.vectors(12)
    with torch.no_grad():
        net[0].bias[2] = -100
    assert channels(net, Snip(), "0", [batch])[2] == 0
