"""Language modelling with early pruning: the next word of Penn Treebank, or of any text, by PSMM or a plain LSTM.

The authors' recipe: chunks of 80 tokens, whose hidden state starts from zero, Adam, gradients of norm at most 0.25.
The rate is constant until the cut; from then on it is divided by four after each epoch in which validation perplexity
does not improve. Methods that prune at initialisation, and dense training, do so from the first step. The main metric
is the test perplexity after the last epoch; nothing is chosen by it.

Embedding, recurrence, query and decoder are all prunable. Scores are those of the network as it is at the cut, on
chunks of the training split; the method's rule decides when to cut.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import exp
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop_lab.data.text import Chunks, load
from earlycrop_lab.measure.evaluating import evaluating
from earlycrop_lab.models import LANGUAGE
from earlycrop_lab.models.seeded import seeded
from earlycrop_lab.tasks.descriptions.language import Language
from earlycrop_lab.tasks.schedule import Plateau
from earlycrop_lab.tasks.session import Session, Setup, Trained


def train(d: Language, *, root: str | None = None, device: torch.device | str = "cpu", **around: Any) -> Trained:
    """Train as described and measure.

    Args:
        d: The description.
        root: The folder of the data sets.
        device: The device to train on.
        around: See `Session`.

    Raises:
        ValueError: The text cannot be read or does not fit, or the loss is no longer finite.
    """
    device = torch.device(device)
    setup = prepare(d, root, device)
    model = setup.model
    optimizer = setup.optimizer(model)
    schedule = Plateau(optimizer, d.learning_rate)
    with Session(d, setup, optimizer, schedule=schedule, device=device, **around) as session:
        for epoch in session.epochs():
            with session.looking():
                session.pruner.check(epoch)
            with session.training():
                for chunks in setup.batches.epoch(epoch):
                    with session.step(chunks):
                        optimizer.zero_grad()
                        loss = mean_loss(model, chunks)
                        loss.backward()
                        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
                        optimizer.step()
                    session.note(loss, len(chunks))
            schedule.see(session.evaluate()["valid_perplexity"])
    return session.trained()


def prepare(d: Language, root: str | None, device: torch.device) -> Setup:
    """The network and the text on the device, cut into chunks."""
    text = load(d.data, root).to(device)
    if d.train_size is not None:
        text = text.subset(d.train_size)
    batches, scoring = text.batches(d.batch_size, seed=d.seed), text.scoring_batches(seed=d.seed)
    if d.max_steps is not None:
        batches = replace(batches, most=d.max_steps)
        scoring = text.scoring_batches(seed=d.seed, batch_size=d.batch_size)[: d.max_steps]
        text = text.cut_short(d.max_steps * d.batch_size * text.chunk)
    return Setup(
        model=network(d, len(text.vocabulary)).to(device),
        batches=batches,
        scoring=scoring,
        loss=mean_loss,
        evaluate=lambda model: {
            "test_perplexity": perplexity(model, text.whole(text.test)),
            "valid_perplexity": perplexity(model, text.whole(text.valid)),
        },
        optimizer=lambda model: torch.optim.Adam(model.parameters(), d.learning_rate, weight_decay=d.weight_decay),
        inputs=text.train_chunks[: d.batch_size],
        data=str(text),
        in_width=lambda width: network(replace(d, width=width), len(text.vocabulary)),
    )


def network(d: Language, vocabulary: int) -> nn.Module:
    """The network at its initial weights."""
    with seeded(d.seed):
        return LANGUAGE[d.network](vocabulary, d.width, d.dropout)


def mean_loss(model: nn.Module, chunks: Chunks) -> Tensor:
    """The mean of −log p over all predicted tokens."""
    return -model(chunks).mean()


def perplexity(model: nn.Module, batches: Iterable[Chunks]) -> float:
    """exp(mean of −log p), in which every token counts once; the model's training flag is restored."""
    total, tokens = 0.0, 0
    with evaluating(model):
        for chunks in batches:
            said = model(chunks)
            total -= float(said.double().sum())
            tokens += said.numel()
    return exp(min(total / tokens, 700.0))  # beyond that math.exp raises OverflowError
