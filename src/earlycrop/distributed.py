"""The processes that train one model together, each with a copy of it and a part of the data.

Two promises. Where a number decides something, every rank has the same one, bit for bit: a sum over all of them, or
rank 0's. And nobody is waited for in vain: before ranks communicate, each says what about, so that one that has failed,
is gone or does something else is an error on all of them. A rank that is silent is waited for as long as the process
group was told when it was made (`init_process_group(timeout=...)`).
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

from earlycrop.errors import EarlyCropError, RankError
from earlycrop.files import as_integers

T = TypeVar("T")

FAILED = "an error"


class Ranks:
    """The ranks of a process group; or this process alone, where all of this does nothing.

    All ranks call the same methods in the same order.

    Attributes:
        rank: Which of them this process is.
        size: How many they are.
    """

    def __init__(self, group: Any = None) -> None:
        self._group, self._within = group, False
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        if self.rank < 0:
            raise EarlyCropError("This process is no member of `group`: only its members can train a model in it.")

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """What fails within on one rank fails on all of them.

        Raises:
            RankError: it failed elsewhere.
        """
        if self.size == 1 or self._within:
            yield
            return
        self._within = True
        try:
            yield
            self.meet("the end")
        except RankError:  # they know
            raise
        except Exception as error:
            with suppress(RankError):
                self._exchange(FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._within = False

    def meet(self, where: str) -> None:
        """Go on when all have come here without an error."""
        self._exchange(where, None)

    def sum(self, tensor: Tensor) -> Tensor:
        """Σ over ranks, in place."""
        if self.size > 1:
            self.meet(f"a sum of shape {tuple(tensor.shape)}")
            with _reached():
                dist.all_reduce(tensor, group=self._group)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's, in the order of the ranks."""
        return self._exchange("values of all ranks", value)

    def total(self, *numbers: float) -> list[Any]:
        """Σ over ranks of each number, on the host."""
        return [sum(each) for each in zip(*self.gather(numbers), strict=True)]

    def first(self, value: T) -> T:
        """Rank 0's."""
        if self.size == 1:
            return value
        found = [_packed(value) if self.rank == 0 else None]
        self.meet("a value of rank 0")
        with _reached():
            dist.broadcast_object_list(found, group=self._group, group_src=0)
        assert found[0] is not None
        return _unpacked(found[0])

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Make them rank 0's, in place."""
        if self.size == 1:
            return
        tensors = list(tensors)
        self.meet(f"rank 0's tensors {[tuple(tensor.shape) for tensor in tensors]}")
        with _reached(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, group=self._group, group_src=0)
                if whole is not tensor:
                    tensor.copy_(whole)

    def union(self, batches: Sequence[Any]) -> list[Any]:
        """The batches of all ranks, in the order of the ranks; each tensor on the kind of device that it came from."""
        if self.size == 1:
            return list(batches)
        own = {leaf.device.type: leaf.device for leaf in pytree.tree_leaves(batches) if isinstance(leaf, Tensor)}
        # a copy, for of a view the whole storage would be sent
        sent = pytree.tree_map_only(
            Tensor, lambda t: _Sent(t.detach().to("cpu", copy=True), t.device.type), list(batches)
        )
        found = [batch for part in self._exchange("the scoring set", sent) for batch in part]
        return pytree.tree_map_only(_Sent, lambda s: s.tensor.to(own.get(s.kind, torch.device(s.kind))), found)

    def compare(self, what: Mapping[str, object]) -> None:
        """Refuse to go on unless all have the same.

        Raises:
            RankError: on every rank, with the first thing that differs.
        """
        found = self._exchange("a comparison", dict(what))
        for rank, theirs in enumerate(found):
            for name in [*found[0], *theirs]:
                here, there = found[0].get(name, "nothing"), theirs.get(name, "nothing")
                if here != there:
                    raise RankError(
                        f"The ranks do not train one model: {name} is {here} on rank 0 and {there} on rank {rank}. "
                        f"Give every rank the same model, options and seed, and train it through "
                        f"DistributedDataParallel, wrapped anew after each cut; or, if they have nothing to do with "
                        f'each other, `group="alone"`.'
                    )

    def _exchange(self, about: str, word: Any) -> list[Any]:
        """Every rank's word, if all are here for the same reason."""
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
                        f"Ranks {self.rank} and {rank} do different things: {about}, and {theirs}. On every rank the "
                        f"pruner's methods must be called at the same places of the loop."
                    )
        return [said for _, said in found]


ALONE = Ranks()


def ranks_of(group: Any) -> Ranks:
    """The ranks of the process group that was asked for.

    Args:
        group: A process group, or its ranks; "alone" for this process; None where there is no other.

    Raises:
        EarlyCropError: nothing was said, and there are several processes.
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
            f"say `group=torch.distributed.group.WORLD`, and scores are over the data of all of them. If they have "
            f'nothing to do with each other, say `group="alone"`.'
        )
    return ALONE


def grouped() -> bool:
    """Whether this process is in a process group, be it alone: its models may be wrapped by DistributedDataParallel."""
    return dist.is_available() and dist.is_initialized()


def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Of each named tensor its shape and the sum of its entries, these being read as integers: any small move shows."""
    named = dict(tensors)
    sums = [as_integers(tensor).sum(dtype=torch.int64) for tensor in named.values()]
    found = torch.stack(sums).tolist() if sums else []  # in one go: a device is waited for once
    return {
        f"`{name}`": f"of shape {tuple(tensor.shape)} with checksum {value & (1 << 64) - 1:016x}"
        for (name, tensor), value in zip(named.items(), found, strict=True)
    }


@dataclass(frozen=True)
class _Sent:
    """A tensor on its way, and the kind of device that it lay on."""

    tensor: Tensor
    kind: str


def _packed(value: Any) -> bytes:
    """In PyTorch's own format: pickle alone cannot hold tensors of every type."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)  # from the ranks of this very training


@contextmanager
def _reached() -> Iterator[None]:
    """Say it clearly if somebody cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"Another rank is gone, or did not come within the process group's timeout. Start all of them again, from "
            f"the last checkpoint. ({error})"
        ) from error
