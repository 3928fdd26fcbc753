"""Large weights stay; a class of channels is as large as the root mean square of what creates it."""

import torch

from earlycrop.scores import Magnitude
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import channels, worth


def test_of_a_weight():
    net = dense.scalar_net(3, -1, 0.5)
    assert worth(net, Magnitude(), example_inputs=torch.ones(1, 3).double()).tolist() == [3, 1, 0.5]


def test_of_a_channel_with_its_bias():
    net, x = dense.mlp(4, 6, 3), dense.vectors()[0]
    entries = torch.cat([net[0].weight, net[0].bias[:, None]], 1)
    expected = entries.square().mean(1).sqrt().detach()
    found = channels(net, Magnitude(), "0", None, example_inputs=x)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_of_a_stream_with_two_creators():
    net, x = dense.residual_net(), dense.images()[0]
    entries = torch.cat([net.stem.weight.flatten(1), net.conv2.weight.flatten(1)], 1)
    expected = entries.square().sum(1).sqrt().detach() / (18 + 27) ** 0.5
    found = channels(net, Magnitude(), "stem", None, example_inputs=x)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_a_carrier_adds_nothing():
    net, x = dense.depthwise_net(), dense.images()[0]
    before = worth(net, Magnitude(), Channels(), example_inputs=x)
    with torch.no_grad():
        net.depth.weight.mul_(100)
        net.norm1.weight.mul_(100)
    assert torch.equal(worth(net, Magnitude(), Channels(), example_inputs=x), before)
