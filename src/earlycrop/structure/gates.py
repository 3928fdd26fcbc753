"""Gates: factors of one that multiply a channel's values exactly once on every path.

A score differentiates with respect to these factors, so a channel scaled twice on some path would get a wrong
score. Hence a channel is gated where it is *created* and never again where it is carried through: behind the norm
that directly reads it and is its only reader, or on the creator's own output. Where the creating operator computes what
a module returns, the gate multiplies that module's output: this needs no derivative with respect to a weight, and a
parameter that has two roles (an embedding that is also the head) is scaled only in the one that creates. Otherwise the
gate multiplies the parameters (or buffers) that create. A rule that knows a better place gives it (`Created.gates`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.modules import Classes, Modules, Where
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.trace import module_of
from earlycrop.structure.walk import Created, Place, Read, Side, Walk


@dataclass(frozen=True, eq=False)
class Gate:
    """A place where the vector of gates, one entry per class, multiplies a tensor.

    Attributes:
        where: The path of a module, or the name of a parameter or buffer.
        side: Whether it multiplies that module's output, its input, or that parameter (or buffer).
        dim: The dimension along which it multiplies.
        classes: For each index along `dim`, the class whose gate multiplies there, or -1 for none.
        item: The number of the tensor, counted through nested tuples, if the module takes or returns several.
        creator: The number of the creator of these channels. Gates of one creator are one gate in several places; a
            residual stream has several creators.
        norm: The path of the batch or instance norm that is the only reader of this place. With the batch's own
            statistics it divides a channel's scale out again.
    """

    where: str
    side: Side
    dim: int
    classes: Classes
    item: int | None = None
    creator: int = 0
    norm: str | None = None


def find_gates(
    walk: Walk, classes: Callable[[Tensor | None], Classes | None]
) -> tuple[tuple[Gate, ...], tuple[Gate, ...]]:
    """Two sets of gates for a finished walk: behind the norms that directly follow creators, and on the creators.

    A creator that runs several times is gated behind norms only if a norm follows each run and these norms read
    nothing else; otherwise some channels would be scaled twice.

    Args:
        walk: The walk through the whole graph.
        classes: Maps labels to classes, or to None where nothing can leave.
    """
    finder = _Finder(walk, classes)
    return finder.gates(after_norm=True), finder.gates(after_norm=False)


class _Finder:
    """Finds both sets of gates; holds what they have in common."""

    def __init__(self, walk: Walk, classes: Callable[[Tensor | None], Classes | None]) -> None:
        self.walk, self.classes, modules = walk, classes, Modules(walk, classes)
        # operators that run with the same parameters are one creator: a gate on the parameters would scale every run
        self.creators: dict[object, list[Created]] = {}
        for created in walk.created:
            self.creators.setdefault(created.sites or created.node, []).append(created)
        kinds = {created.node: operator_of(created.node).kind for created in walk.created}
        # a sum with a parameter creates too, but its module's output also holds the other term's channels
        self.own = modules.places({node for node, kind in kinds.items() if kind is Kind.CREATES})
        self.readers = {node: _reader(modules, node) for node in kinds}
        self.behind = _behind_norms(
            walk,
            modules,
            {  # a norm that reads a sum also reads what other creators made
                key: [None if kinds[created.node].joins else self.readers[created.node] for created in runs]
                for key, runs in self.creators.items()
                if not any(created.gates for created in runs)
            },
        )
        self.read = _at_readers(walk, classes)
        self.again = torch.cat([group for group, _ in self.read] or [torch.empty(0, dtype=torch.int64)])

    def gates(self, after_norm: bool) -> tuple[Gate, ...]:
        """The gates of all creators, then those of channels that are gated where they are read."""
        found: dict[tuple[str, Side, int, int | None], Gate] = {}
        for number, (creator, runs) in enumerate(self.creators.items()):
            for created in runs:
                places, norm = self._places(creator, created, after_norm)
                for where, side, dim, labels, item in places:
                    numbers = self.classes(labels)
                    if numbers is not None and not created.gates:  # scaled where they are read, so not here too
                        numbers = torch.where(torch.isin(numbers, self.again), -1, numbers)
                    if numbers is not None and bool((numbers >= 0).any()):
                        # several runs of one creator find the same place, which gets one gate
                        gate = Gate(where, side, dim, numbers, item, number, norm)
                        found.setdefault((where, side, dim, item), gate)
        return (*found.values(), *self._heads())

    def _heads(self) -> Iterable[Gate]:
        """The gates of heads and hidden units; each group counts as its own creator, since no other gate scales it."""
        for number, (group, places) in enumerate(self.read, start=len(self.creators)):
            for where, side, dim, labels, item in places:
                if (numbers := self.classes(labels)) is not None:
                    yield Gate(where, side, dim, torch.where(torch.isin(numbers, group), numbers, -1), item, number)

    def _places(self, creator: object, created: Created, after_norm: bool) -> tuple[Where, str | None]:
        """Where one run of a creator is gated, and the norm (if any) that then divides the gate out again."""
        if created.gates:
            return created.gates, None
        reader = self.readers[created.node]
        if after_norm and reader is not None and creator in self.behind:
            behind = self.behind[creator][reader]
            if self._holds(behind, created):
                return behind, None
        places = self.own.get(created.node, ())
        if created.sites and not self._holds(places, created):
            places = _parameters(self.walk, created.sites)
        if reader is None or operator_of(reader).kind is not Kind.CHANNEL_NORM:
            return places, None
        return places, module_of(reader)

    def _holds(self, places: Where, created: Created) -> bool:
        """Whether these places scale the created channels, rather than those of another dimension."""
        inside = [self.classes(place.labels) for place in places]
        made = [self.classes(self.walk.tensors[name][dim]) for name, dim in created.sites]
        return any(
            a is not None and b is not None and bool(torch.isin(a[a >= 0], b).any()) for a in inside for b in made
        )


def _at_readers(
    walk: Walk, classes: Callable[[Tensor | None], Classes | None]
) -> list[tuple[Classes, Sequence[Place]]]:
    """Heads of attention and units of recurrent cells: their classes, and the places where these are read.

    They cannot be gated where they are created. A head's output is not proportional to what makes it: a gate on q, k
    and v would also scale the softmax's arguments. And a cell carries its state from step to step, so a gate on the
    state would multiply again at every step. Where the channels are read, a gate scales them once.
    """
    found: list[tuple[Classes, Sequence[Place]]] = []
    seen = torch.empty(0, dtype=torch.int64)
    for labels in walk.recreated:
        numbers = classes(labels)
        if numbers is None:
            continue
        numbers = numbers.unique()
        mine = numbers[(numbers >= 0) & ~torch.isin(numbers, seen)]
        reads = [
            one for one in walk.reads if (n := classes(one.labels)) is not None and bool(torch.isin(n, mine).any())
        ]
        if not reads or any(one.site is None and not _reads_input(walk, one) for one in reads):
            continue  # not every reader can be gated, so the gate stays on what creates them
        places = {(place.where, place.side, place.dim): place for place in (_place(walk, one) for one in reads)}
        reached = torch.cat([n for one in reads if (n := classes(one.labels)) is not None])
        found.append((mine[torch.isin(mine, reached)], tuple(places.values())))
        seen = torch.cat([seen, mine])
    return found


def _place(walk: Walk, read: Read) -> Place:
    """Where a gate scales what is read: at the module's input, or else in the parameter that reads."""
    if _reads_input(walk, read):
        first = operator_of(read.node).channels == 1
        return Place(module_of(read.node), "input", 1 if first else -1, read.labels)
    assert read.site is not None
    name, dim = read.site
    return Place(name, "parameter", dim, read.labels)


