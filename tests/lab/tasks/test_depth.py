"""Depth: the loss and the errors against hand-computed cases and a loop over pixels."""

import math

import pytest
import torch
from torch import nn

from earlycrop_lab.tasks.depth import NEAREST, Depth, berhu, errors, evaluate, mean_loss


class Constant(nn.Module):
    """Predicts the same map of depths for every image."""

    def __init__(self, depths: torch.Tensor):
        super().__init__()
        self.depths = depths

    def forward(self, x):
        return self.depths.expand(len(x), 1, -1, -1)


def slow_berhu(prediction, truth) -> float:
    known = [(p - d).abs() for p, d in zip(prediction.flatten(), truth.flatten(), strict=True) if d > 0]
    c = max(known) / 5
    return sum(e if e <= c else (e * e + c * c) / (2 * c) for e in known) / len(known)


def slow_metrics(prediction, truth) -> list[float]:
    pairs = [(max(p, NEAREST), d) for p, d in zip(prediction, truth, strict=True) if d > 0]
    n = len(pairs)
    return [
        math.sqrt(sum((p - d) ** 2 for p, d in pairs) / n),
        sum(abs(p - d) / d for p, d in pairs) / n,
        sum(abs(math.log10(p) - math.log10(d)) for p, d in pairs) / n,
        *(sum(max(p / d, d / p) < 1.25**i for p, d in pairs) / n for i in (1, 2, 3)),
    ]


def test_berhu_by_hand():
    """Errors 5, 1, 0.5, 2 and one of an unknown depth: c = 1; 13, 1, 0.5, 2.5."""
    prediction, truth = torch.tensor([[[6.0, 1.0, 2.5, 5.0, 9.0]]]), torch.tensor([[[1.0, 2.0, 3.0, 3.0, 0.0]]])
    assert berhu(prediction, truth).item() == pytest.approx((13 + 1 + 0.5 + 2.5) / 4)


def test_berhu_against_a_loop_over_pixels():
    prediction, truth = 5 * torch.rand(2, 3, 4, 5, dtype=torch.float64) - 1
    truth = truth.clamp(min=0)
    assert (truth == 0).any()
    assert berhu(prediction, truth).item() == pytest.approx(slow_berhu(prediction, truth).item(), rel=1e-12)


def test_berhu_has_the_slope_of_its_pieces_and_is_smooth_between_them():
    """sign(e) up to c, e / c beyond; c does not move."""
    prediction = torch.tensor([[[6.0, 3.0, 2.5]]], dtype=torch.float64, requires_grad=True)
    berhu(prediction, torch.tensor([[[1.0, 4.0, 2.0]]], dtype=torch.float64)).backward()
    torch.testing.assert_close(3 * prediction.grad, torch.tensor([[[5.0, -1.0, 1.0]]], dtype=torch.float64))


def test_berhu_of_a_perfect_prediction_is_nothing_and_has_no_slope():
    prediction = torch.ones(1, 2, 2, requires_grad=True)
    loss = berhu(prediction, torch.ones(1, 2, 2))
    loss.backward()
    assert loss.item() == 0
    assert not prediction.grad.any()


def test_the_loss_of_a_batch_is_that_of_its_predictions():
    depths = 1 + torch.rand(2, 3, 4)
    found = mean_loss(Constant(torch.full((3, 4), 2.0)), (torch.zeros(2, 3, 6, 8), depths))
    assert torch.equal(found, berhu(torch.full((2, 3, 4), 2.0), depths))


def test_errors_by_hand():
    """Predictions 2, 2, 2 of 2, 1, 4, and one of an unknown depth."""
    found = evaluate(
        Constant(torch.full((1, 1), 2.0)), [(torch.zeros(1, 3, 4, 4), torch.tensor([[[2.0, 1.0], [4.0, 0.0]]]))]
    )
    assert found["rel"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert found["rms_metres"] == pytest.approx(math.sqrt((0 + 1 + 4) / 3))
    assert found["log10"] == pytest.approx(2 * math.log10(2) / 3)
    assert [found[f"delta{i}"] for i in (1, 2, 3)] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("ratio", "deltas"), [(1.2, (1, 1, 1)), (1.25, (0, 1, 1)), (1.9, (0, 0, 1)), (2, (0, 0, 0))])
def test_deltas_count_ratios_below_powers_of_five_quarters(ratio, deltas):
    for prediction, truth in ((ratio, 1.0), (1.0, ratio)):
        model = Constant(torch.full((2, 2), prediction, dtype=torch.float64))
        found = evaluate(model, [(torch.zeros(1, 3, 4, 4), torch.full((1, 2, 2), truth, dtype=torch.float64))])
        assert tuple(found[f"delta{i}"] for i in (1, 2, 3)) == deltas


def test_errors_against_a_loop_over_pixels_of_all_images_together():
    """Batches of different sizes and images with different numbers of known depths: a pixel is a pixel."""
    generator = torch.Generator().manual_seed(0)
    prediction = 4 * torch.rand(1, 1, 5, 6, generator=generator, dtype=torch.float64) - 0.3
    truths = [6 * torch.rand(n, 5, 6, generator=generator, dtype=torch.float64) - 1 for n in (3, 1)]
    truths = [truth.clamp(min=0) for truth in truths]
    found = evaluate(Constant(prediction), [(torch.zeros(len(truth), 3, 4, 4), truth) for truth in truths])
    flat = torch.cat(truths).flatten().tolist()
    expected = slow_metrics(prediction.flatten().tolist() * 4, flat)
    assert list(found) == [metric.name for metric in Depth.metrics]
    assert list(found.values()) == pytest.approx(expected, rel=1e-12)


def test_predictions_are_enlarged_to_the_truth():
    """Bilinearly, between the middles of places: 1 and 3 become 1, 1.5, 2.5, 3."""
    truth = torch.tensor([[[1.0, 1.5, 2.5, 3.0]]])
    count, rel, *_ = errors(torch.tensor([[[[1.0, 3.0]]]]), truth).tolist()
    assert (count, rel) == (4, 0)


def test_an_evaluation_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, [(torch.randn(2, 3, 4, 4), torch.ones(2, 8, 8))])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
