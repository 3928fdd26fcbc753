"""The scoring set: batches from the training split, as one collection of samples."""

import math
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from earlycrop.errors import ScoreError

if TYPE_CHECKING:
    from earlycrop.evaluation.manner import Manner


MOST_KINDS, MOST_SHAPES = 16, 4
"""How many kinds of batches are told apart at most, and how many where only sizes differ."""


class ScoringSet:
    """The scoring set as one collection of samples, however it was divided into batches.

    Batches are nested tuples, lists or dicts of tensors whose first dimension counts samples; they are divided evenly,
    as if they were one. Batches that cannot be joined (texts of different lengths) are divided one by one, and those
    that hold anything besides samples are kept as given.

    Args:
        batches: The batches.
        micro_batch: Samples scored at once, None for the default.

    Attributes:
        samples: The number of samples.
        largest: The size of the largest batch.

    Attributes:
        manner: How the loss has to be asked, once that is known; batches that must stay whole are not cut.

    Raises:
        ScoreError: there is no sample in it, or `micro_batch` is below 1.
    """

    def __init__(self, batches: Sequence[Any], micro_batch: int | None = None) -> None:
        batches = list(batches)
        sizes = [_samples(batch) for batch in batches]
        if not batches or sum(sizes) == 0:
            raise ScoreError(
                "The scoring set is empty: give `batches`, a list of batches from the training split "
                "(ten samples per class, or 512 in all, is a good size)."
            )
        if micro_batch is not None and micro_batch < 1:
            raise ScoreError(f"`micro_batch` must be at least 1; found {micro_batch}.")
        self.samples, self.largest, self.micro_batch = sum(sizes), max(sizes), micro_batch
        self._batches, self._ends = batches, list(accumulate(sizes))
        self._joins = _fit(batches)
        self.manner: Manner | None = None  # until the loss was asked
        self.fits = self.samples  # as many at once as the device's memory has held so far

    @property
    def given(self) -> Any:
        """The first batch, as it was given."""
        return self._batches[0]

    def kinds(self) -> list[tuple[int, Any]]:
        """One given batch of each kind, with its number: a model may treat the batches of another task in another way.

        Batches are of one kind if they hold the same structure of tensors of the same types and ranks, and the same
        texts, integers and flags, which may name the task. Sizes other than the number of samples count too, but no
        more than four batches are taken for them.
        """
        alike: list[dict[Any, int]] = [{}, {}]
        for number, batch in enumerate(self._batches):
            if _samples(batch):
                for sizes, found in enumerate(alike):
                    found.setdefault(_kind(batch, bool(sizes)), number)
        chosen = [*alike[0].values()][:MOST_KINDS]
        chosen += [one for one in alike[1].values() if one not in chosen][: max(MOST_SHAPES - len(chosen), 0)]
        return [(number, self._batches[number]) for number in sorted(chosen)]

    def halves(self, batch: Any = None) -> list[tuple[Any, int]]:
        """A batch, or the first, in two parts, with their sizes; nothing if it is of one sample or cannot be cut."""
        batch = self.given if batch is None else batch
        size = _samples(batch)
        if size < 2 or self._whole or not _even(pytree.tree_leaves(batch)):
            return []
        cuts = ((0, size // 2), (size // 2, size))
        return [(pytree.tree_map(lambda t, a=a, b=b: t[a:b], batch), b - a) for a, b in cuts]

    def first(self, size: int) -> Any:
        """The first `size` samples as one batch, or all if there are fewer; the first batch, if it must stay whole."""
        if self._joins and not self._whole:
            return self._between(0, min(size, self.samples))
        if self._whole or not _even(pytree.tree_leaves(self.given)):
            return self.given
        return pytree.tree_map(lambda t: t[:size], self.given)

    @property
    def _whole(self) -> bool:
        return self.manner is not None and self.manner.whole

    def chunks(self, size: int) -> Iterator[tuple[Any, int]]:
        """Batches of at most `size` samples, as even as can be, with their sizes."""
        joins = self._joins and not self._whole
        for begin, end in [(0, self.samples)] if joins else pairwise([0, *self._ends]):
            if begin == end:
                continue
            even = not self._whole and (joins or _even(pytree.tree_leaves(self._batches[bisect(self._ends, begin)])))
            pieces = math.ceil((end - begin) / size) if even else 1
            bounds = [begin + (end - begin) * k // pieces for k in range(pieces + 1)]
            for start, stop in pairwise(bounds):
                yield self._between(start, stop), stop - start

    def _between(self, start: int, stop: int) -> Any:
        """These samples as one batch: views where they lie in one given batch, and that batch itself if it is whole."""
        first, last = bisect(self._ends, start), bisect(self._ends, stop - 1)
        offsets, parts = [0, *self._ends], []
        for number in range(first, last + 1):
            begin, end = max(start - offsets[number], 0), min(stop, self._ends[number]) - offsets[number]
            part = self._batches[number]
            if (begin, end) != (0, self._ends[number] - offsets[number]):
                part = pytree.tree_map_only(Tensor, lambda t, a=begin, b=end: t[a:b], part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else pytree.tree_map(lambda *column: torch.cat(column), *parts)


def _samples(batch: Any) -> int:
    """The number of samples in a batch: the first dimension of its first tensor that has one."""
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise ScoreError(
        f"A scoring batch must hold a tensor whose first dimension counts samples; found {type(batch).__name__}."
    )


def _kind(value: Any, sizes: bool) -> Any:
    """What batches of one kind have in common, with or without the sizes of their tensors."""
    if isinstance(value, Tensor):
        return value.dtype, value.ndim, tuple(value.shape[1:]) if sizes else ()
    if isinstance(value, Mapping):
        return type(value), tuple((key, _kind(one, sizes)) for key, one in value.items())
    if isinstance(value, tuple):
        return type(value), tuple(_kind(one, sizes) for one in value)
    if isinstance(value, list):  # one entry for each sample, of which there may be more or fewer
        each = (type(one) if isinstance(one, str | int) else _kind(one, False) for one in value)
        return list, tuple(dict.fromkeys(each))
    return type(value), value if isinstance(value, str | int) else None


def _fit(batches: list[Any]) -> bool:
    """Whether all batches can be joined along their first dimension."""
    if not all(_even(pytree.tree_leaves(batch)) for batch in batches):
        return False
    flat = [pytree.tree_flatten(batch) for batch in batches]
    kinds = [(spec, [(leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves]) for leaves, spec in flat]
    return all(kind == kinds[0] for kind in kinds)


def _even(leaves: list[Any]) -> bool:
    """Whether all leaves are tensors with the same number of samples."""
    tensors = all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves)
    return tensors and len({leaf.shape[0] for leaf in leaves}) == 1
