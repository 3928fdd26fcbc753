"""Fixed random parts of a labelled set: equally many samples of each class, or the same fraction of each."""

import torch
from jaxtyping import Int64
from torch import Tensor


def ranks(labels: Int64[Tensor, "n"], seed: int) -> Int64[Tensor, "n"]:
    """The position of each sample in a random order of its own class, from 0.

    >>> ranks(torch.tensor([7, 7, 5, 7]), seed=0).sort().values
    tensor([0, 0, 1, 2])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]  # by class, at random within each
    _, counts = labels.unique(return_counts=True)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    result = torch.empty_like(labels)
    result[order] = torch.arange(len(labels)) - firsts
    return result


def balanced(labels: Int64[Tensor, "n"], count: int, seed: int) -> Int64[Tensor, "count"]:
    """Indices, ascending, of a random part that is as balanced between the classes as possible.

    With the same seed, a smaller part is contained in a larger one.
    """
    by_class = labels.argsort(stable=True)  # so that the remainder of count / classes goes to the first classes
    return by_class[ranks(labels, seed)[by_class].argsort(stable=True)[:count]].sort().values


def held_out(labels: Int64[Tensor, "n"], part: float, seed: int) -> Int64[Tensor, "m"]:
    """Indices, ascending, of the same fraction of each class, at least one sample each."""
    quota = (labels.bincount() * part).round().long().clamp(min=1)
    return (ranks(labels, seed) < quota[labels]).nonzero()[:, 0]
