"""Language modelling with early pruning: the next word of Penn Treebank, or of any text, by PSMM or a plain LSTM.

The authors' recipe: chunks of 80 tokens, whose hidden state starts from zero, Adam, gradients of norm at most 0.25.
The rate is constant until the cut; from then on it is divided by four after each epoch in which validation perplexity
does not improve. Methods that prune at initialisation, and dense training, do so from the first step. The main metric
is the test perplexity after the last epoch; nothing is chosen by it.

Embedding, recurrence, query and decoder are all prunable. Scores are those of the network as it is at the cut, on
chunks of the training split; the method's rule decides when to cut.
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
    """The usual width of embedding and hidden state, epochs, chunks in a batch and learning rate of a text."""

    width: int = 300
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3


USUAL = {
    "sherlock": Usual(width=128, epochs=8, batch_size=16, learning_rate=3e-3),
    "ptb": Usual(batch_size=128),
}
"""The usual settings by text; your own file gets the defaults. Penn Treebank's are those of the EarlyCroP authors."""


@dataclass(frozen=True)
class Language(Description):
    """One training run. Fields that are not given get the text's usual values on construction.

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

    sparsity: float = option(0.8, help="the fraction to remove, between 0 and 1")
    min_part: float | None = option(
        tag="part", help="the fraction of its channels that every layer keeps; by default half of what sparsity leaves"
    )
    data: str = option("sherlock", help=f"{', '.join(TEXTS)}, or text:PATH for any text file in UTF-8")
    train_size: int | None = option(tag="train", help="train on the first tokens, this many")
    network: str = option(choices=tuple(NETWORKS), help="the network, by default psmm")
    width: int | None = option(tag="width", help="width of embedding and hidden state (default: the text's usual one)")
    batch_size: int = option(tag="batch", help="chunks of 80 tokens in a batch (default: the text's usual number)")
    learning_rate: float = option(
        tag="lr", help="constant until the cut; then divided by 4 whenever validation perplexity does not improve"
    )
    clip_norm: float = option(0.25, tag="clip", help="the greatest norm of the gradient; larger ones are scaled down")
    dropout: float = option(0.3, tag="dropout", help="dropout rate of embedding and hidden state")

    @staticmethod
    def check_data(name: str) -> None:
        """See `Description`."""
        check_name(name)

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = {"network": "psmm", **vars(USUAL.get(self.data, Usual()))}
        channels = isinstance(earlycrop.get_method(self.method).units, Channels)
        if channels and 0 < self.sparsity < 1 and self.min_channels == self._default("min_channels"):
            # scores of embeddings are so much smaller than those of hidden units that only one column would be left
            usual["min_part"] = round((1 - self.sparsity) / 2, 6)
        return usual

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a fraction, at least 0 and below 1; {self.dropout:g} is not.")


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
        return NETWORKS[d.network](vocabulary, d.width, d.dropout)


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
