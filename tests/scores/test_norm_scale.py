"""Scales of norms, summed over what a class of channels goes through."""

import pytest
import torch
from torch import nn

from earlycrop import EarlyCropError
from earlycrop.scores import NormScale
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import channels, classes, pruner
from tests.small import small


def unlike(net: nn.Module) -> nn.Module:
    for number, parameter in enumerate(net.parameters()):
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return net


def test_the_scale_of_the_only_norm():
    net, x = unlike(small()), dense.images()[0]
    assert torch.equal(channels(net, NormScale(), "conv1", None, example_inputs=x), net.norm1.weight.detach().abs())


def test_a_carrier_s_norm_counts_too():
    net, x = unlike(dense.depthwise_net()), dense.images()[0]
    found = channels(net, NormScale(), "expand", None, example_inputs=x)
    expected = net.norm1.weight.detach().abs() + net.norm2.weight.detach().abs()
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_channels_without_a_norm_leave_last():
    x = dense.vectors()[0]
    mixed = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    here = pruner(unlike(mixed.double()), NormScale(), Channels(), None, example_inputs=x)
    scores = here.scores()
    assert scores[classes(here, "0")].max() < scores[classes(here, "3")].min()


def test_a_network_without_norms_is_refused():
    net, x = dense.mlp(4, 6, 3), dense.vectors()[0]
    with pytest.raises(EarlyCropError, match="ranks channels by their norms, and this Sequential has no norm"):
        pruner(net, NormScale(), Channels(), None, example_inputs=x)
