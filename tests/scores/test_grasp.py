"""GraSP with its true sign, the inverted one for comparison, and the temperature."""

import pytest
import torch
from torch import nn

from earlycrop import METHODS
from earlycrop.scores import Crop, Grasp
from tests import dense
from tests.scores.worth import best, pruner, worth

ONE = dense.f64([1, -1, 0.5]), dense.f64([0.25])


def test_the_true_sign_and_the_inverted_one():
    net = dense.scalar_net(3, 1, 0.5)
    true = worth(net, Grasp(temperature=1), None, [ONE], dense.half_square)
    inverted = worth(net, Grasp(temperature=1, inverted=True), None, [ONE], dense.half_square)
    torch.testing.assert_close(true, dense.f64(13.5, -4.5, 1.125), atol=1e-12, rtol=0)
    assert torch.equal(inverted, -true)
    assert best(true, 2) == {1, 3}
    assert best(inverted, 2) == {2, 3}
    assert best(inverted, 1) == {2}


def test_what_stays_in_the_model():
    for inverted, kept in ((False, [True, False, True]), (True, [False, True, True])):
        net = dense.scalar_net(3, 1, 0.5)
        pruner(net, Grasp(1, inverted), None, [ONE], dense.half_square, sparsity=1 / 3).check(0)
        assert (net.weight[0] != 0).tolist() == kept


def test_the_table_has_the_true_one_under_the_plain_name():
    assert METHODS["grasp"].score == Grasp(temperature=200.0, inverted=False)
    assert METHODS["grasp-inverted"].score == Grasp(temperature=200.0, inverted=True)


@pytest.mark.parametrize("temperature", [1.0, 7.0, 200.0])
def test_temperature_divides_the_logits(temperature):
    net, batch = dense.residual_net(), dense.images()

    def tempered(model, b):
        return nn.functional.cross_entropy(model(b[0]) / temperature, b[1])

    theta, g, hessian = dense.full_hessian(net.eval(), tempered, batch, dense.prunable(net))
    expected = theta * (hessian @ g)
    found = worth(net, Grasp(temperature), None, [batch])
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-8)
    assert (found < 0).any()


def test_without_its_sign_it_is_crop():
    net, batch = dense.mlp(4, 6, 3), dense.vectors()
    assert torch.equal(worth(net, Grasp(1), None, [batch]).abs(), worth(net, Crop(), None, [batch]))


@pytest.mark.parametrize("temperature", [0, -1])
def test_a_temperature_that_cannot_be_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        Grasp(temperature)
