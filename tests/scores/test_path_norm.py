"""The strength of paths through a channel, against loops over these paths."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from earlycrop.scores import PathNorm
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import channels, classes, pruner
from tests.small import small


def strength(*factors: list[Tensor]) -> float:
    """√ of the mean over all paths of the squared product along them; a path has an entry of each factor."""
    entries = [[float(value) for tensor in factor for value in tensor.detach().reshape(-1)] for factor in factors]
    paths = list(itertools.product(*entries))
    return math.sqrt(sum(math.prod(path) ** 2 for path in paths) / len(paths))


def worth_of(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    return channels(net, PathNorm(), layer, None, example_inputs=x)


def close(found: Tensor, expected: list[float]) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, dense.f64(*expected), atol=1e-12, rtol=1e-12)


def flattened() -> nn.Module:
    """conv - norm - flatten - linear: four columns read each channel."""
    parts = {"conv": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm2d(3), "head": nn.Linear(12, 2)}
    return dense.awake(dense.Net(lambda n, x: n.head(torch.relu(n.norm(n.conv(x))).flatten(1)), **parts))


def test_a_convolution_its_norm_and_what_reads_it():
    net, x = flattened(), dense.images()[0]
    expected = [
        strength([net.conv.weight[k], net.conv.bias[k]], [net.norm.weight[k]], [net.head.weight[:, 4 * k : 4 * k + 4]])
        for k in range(3)
    ]
    close(worth_of(net, "conv", x), expected)


def test_without_norms_there_are_two_factors():
    net, x = dense.mlp(4, 5, 3), dense.vectors()[0]
    expected = [strength([net[0].weight[k], net[0].bias[k]], [net[2].weight[:, k]]) for k in range(5)]
    close(worth_of(net, "0", x), expected)


def test_a_residual_stream_has_all_its_writers_norms_and_readers():
    net, x = dense.residual_net(), dense.images()[0]
    stream = [
        strength(
            [net.stem.weight[k], net.conv2.weight[k]],
            [net.norm0.weight[k], net.norm2.weight[k]],
            [net.conv1.weight[:, k], net.head.weight[:, k]],
        )
        for k in range(4)
    ]
    inner = [strength([net.conv1.weight[k]], [net.norm1.weight[k]], [net.conv2.weight[:, k]]) for k in range(3)]
    close(worth_of(net, "stem", x), stream)
    close(worth_of(net, "conv1", x), inner)


def test_a_writer_without_a_norm_is_one_of_the_writers():
    net, x = small(), dense.images()[0]
    with torch.no_grad():
        net.norm0.weight.uniform_(-2, 2)
    expected = [
        strength(
            [net.stem.weight[k], net.conv2.weight[k], net.conv2.bias[k]],
            [net.norm0.weight[k]],
            [net.conv1.weight[:, k], net.head.weight[:, k]],
        )
        for k in range(8)
    ]
    close(worth_of(net, "stem", x), expected)


def test_a_depthwise_layer_reads_what_it_carries_on():
    net, x = dense.depthwise_net(), dense.images()[0]
    carried = [
        strength(
            [net.expand.weight[k]],
            [net.norm1.weight[k], net.norm2.weight[k]],
            [net.depth.weight[k], net.project.weight[:, k]],
        )
        for k in range(5)
    ]
    last = [strength([net.project.weight[k]], [net.norm3.weight[k]], [net.head.weight[:, k]]) for k in range(3)]
    close(worth_of(net, "expand", x), carried)
    close(worth_of(net, "project", x), last)


def test_branches_side_by_side_are_read_by_their_own_columns():
    net, x = dense.concat_net(), dense.images()[0]
    left = [strength([net.left.weight[k], net.left.bias[k]], [net.merge.weight[:, k]]) for k in range(3)]
    right = [
        strength([net.right.weight[k], net.right.bias[k]], [net.norm.weight[k]], [net.merge.weight[:, 3 + k]])
        for k in range(2)
    ]
    close(worth_of(net, "left", x), left)
    close(worth_of(net, "right", x), right)


def test_permuting_channels_permutes_scores():
    net, x = dense.conv_norm_net(), dense.images()[0]
    before, others = worth_of(net, "conv1", x), worth_of(net, "conv2", x)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for tensor in (net.conv1.weight, net.norm1.weight, net.norm1.bias):
            tensor.copy_(tensor[order].clone())
        net.conv2.weight.copy_(net.conv2.weight[:, order].clone())
    torch.testing.assert_close(worth_of(net, "conv1", x), before[order], atol=1e-14, rtol=0)
    torch.testing.assert_close(worth_of(net, "conv2", x), others, atol=1e-14, rtol=0)
    assert before.unique().numel() == 4


@pytest.mark.parametrize("where", ["conv1.weight", "norm1.weight", "conv2.weight"])
def test_a_path_that_is_cut_anywhere_is_worth_nothing(where):
    net, x = dense.conv_norm_net(), dense.images()[0]
    with torch.no_grad():
        net.get_parameter(where)[slice(None) if where == "conv2.weight" else 2, *([2] * (where == "conv2.weight"))] = 0
    found = worth_of(net, "conv1", x)
    assert found[2] == 0
    assert int((found > 0).sum()) == 3


def test_scaling_a_channel_up_and_its_readers_down_changes_nothing_but_for_the_bias():
    """Positive homogeneity: a score of paths sees the function, not how it is written."""
    parts = {"conv": nn.Conv2d(2, 4, 3, bias=False), "head": nn.Linear(4, 3)}
    net = dense.Net(lambda n, x: n.head(torch.relu(n.conv(x)).mean((2, 3))), **parts).double()
    x = dense.images()[0]
    before, outputs = worth_of(net, "conv", x), net(x)
    with torch.no_grad():
        net.conv.weight[1] *= 8
        net.head.weight[:, 1] /= 8
    torch.testing.assert_close(net(x), outputs)
    torch.testing.assert_close(worth_of(net, "conv", x), before, atol=1e-14, rtol=0)


def test_it_needs_no_data_and_the_strongest_stay():
    net, x = flattened(), dense.images()[0]
    here = pruner(net, PathNorm(), Channels(), None, example_inputs=x, sparsity=0.3)
    assert not PathNorm().needs_data
    scores = worth_of(net, "conv", x)
    assert torch.equal(here.scores()[classes(here, "conv")], scores)
    strongest = net.conv.weight[scores.argsort(descending=True)[:2].sort().values].clone()
    here.check(0)
    assert torch.equal(net.conv.weight, strongest)
