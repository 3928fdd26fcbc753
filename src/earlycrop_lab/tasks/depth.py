"""Depth from one image with early pruning: FCRN on NYU-Depth-v2's labelled pairs, or on rendered rooms."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from earlycrop_lab.data.pairs import PairBatch

NEAREST = 0.1
"""Metres. A depth that is predicted nearer, or behind the camera, counts as this one."""


def berhu(prediction: Float[Tensor, "n i j"], truth: Float[Tensor, "n i j"]) -> Float[Tensor, ""]:
    """The mean reverse Huber loss (Laina et al., 2016, eq. 2-3): |e| up to c, (e² + c²) / 2c beyond.

    c is a fifth of the batch's largest |e|, a constant in the loss's derivatives. Where the truth is 0, not known,
    nothing counts.
    """
    known = truth > 0
    error = ((prediction - truth) * known).abs()
    c = (0.2 * error.detach().max()).clamp(min=torch.finfo(error.dtype).tiny)
    loss = torch.where(error <= c, error, (error.square() + c.square()) / (2 * c))
    return loss.sum() / known.sum()


def mean_loss(model: nn.Module, batch: PairBatch) -> Tensor:
    """The reverse Huber loss of a batch."""
    images, depths = batch
    return berhu(model(images)[:, 0], depths)


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[PairBatch]) -> dict[str, float]:
    """How far predictions are from the truth (Eigen et al., 2014), over all places of all images whose depth is known.

    Predictions p are enlarged to the size of the truth d, bilinearly, and are `NEAREST` at least:

        rel    mean |p - d| / d
        rms    √ mean (p - d)²
        log10  mean |log10 p - log10 d|
        delta1, delta2, delta3   the part with max(p / d, d / p) < 1.25, 1.25², 1.25³

    The model's training flag is left as found.
    """
    training = model.training
    model.eval()
    totals = torch.stack([errors(model(x), y) for x, y in batches]).sum(0)
    model.train(training)
    rel, square, log10, *deltas = (totals[1:] / totals[0]).tolist()
    return dict(zip(METRICS, (rel, square**0.5, log10, *deltas), strict=True))


METRICS = ("rel", "rms", "log10", "delta1", "delta2", "delta3")


def errors(prediction: Float[Tensor, "n 1 i j"], truth: Float[Tensor, "n h w"]) -> Float[Tensor, "7"]:
    """How many depths are known, and over these the sums of what the metrics are means of, in float64."""
    size = (truth.shape[-2], truth.shape[-1])
    enlarged = F.interpolate(prediction, size, mode="bilinear", align_corners=False)[:, 0].clamp(min=NEAREST)
    known = truth > 0
    p, d = enlarged[known], truth[known]
    ratio = torch.maximum(p / d, d / p)
    terms = [(p - d).abs() / d, (p - d).square(), (p.log10() - d.log10()).abs(), *(ratio < 1.25**i for i in (1, 2, 3))]
    return torch.stack([known.sum().double(), *(term.sum(dtype=torch.float64) for term in terms)])
