"""Random scores: from the seed alone."""

import torch

from earlycrop.scores import Random
from earlycrop.units import Channels
from tests import dense
from tests.scores.worth import worth


def test_the_seed_decides_and_nothing_else():
    x = dense.vectors()[0]
    for units in (None, Channels()):
        first = worth(dense.mlp(4, 20, 3), Random(), units, example_inputs=x, seed=3)
        torch.rand(1)
        assert torch.equal(worth(dense.mlp(4, 20, 3), Random(), units, example_inputs=x, seed=3), first)
        assert not torch.equal(worth(dense.mlp(4, 20, 3), Random(), units, example_inputs=x, seed=4), first)


def test_they_are_uniform_and_leave_the_global_state_alone():
    net = dense.mlp(50, 100, 3)
    before = torch.get_rng_state()
    scores = worth(net, Random(), example_inputs=torch.zeros(1, 50).double())
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 <= scores.min() < 0.01
    assert 0.99 < scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.02
    assert scores.unique().numel() == scores.numel()
