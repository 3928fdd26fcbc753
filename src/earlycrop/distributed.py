"""The processes that train one model together, each with a copy of it and a part of the data.

This module makes two promises. Wherever a number decides something, every rank uses the same one, bit for bit: a sum
over all ranks, or rank 0's. And no rank waits forever for another: before ranks communicate, each announces what it is
about to do, so that a rank that has failed, is gone or does something else is an error on all of them. For a silent
rank the others wait until the process group's own timeout (`init_process_group(timeout=...)`).
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from earlycrop.bits import as_integers
from earlycrop.errors import EarlyCropError, RankError

T = TypeVar("T")

FAILED = "an error"


class Ranks:
    """The ranks of a process group; or this process alone, for which every method is trivial.

    All ranks must call the same methods in the same order.

    Args:
        group: The process group; None: this process alone.

    Attributes:
        rank: The rank of this process.
        size: The number of ranks.

    Raises:
        EarlyCropError: this process is not a member of the group.
    """

    def __init__(self, group: Any = None) -> None:
        self._group, self._within = group, False
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        if self.rank < 0:
            raise EarlyCropError("This process is not a member of `group`: only its members can train a model in it.")

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """If the body fails on one rank, it fails on all of them.

        Raises:
            RankError: it failed on another rank.
        """
        if self.size == 1 or self._within:
            yield
            return
        self._within = True
        try:
            yield
            self.meet("the end")
        except RankError:  # the others know already
            raise
        except Exception as error:
            with suppress(RankError):
                self._exchange(FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._within = False

    def meet(self, where: str) -> None:
        """Wait until all ranks have come here without an error.

        Args:
            where: Names this place; it must be the same on all ranks.

        Raises:
            RankError: a rank has failed, is gone, or is at another place.
        """
        self._exchange(where, None)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, computed in place."""
        if self.size > 1:
            self.meet(f"a sum of shape {tuple(tensor.shape)}")
            with _reached():
                dist.all_reduce(tensor, group=self._group)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        return self._exchange("values of all ranks", value)

    def total(self, *numbers: float) -> list[Any]:
        """The sum over ranks of each number, on the host."""
        return [sum(each) for each in zip(*self.gather(numbers), strict=True)]

    def first(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        found = [_packed(value) if self.rank == 0 else None]
        self.meet("a value of rank 0")
        with _reached():
            dist.broadcast_object_list(found, group=self._group, group_src=0)
        assert found[0] is not None
        return _unpacked(found[0])

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with rank 0's."""
        if self.size == 1:
            return
        tensors = list(tensors)
        self.meet(f"rank 0's tensors {[tuple(tensor.shape) for tensor in tensors]}")
        with _reached(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                # as bytes, since not every backend sends every type
                dist.broadcast(whole.reshape(-1).view(torch.uint8), group=self._group, group_src=0)
                if whole is not tensor:
                    tensor.copy_(whole)

    def union(self, batches: Sequence[Any]) -> list[Any]:
        """The batches of all ranks, in the order of the ranks; each tensor on the type of device that it came from."""
        if self.size == 1:
            return list(batches)
        own = {leaf.device.type: leaf.device for leaf in pytree.tree_leaves(batches) if isinstance(leaf, Tensor)}
        # a copy, because a view would be sent with its whole storage
        sent = pytree.tree_map_only(
            Tensor, lambda t: _Sent(t.detach().to("cpu", copy=True), t.device.type), list(batches)
        )
        found = [batch for part in self._exchange("the scoring set", sent) for batch in part]
        return pytree.tree_map_only(_Sent, lambda s: s.tensor.to(own.get(s.kind, torch.device(s.kind))), found)

    def compare(self, what: Mapping[str, object]) -> None:
        """Refuse to go on unless all ranks have the same values.

        Args:
            what: The values of this rank by name.

        Raises:
            RankError: on every rank, with the first value that differs.
        """
        found = self._exchange("a comparison", dict(what))
        for rank, theirs in enumerate(found):
            for name in [*found[0], *theirs]:
                here, there = found[0].get(name, "nothing"), theirs.get(name, "nothing")
                if here != there:
                    raise RankError(
                        f"The ranks do not train one model: {name} is {here} on rank 0 and {there} on rank {rank}. "
                        f"Give every rank the same model, options and seed, and train through "
                        f"DistributedDataParallel, wrapped again after each cut; or pass "
                        f'`group="alone"` if the processes have nothing to do with each other.'
                    )

    def _exchange(self, about: str, word: Any) -> list[Any]:
        """Every rank's word, if all ranks are here for the same reason."""
        if self.size == 1:
            return [word]
        found: list[Any] = [None] * self.size
        with _reached():
            dist.all_gather_object(found, (about, _packed(word)), group=self._group)
        found = [(theirs, _unpacked(said)) for theirs, said in found]
        if about != FAILED:
            for rank, (theirs, why) in enumerate(found):
                if theirs == FAILED:
                    raise RankError(f"Rank {rank} failed, so this one (rank {self.rank}) stops too. {why}")
            for rank, (theirs, _) in enumerate(found):
                if theirs != about:
                    raise RankError(
                        f"Ranks {self.rank} and {rank} do different things: {about}, and {theirs}. Call the pruner's "
                        f"methods at the same places of the loop on every rank."
                    )
        return [said for _, said in found]


ALONE = Ranks()


def ranks_of(group: Any) -> Ranks:
    """The ranks of the given process group.

    Args:
        group: A process group, or its ranks; "alone" for this process only; None if there is no other process.

    Raises:
        EarlyCropError: none is given although there are several processes, or `group` is something else.
    """
    if isinstance(group, Ranks):
        return group
    if group is not None and not isinstance(group, str):
        return Ranks(group)
    if group not in (None, "alone"):
        raise EarlyCropError(f'`group` is a process group or "alone"; found {group!r}.')
    if group is None and grouped() and (size := dist.get_world_size()) > 1:
        raise EarlyCropError(
            f"There are {size} processes (`torch.distributed` is initialised): do they train one model together? Then "
            f"pass `group=torch.distributed.group.WORLD`, and scores are over the data of all of them. If they have "
            f'nothing to do with each other, pass `group="alone"`.'
        )
    return ALONE


def grouped() -> bool:
    """Whether this process is in a process group, even of size one: DistributedDataParallel may wrap its models."""
    return dist.is_available() and dist.is_initialized()


def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """For each named tensor its shape and the sum of its entries read as integers, which shows the smallest change."""
    named = dict(tensors)
    sums = [as_integers(tensor).sum(dtype=torch.int64) for tensor in named.values()]
    found = torch.stack(sums).tolist() if sums else []  # all at once, to wait for the device only once
    return {
        f"`{name}`": f"of shape {tuple(tensor.shape)} with checksum {value & (1 << 64) - 1:016x}"
        for (name, tensor), value in zip(named.items(), found, strict=True)
    }


@dataclass(frozen=True)
class _Sent:
    """A tensor in transit, and the type of device that it came from."""

    tensor: Tensor
    kind: str


def _packed(value: Any) -> bytes:
    """The value in PyTorch's own format: pickle alone cannot hold tensors of every type."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)  # trusted: it comes from ranks of the same training


@contextmanager
def _reached() -> Iterator[None]:
    """Turn the backend's error into a clear one if a rank cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"Another rank is gone, or did not answer within the process group's timeout. Restart all ranks from the "
            f"last checkpoint. ({error})"
        ) from error
