"""What can go wrong, as types: every error states what was asked for, what was found and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class EarlyCropError(ValueError):
    """Base class of this library's errors; whenever one is raised, the model is as it was."""


class TraceError(EarlyCropError):
    """The model cannot be exported as a graph, so its channels cannot be coupled."""


class BudgetError(EarlyCropError):
    """The requested sparsity cannot be reached under the given rules; the error states what can be."""


class ScoreError(EarlyCropError):
    """The loss or the scores are not finite, or the scoring set cannot be used."""


class OptimizerError(EarlyCropError):
    """The optimizer does not hold the model's parameters, or its state cannot follow the cut."""


class VerificationError(EarlyCropError):
    """The cut network does not compute what the gated dense one does."""


class RankError(EarlyCropError):
    """Another process of the group failed, is gone, or does something else; every rank's model is as it was."""


class CheckpointError(EarlyCropError):
    """The file is not a saved model of this kind, or it is damaged."""


def nearest(name: object, names: Iterable[str]) -> str:
    """The valid name nearest to a wrong one.

    Args:
        name: What was given.
        names: The valid names, one at least.

    >>> nearest("earlycrop-z", ["snip", "earlycrop-s"])
    'earlycrop-s'
    """
    by_lower = {one.lower(): one for one in names}
    return by_lower[get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0)[0]]
