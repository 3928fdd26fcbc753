"""The runs of language modelling: their options, and what is usual for their data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import earlycrop
from earlycrop_lab.models import LANGUAGE
from earlycrop_lab.names import TEXTS, Names
from earlycrop_lab.tasks.description import Description, Metric, option


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
    names: ClassVar[Names] = TEXTS
    samples: ClassVar[str] = "training tokens"
    embeddings: ClassVar[bool] = True
    logits: ClassVar[bool] = False

    sparsity: float = option(0.8, help="the fraction to remove, between 0 and 1")
    min_part: float | None = option(
        tag="part", help="the fraction of its channels that every layer keeps; by default half of what sparsity leaves"
    )
    data: str = option("sherlock", help=str(TEXTS))
    train_size: int | None = option(tag="train", help="train on the first tokens, this many")
    network: str = option(choices=tuple(LANGUAGE), help="the network, by default psmm")
    width: int | None = option(tag="width", help="width of embedding and hidden state (default: the text's usual one)")
    batch_size: int = option(tag="batch", help="chunks of 80 tokens in a batch (default: the text's usual number)")
    learning_rate: float = option(
        tag="lr", help="constant until the cut; then divided by 4 whenever validation perplexity does not improve"
    )
    clip_norm: float = option(0.25, tag="clip", help="the greatest norm of the gradient; larger ones are scaled down")
    dropout: float = option(0.3, tag="dropout", help="dropout rate of embedding and hidden state")

    def usually(self) -> dict[str, Any]:
        """See `Description`."""
        usual = {"network": "psmm", **vars(USUAL.get(self.data, Usual()))}
        channels = isinstance(earlycrop.get_method(self.method).units, earlycrop.units.Channels)
        if channels and 0 < self.highest < 1 and self.min_channels == self._default("min_channels"):
            # scores of embeddings are so much smaller than those of hidden units that only one column would be left
            usual["min_part"] = round((1 - self.highest) / 2, 6)
        return usual

    @classmethod
    def check_fields(cls, given: Mapping[str, Any]) -> None:
        """See `Description`."""
        super().check_fields(given)
        if not 0 <= given.get("dropout", 0) < 1:
            raise ValueError(f"dropout is a fraction, at least 0 and below 1; {given['dropout']:g} is not.")
