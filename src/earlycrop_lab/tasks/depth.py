"""Depth from one image with early pruning: FCRN on NYU-Depth-v2's labelled pairs, or on rendered rooms.

The recipe `paper` is SGD with momentum, whose rate is halved twice (Laina et al., 2016); the usual one is Adam with
One-Cycle. Either rate is constant until the cut, and its schedule covers what then remains of a fixed budget. The main
metric is the root mean square error after the last epoch, in metres. Test pairs are used for nothing else: batches for
scoring come from the training split.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from earlycrop_lab.data.depths import load
from earlycrop_lab.data.pairs import PairAugmentation, PairBatch, Pairs, averaged
from earlycrop_lab.measure.evaluating import evaluating
from earlycrop_lab.models.fcrn import Fcrn, depth_size
from earlycrop_lab.models.seeded import seeded
from earlycrop_lab.tasks.descriptions.depth import Depth
from earlycrop_lab.tasks.schedule import Schedule
from earlycrop_lab.tasks.session import Session, Setup, Trained


@dataclass(frozen=True)
class Recipe:
    """The schedule of the learning rate after the cut, and the augmentation of training pairs."""

    schedule: Literal["one_cycle", "halving"]
    augmentation: PairAugmentation


RECIPES = {
    "usual": Recipe("one_cycle", PairAugmentation(flip=True)),
    "paper": Recipe("halving", PairAugmentation(zoom=1.5, flip=True, colour=0.2)),
}
"""Laina et al. also rotate images, by at most 5 degrees. The usual recipe, for short training, does not zoom: after 6
epochs on NYU-Depth-v2 (width 16, 76x57, batches of 8, n = 1) zooming had cost 0.1 m of rms error."""

SHOWN = 3
"""The number of test pairs that a run keeps for its figure."""


def train(d: Depth, *, root: str | None = None, device: torch.device | str = "cpu", **around: Any) -> Trained:
    """Train as described and measure.

    Args:
        d: The description.
        root: The folder of the data sets.
        device: The device to train on.
        around: See `Session`.

    Raises:
        ValueError: The data, the network and the method do not fit together, or the loss is no longer finite.
        OSError: The data cannot be read or downloaded.
    """
    device = torch.device(device)
    setup = prepare(d, root, device)
    model = setup.model
    optimizer = setup.optimizer(model)
    schedule = Schedule(optimizer, d.learning_rate, RECIPES[d.recipe].schedule)
    with Session(d, setup, optimizer, schedule=schedule, device=device, **around) as session:
        for epoch in session.epochs():
            with session.looking():
                session.pruner.check(epoch)
            with session.training():
                for images, depths in setup.batches.epoch(epoch):
                    with session.step(images, depths):
                        optimizer.zero_grad()
                        loss = mean_loss(model, (images, depths))
                        loss.backward()
                        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
                        optimizer.step()
                    session.note(loss, len(images))
            session.evaluate()
    return session.trained()


def prepare(d: Depth, root: str | None, device: torch.device) -> Setup:
    """The network and the pairs on the device, augmented batch by batch."""
    data = load(d.data, root, size=d.image_size, depth_size=depth_size(*d.image_size)).to(device)
    data = replace(data, augmentation=RECIPES[d.recipe].augmentation)
    if d.train_size is not None:
        data = data.subset(d.train_size)
    batches = data.batches(d.batch_size, seed=d.seed)
    scoring = data.scoring_batches(seed=d.seed, batch_size=batches.batch_size)
    if d.max_steps is not None:
        batches, scoring = replace(batches, most=d.max_steps), scoring[: d.max_steps]
        data = data.tested_on(d.max_steps * d.batch_size)
    assert d.width is not None
    return Setup(
        model=network(d.width, d.seed).to(device),
        batches=batches,
        scoring=scoring,
        loss=mean_loss,
        evaluate=lambda model: evaluate(model, data.test_batches()),
        optimizer=lambda model: optimizer_of(d, model),
        inputs=data.plain(data.train_images[: d.batch_size]),
        data=str(data),
        samples=lambda model: samples(model, data),
        in_width=lambda width: network(width, d.seed),
        micro_batch=batches.batch_size,  # the loss is no mean over samples: its c depends on the whole batch
    )


def optimizer_of(d: Depth, model: nn.Module) -> Optimizer:
    """The optimizer of the description's recipe."""
    if d.recipe == "paper":
        return torch.optim.SGD(model.parameters(), d.learning_rate, momentum=0.9, weight_decay=d.weight_decay)
    return torch.optim.Adam(model.parameters(), d.learning_rate, weight_decay=d.weight_decay)


def network(width: int, seed: int) -> nn.Module:
    """The network at its initial weights."""
    with seeded(seed):
        return Fcrn(width=width)


NEAREST = 0.1
"""The least predicted depth in metres; predictions below it, or behind the camera, are clamped to it."""


def berhu(prediction: Float[Tensor, "n i j"], truth: Float[Tensor, "n i j"]) -> Float[Tensor, ""]:
    """The mean reverse Huber loss (Laina et al., 2016, eq. 2-3): |e| up to c, (e² + c²) / 2c beyond.

    c is a fifth of the batch's largest |e| and constant in the loss's derivatives. Places where the truth is 0, that is
    unknown, do not count.
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


def evaluate(model: nn.Module, batches: Iterable[PairBatch]) -> dict[str, float]:
    """The errors of predicted depths (Eigen et al., 2014), over all pixels of all images whose depth is known.

    Predictions p are enlarged to the size of the truth d, bilinearly, and clamped to at least `NEAREST`:

        rms    √ mean (p - d)²
        rel    mean |p - d| / d
        log10  mean |log10 p - log10 d|
        delta1, delta2, delta3   the fraction with max(p / d, d / p) < 1.25, 1.25², 1.25³

    The model's training flag is restored.
    """
    with evaluating(model):
        totals = torch.stack([errors(model(x), y) for x, y in batches]).sum(0)
    rel, square, log10, *deltas = (totals[1:] / totals[0]).tolist()
    names = [metric.name for metric in Depth.metrics]
    return dict(zip(names, (square**0.5, rel, log10, *deltas), strict=True))


def errors(prediction: Float[Tensor, "n 1 i j"], truth: Float[Tensor, "n h w"]) -> Float[Tensor, "7"]:
    """The number of known depths, and over them the sums whose means are the metrics, in float64."""
    size = (truth.shape[-2], truth.shape[-1])
    enlarged = F.interpolate(prediction, size, mode="bilinear", align_corners=False)[:, 0].clamp(min=NEAREST)
    known = truth > 0
    p, d = enlarged[known], truth[known]
    ratio = torch.maximum(p / d, d / p)
    terms = [(p - d).abs() / d, (p - d).square(), (p.log10() - d.log10()).abs(), *(ratio < 1.25**i for i in (1, 2, 3))]
    return torch.stack([known.sum().double(), *(term.sum(dtype=torch.float64) for term in terms)])


def samples(model: nn.Module, data: Pairs) -> dict[str, Tensor]:
    """A few test images, their depths at the size of the network's output, and its predictions."""
    which = torch.linspace(0, len(data.test_images) - 1, min(SHOWN, len(data.test_images))).long()
    images = data.test_images[which.to(data.device)]
    with evaluating(model):
        predictions = model(data.plain(images))[:, 0]
    truths = averaged(data.test_depths[which.to(data.device)], (predictions.shape[-2], predictions.shape[-1]))
    named = {"images": images, "truths": truths.half(), "predictions": predictions.clamp(min=NEAREST).half()}
    return {name: tensor.contiguous().cpu() for name, tensor in named.items()}
