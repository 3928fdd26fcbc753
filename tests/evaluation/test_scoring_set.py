"""However the scoring set is cut: the same scores, every sample once."""

import pytest
import torch
from torch import nn

from earlycrop.errors import ScoreError
from earlycrop.evaluation import Evaluation, MeanLoss, ScoringSet
from earlycrop.units import Channels, Weights
from tests import dense
from tests.evaluation.helpers import at_weights, cut, tagged, untagged_loss

SPLITS = [(64,), (16,) * 4, (20, 20, 20, 4)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("bn_mode", ["running", "calibrated"])
@pytest.mark.parametrize("unit", ["weights", "gates"])
def test_the_score_does_not_depend_on_how_the_set_is_cut(dtype, tolerance, bn_mode, unit):
    net, (x, y) = dense.residual_net().to(dtype), dense.images(64)
    batch = x.to(dtype), y
    units = (Weights() if unit == "weights" else Channels()).of(net, batch[0], None, ()).coordinates
    scores = []
    for sizes in SPLITS:
        given = cut(batch, *sizes)
        variants = [(dense.cross_entropy, given, micro_batch) for micro_batch in (None, 20, 7)]
        if bn_mode == "running":  # calibration of batches that do not join is by these batches
            variants.append((untagged_loss, tagged(given), None))
        for loss, batches, micro_batch in variants:
            at = Evaluation(MeanLoss(net, loss, batches, bn_mode, micro_batch), units)
            scores.append(at.values * at.hessian_gradient())
    for other in scores[1:]:
        assert (other - scores[0]).norm() <= tolerance * scores[0].norm()


def test_unequal_batches_would_be_noticed():
    """Without weights for 20, 20, 20 and 4 samples the test above must fail."""
    net, batch = dense.residual_net(), dense.images(64)
    whole = at_weights(net, dense.cross_entropy, [batch], bn_mode="running").gradient()
    parts = [
        at_weights(net, dense.cross_entropy, [part], bn_mode="running").gradient() for part in cut(batch, 20, 20, 20, 4)
    ]
    assert (torch.stack(parts).mean(0) - whole).norm() > 1e-3 * whole.norm()


def test_the_same_data_twice_changes_nothing():
    net, batch = dense.conv_norm_net(), dense.images()
    once = at_weights(net, dense.cross_entropy, [batch]).hessian_gradient()
    twice = at_weights(net, dense.cross_entropy, [batch, batch]).hessian_gradient()
    torch.testing.assert_close(once, twice, atol=1e-13, rtol=0)


def test_batches_may_be_dictionaries():
    net, (x, y) = dense.mlp(4, 5, 3), dense.vectors()
    expected = at_weights(net, dense.cross_entropy, [(x, y)]).hessian_gradient()
    loss = MeanLoss(
        net, lambda m, b: dense.cross_entropy(m, (b["x"], b["y"])), [{"x": x[:4], "y": y[:4]}, {"x": x[4:], "y": y[4:]}]
    )
    units = Weights().of(net, x, None, ())
    torch.testing.assert_close(Evaluation(loss, units.coordinates).hessian_gradient(), expected, atol=1e-13, rtol=0)


def test_texts_of_different_lengths_are_weighted_by_their_number():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).double()

    def loss(model, tokens):
        return nn.functional.cross_entropy(model(tokens)[:, -1], tokens[:, 0])

    batches = [torch.randint(7, (3, 5)), torch.randint(7, (1, 2))]
    at = Evaluation(MeanLoss(net, loss, batches), Weights().of(net, batches[0], None, ()).coordinates)
    parts = [torch.autograd.grad(loss(net, batch), net[1].weight)[0].reshape(-1) for batch in batches]
    torch.testing.assert_close(at.gradient(), 0.75 * parts[0] + 0.25 * parts[1], atol=1e-12, rtol=0)


def test_texts_of_different_lengths_are_cut_one_by_one():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)).double()
    sizes = []

    def loss(model, tokens):
        if torch.is_grad_enabled():  # else it is only asked how to ask
            sizes.append(tuple(tokens.shape))
        return nn.functional.cross_entropy(model(tokens)[:, -1], tokens[:, 0])

    batches = [torch.randint(7, (5, 5)), torch.randint(7, (2, 3))]
    coordinates = Weights().of(net, batches[0], None, ()).coordinates
    whole = Evaluation(MeanLoss(net, loss, batches, micro_batch=5), coordinates).gradient()
    sizes.clear()
    torch.testing.assert_close(Evaluation(MeanLoss(net, loss, batches, micro_batch=2), coordinates).gradient(), whole)
    assert sizes == [(1, 5), (2, 5), (2, 5), (2, 3)]


@pytest.mark.parametrize(("largest", "expected"), [(6, 2), (64, 16), (300, 30)])  # at most 32, in even pieces
def test_the_usual_micro_batch_is_a_part_of_the_given_batches(largest, expected):
    net, sizes = dense.conv_norm_net(), []

    def loss(model, batch):
        if torch.is_grad_enabled():  # else it is only asked how to ask
            sizes.append(len(batch[0]))
        return dense.cross_entropy(model, batch)

    at_weights(net, loss, [dense.images(largest)], bn_mode="running").gradient()
    assert max(sizes) == expected
    sizes.clear()
    at_weights(net, loss, [dense.images(largest)], bn_mode="batch").gradient()
    assert sizes == [largest]  # whose statistics are asked for


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 4), torch.zeros(0))]])
def test_an_empty_scoring_set_is_refused(batches):
    with pytest.raises(ScoreError, match="empty"):
        ScoringSet(batches)


def test_a_batch_without_samples_to_count_is_refused():
    with pytest.raises(ScoreError, match="first dimension"):
        ScoringSet(["text"])


def test_a_micro_batch_of_nothing_is_refused():
    with pytest.raises(ScoreError, match="micro_batch"):
        ScoringSet([dense.vectors()], micro_batch=0)


# The set as a collection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "micro_batch"), [(64, 20), (7, 3), (5, 8), (6, 1)])
def test_every_sample_is_worked_through_once_and_no_more_than_asked_at_a_time(samples, micro_batch):
    batch = torch.arange(samples), torch.arange(samples)
    pieces = list(ScoringSet([batch]).chunks(micro_batch))
    assert torch.equal(torch.cat([x for (x, _), _ in pieces]), batch[0])
    assert all(size == len(x) == len(y) for (x, y), size in pieces)
    assert max(size for _, size in pieces) <= micro_batch
