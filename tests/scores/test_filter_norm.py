"""L1 norms of filters."""

import torch

from earlycrop.scores import FilterNorm
from tests import dense
from tests.scores.worth import channels
from tests.small import small


def test_the_sum_over_a_filter_without_its_bias():
    net, x = dense.mlp(4, 6, 3), dense.vectors()[0]
    expected = torch.stack([sum(abs(v) for v in row) for row in net[0].weight.detach()])
    torch.testing.assert_close(channels(net, FilterNorm(), "0", None, example_inputs=x), expected, atol=1e-14, rtol=0)


def test_a_stream_sums_over_its_creators():
    net, x = small(), dense.images()[0]
    expected = net.stem.weight.detach().abs().sum((1, 2, 3)) + net.conv2.weight.detach().abs().sum((1, 2, 3))
    found = channels(net, FilterNorm(), "stem", None, example_inputs=x)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
