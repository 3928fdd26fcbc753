"""How layers share the budget."""

import pytest
import torch

from earlycrop.allocation import Global, Uniform
from earlycrop.budget import Budget
from earlycrop.units import Channels, Weights
from tests import dense


def test_global_leaves_scores_alone():
    scores, layer = torch.randn(9), torch.arange(9) // 3
    assert Global()(scores, layer) is scores


def test_uniform_is_the_rank_within_the_layer():
    scores = torch.tensor([5.0, 1.0, 3.0, 100.0, 200.0])
    layer = torch.tensor([0, 0, 0, 1, 1])
    expected = torch.tensor([2.5 / 3, 0.5 / 3, 1.5 / 3, 0.5 / 2, 1.5 / 2], dtype=torch.float64)
    torch.testing.assert_close(Uniform()(scores, layer), expected)


def test_equal_scores_rank_by_position():
    ranks = Uniform()(torch.zeros(6), torch.tensor([0, 1, 0, 1, 0, 1]))
    assert ranks[0] > ranks[2] > ranks[4]
    assert ranks[1] > ranks[3] > ranks[5]


def test_layers_need_not_lie_together():
    scores, layer = torch.rand(30), torch.randint(4, (30,))
    ranks = Uniform()(scores, layer)
    for number in range(4):
        inside = layer == number
        assert torch.equal(scores[inside].argsort(), ranks[inside].argsort())


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
def test_every_layer_loses_the_same_part_of_its_weights(sparsity):
    net = dense.mlp(20, 40, 60, 10)
    units = Weights().of(net, torch.zeros(1, 20).double(), None, ())
    scores = torch.cat([torch.rand(800), torch.rand(2400) * 1e-6, torch.rand(600) * 1e6])
    keep = units.choose(Budget(sparsity), scores, Uniform())
    for part in keep.split([800, 2400, 600]):
        assert abs(float((~part).double().mean()) - sparsity) <= 1 / part.numel()


def test_every_layer_loses_the_same_part_of_its_channels():
    net, x = dense.mlp(4, 20, 40, 3), dense.vectors()[0]
    units = Channels().of(net, x, None, ())
    scores = torch.rand(60)
    scores[units.structure.tensors["2.weight"].classes[0]] *= 1e-6
    units.keep_only(units.choose(Budget(0.5, "node"), scores, Uniform()))
    assert (net[0].out_features, net[2].out_features) == (10, 20)


def test_what_has_left_stays_last():
    scores = torch.tensor([1.0, -torch.inf, 2.0, -torch.inf])
    ranks = Uniform()(scores, torch.zeros(4, dtype=torch.int64))
    assert ranks[1] == ranks[3] == -torch.inf
