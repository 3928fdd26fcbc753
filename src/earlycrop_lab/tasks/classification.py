"""Image classification with early pruning, from the data to the columns of the poster.

Adam, at a constant rate until the cut and One-Cycle over what then remains of a fixed budget. Methods that prune at
initialisation, and dense training, use One-Cycle from the first step; methods that train in full before they prune get
the whole budget for each training, unless it is to be divided. The main metric is the accuracy after the last epoch.
Test images are used for nothing else: batches for scoring come from the training split.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from earlycrop.distributed import ALONE, Ranks
from earlycrop_lab.data import Batch, Dataset, load
from earlycrop_lab.measure.evaluating import evaluating
from earlycrop_lab.models import build, get_network
from earlycrop_lab.tasks.descriptions.classification import Classification
from earlycrop_lab.tasks.schedule import Schedule
from earlycrop_lab.tasks.session import Session, Setup, Trained
from earlycrop_lab.tasks.torchrun import data_parallel


def train(
    d: Classification,
    *,
    root: str | None = None,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
    **around: Any,
) -> Trained:
    """Train as described and measure.

    Args:
        d: The description.
        root: The folder of the data sets.
        device: The device to train on.
        ranks: The processes that train it together, each on its part of every batch; measurements are rank 0's.
        around: See `Session`.

    Raises:
        ValueError: The data, the network and the method do not fit together, or the loss is no longer finite.
        OSError: The data cannot be read or downloaded.
    """
    device = torch.device(device)
    setup = prepare(d, root, device, ranks)
    model, batches = setup.model, setup.batches
    optimizer = setup.optimizer(model)
    schedule = Schedule(optimizer, d.learning_rate, d.schedule)
    with Session(d, setup, optimizer, schedule=schedule, device=device, ranks=ranks, **around) as session:
        for epoch in session.epochs():
            with session.looking():
                if session.pruner.check(epoch) and d.compiled:
                    torch.compiler.reset()
                parallel = data_parallel(model, ranks)  # a new wrapper, because the last one remembers the old shapes
                if d.compiled:
                    parallel = torch.compile(parallel, mode="reduce-overhead" if device.type == "cuda" else "default")
            with session.training():
                for x, y in batches.epoch(epoch):
                    with session.step(x, y):
                        optimizer.zero_grad()
                        with setup.precision():
                            logits = parallel(x)
                            loss = F.cross_entropy(logits, y)
                        (loss * (ranks.size * len(y) / batches.batch_size)).backward()  # parts may differ by an image
                        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
                        optimizer.step()
                    session.note(loss, len(y), (logits.argmax(1) == y).float().mean())
            session.evaluate()
    return session.trained()


def prepare(d: Classification, root: str | None, device: torch.device, ranks: Ranks = ALONE) -> Setup:
    """The network and the data on the device, where images are one tensor and are augmented batch by batch."""
    data = load(d.data, root, size=d.image_size, recipe=d.recipe).to(device)
    if d.image_size is None:
        data = data.enlarged(get_network(d.network).least)
    if d.train_size is not None:
        data = data.subset(d.train_size)
    batches = data.batches(d.batch_size, seed=d.seed, part=ranks.rank, parts=ranks.size)
    scoring = data.scoring_batches(seed=d.seed)
    if d.max_steps is not None:
        batches = replace(batches, most=d.max_steps)
        scoring = data.scoring_batches(seed=d.seed, batch_size=d.batch_size)[: d.max_steps]
        data = data.tested_on(d.max_steps * d.batch_size)
    layout = torch.channels_last if d.channels_last else torch.preserve_format
    return Setup(
        model=network(d, data).to(device).to(memory_format=layout),  # type: ignore[call-overload]
        batches=batches,
        scoring=scoring,
        loss=mean_loss,
        evaluate=lambda model: {"test_accuracy": accuracy(model, data.test_batches())},
        optimizer=lambda model: torch.optim.Adam(model.parameters(), d.learning_rate, weight_decay=d.weight_decay),
        inputs=data.plain(data.train_images[: d.batch_size]),
        data=str(data),
        in_width=lambda width: network(replace(d, width=width), data),
        precision=lambda: torch.autocast(device.type, torch.bfloat16, enabled=d.precision == "bfloat16"),
    )


def network(d: Classification, data: Dataset) -> nn.Module:
    """The network at its initial weights."""
    shape = {"classes": len(data.classes), "channels": data.channels, "size": data.size}
    return build(d.network, **shape, width=d.width, seed=d.seed)


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def accuracy(model: nn.Module, batches) -> float:
    """The fraction of the images that the model classifies correctly; its training flag is restored."""
    hits, seen = [], 0
    with evaluating(model):
        for x, y in batches:
            hits.append((model(x).argmax(1) == y).sum())
            seen += len(y)
    return int(torch.stack(hits).sum()) / seen
