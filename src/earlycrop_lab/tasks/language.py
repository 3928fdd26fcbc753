"""Language modelling with early pruning: the next word of Penn Treebank, or of any text, by PSMM or a plain LSTM.

The authors' recipe: chunks of 80 tokens, whose hidden state starts from zero, Adam, gradients of norm 0.25 at most. The
rate is constant until the cut, and from then on a quarter of itself after each epoch in which validation perplexity does
not improve; methods that prune at initialisation, and dense training, have that from their first step. The figure that
counts is the test perplexity after the last epoch; nothing is chosen by it.

Embedding, recurrence, query and decoder are all prunable. Scores are those of the network as it is at the cut, on
chunks of the training split; the moment is found by the method's rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import earlycrop
from earlycrop.units import Channels
from earlycrop_lab.data.text import TEXTS, Chunks, check_name, load
from earlycrop_lab.measure.evaluating import evaluating
from earlycrop_lab.models.lstm import LstmLanguageModel
from earlycrop_lab.models.psmm import Psmm
from earlycrop_lab.models.seeded import seeded
from earlycrop_lab.tasks.description import Description, Metric, option
from earlycrop_lab.tasks.schedule import Plateau
from earlycrop_lab.tasks.session import Session, Setup, Trained

NETWORKS = {"psmm": Psmm, "lstm": LstmLanguageModel}


@dataclass(frozen=True)
class Usual:
    """What a text is usually trained with: width of embedding and hidden state, budget, chunks of a batch, rate."""

    width: int = 300
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3


USUAL = {
    "sherlock": Usual(width=128, epochs=8, batch_size=16, learning_rate=3e-3),
    "ptb": Usual(batch_size=128),
}
"""By text; a file of one's own has the defaults. Penn Treebank's are the authors' (methods.md, 5.7)."""


@dataclass(frozen=True)
class Language(Description):
    """One training run. What is not said is the text's usual, and is filled in at once.

    >>> usual = Language(data="ptb")
    >>> usual.network, usual.width, usual.epochs, usual.batch_size, usual.learning_rate, usual.clip_norm
    ('psmm', 300, 30, 128, 0.001, 0.25)
    """

    task: ClassVar[str] = "language"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("test_perplexity", "test perplexity", "lower"),
        Metric("valid_perplexity", "validation perplexity", "lower"),
    )
    samples: ClassVar[str] = "training tokens"
    embeddings: ClassVar[bool] = True
    logits: ClassVar[bool] = False

    sparsity: float = option(0.8, help="the part to remove, between 0 and 1")
    min_part: float | None = option(
        tag="part", help="the part of its channels that every layer keeps; half of what sparsity leaves by default"
    )
    data: str = option("sherlock", help=f"{', '.join(TEXTS)}, or text:PATH for any text file in UTF-8")
    train_size: int | None = option(tag="train", help="train on the first so many tokens")
    network: str = option(choices=tuple(NETWORKS), help="psmm by default")
    width: int | None = option(tag="width", help="of embedding and hidden state; the text's usual by default")
    batch_size: int = option(tag="batch", help="chunks of 80 tokens in a batch; the text's usual by default")
    learning_rate: float = option(
        tag="lr", help="constant until the cut; then a quarter each time validation perplexity does not improve"
    )
    clip_norm: float = option(0.25, tag="clip", help="the gradient's norm is cut to this")
    dropout: float = option(0.3, tag="dropout", help="the part of embedding and hidden state left out in training")

    @staticmethod
    def check_data(name: str) -> None:
        """See `Description`."""
        check_name(name)

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = {"network": "psmm", **vars(USUAL.get(self.data, Usual()))}
        channels = isinstance(earlycrop.get_method(self.method).units, Channels)
        if channels and 0 < self.sparsity < 1 and self.min_channels == self._default("min_channels"):
            # scores of embeddings are so much smaller than those of hidden units that else one column would be left
            usual["min_part"] = round((1 - self.sparsity) / 2, 6)
        return usual

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a part, from 0 up to 1; {self.dropout:g} is not.")


def train(d: Language, *, root: str | None = None, device: torch.device | str = "cpu", **around: Any) -> Trained:
    """Train as described and measure.

    Args:
        d: The description.
        root: Where Penn Treebank lies.
        device: Where to train.
        around: See `Session`.

    Raises:
        ValueError: If the text cannot be had or does not fit, or the loss is no longer finite.
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
    """The text on the device, cut into chunks; the network."""
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
        return NETWORKS[d.network](vocabulary, d.width, d.dropout)


def mean_loss(model: nn.Module, chunks: Chunks) -> Tensor:
    """The mean of −log p over all tokens that are predicted."""
    return -model(chunks).mean()


def perplexity(model: nn.Module, batches: Iterable[Chunks]) -> float:
    """exp of the mean of −log p, in which every token counts once; the model's training flag is left as found."""
    total, tokens = 0.0, 0
    with evaluating(model):
        for chunks in batches:
            said = model(chunks)
            total -= float(said.double().sum())
            tokens += said.numel()
    return exp(min(total / tokens, 700.0))  # beyond that a float is infinite, and Python complains