def _reads_input(walk: Walk, read: Read) -> bool:
    """Whether these channels are the input of a linear or convolution module, which a gate can multiply."""
    module = walk.modules.get(module_of(read.node))
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and (
        read.site is None or walk.names.get(f"{module_of(read.node)}.weight".lstrip(".")) == read.site[0]
    )


def _parameters(walk: Walk, sites: Iterable[tuple[str, int]]) -> Where:
    """These dimensions of parameters and buffers as places, without those in which nothing can leave."""
    labelled = [(name, dim, walk.tensors[name][dim]) for name, dim in sites]
    return tuple(Place(name, "parameter", dim, labels) for name, dim, labels in labelled if labels is not None)


def _reader(modules: Modules, creator: Node) -> Node | None:
    """The only operator that reads what was created, with that as its first argument; None if there are others."""
    node = modules.returned(creator) or creator
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def _behind_norms(
    walk: Walk, modules: Modules, readers: dict[object, list[Node | None]]
) -> dict[object, dict[Node, Where]]:
    """For each creator whose every run is followed by a norm: the places behind each of these norms."""
    behind = {
        creator: norms
        for creator, found in readers.items()
        if len(norms := [one for one in found if one is not None and operator_of(one).kind.norm]) == len(found)
    }
    # A norm whose module or parameters also serve something else cannot be gated, and then its creators lose all their
    # norms. Those may share a module or parameters with norms of other creators, so this repeats until nothing changes.
    while True:
        nodes = {norm for norms in behind.values() for norm in norms}
        places = modules.places(nodes)
        for node in nodes - places.keys():  # no module returns it: gate its scale and shift, if no others read them
            sites = walk.norms.get(node, ())
            users = {
                user for arg, name in walk.origin.items() if any(name == s for s, _ in sites) for user in arg.users
            }
            if sites and users <= nodes:
                places[node] = _parameters(walk, sites)
        left = {creator: norms for creator, norms in behind.items() if all(norm in places for norm in norms)}
        if len(left) == len(behind):
            return {creator: {norm: places[norm] for norm in norms} for creator, norms in left.items()}
        behind = left
