"""Gates: where a factor of one multiplies what flows, so that a channel is scaled once on every path.

A channel is gated where it is *created* (behind the norm that directly and alone reads it, or on the creator's
own output), never again where it is carried through. Where the creating operator is what a module returns, the
gate multiplies that module's output: no derivative with respect to a weight is needed, and a parameter that has
two roles (an embedding that is also the head) is scaled in the one that creates. Otherwise it multiplies the
parameters (or buffers) that create. A rule that knows better says so itself (`Created.gates`).
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
    """A place where the vector of gates multiplies, one gate per class.

    Attributes:
        where: The path of a module, or the name of a parameter or buffer.
        side: Whether it multiplies that module's output, its input, or that parameter (or buffer).
        dim: Along this dimension.
        classes: For each index along it the class whose gate multiplies there, or -1 for none.
        item: Which tensor, if the module takes or returns several, counted through nested tuples.
        creator: The number of the creator whose channels these are. Gates of one creator are one gate in several
            places; the creators of a residual stream are several.
        norm: The batch or instance norm that alone reads this place, and divides a channel's scale out again when
            it takes the batch's own statistics.
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
    """The gates of a finished walk: behind the norms that directly follow creators, and on the creators themselves.

    A creator that runs several times has its gates behind norms only if each of its runs has such a norm, and
    these norms read nothing else; otherwise some channels would be scaled twice.

    Args:
        walk: The walk through the whole graph.
        classes: From labels to classes; None where nothing can leave.
    """
    finder = _Finder(walk, classes)
    return finder.gates(after_norm=True), finder.gates(after_norm=False)


class _Finder:
    """What the gates behind the norms and those on the creators have in common."""

    def __init__(self, walk: Walk, classes: Callable[[Tensor | None], Classes | None]) -> None:
        self.walk, self.classes, modules = walk, classes, Modules(walk, classes)
        # whatever runs with the same parameters is one creator: a gate on it would scale all its runs
        self.creators: dict[object, list[Created]] = {}
        for created in walk.created:
            self.creators.setdefault(created.sites or created.node, []).append(created)
        kinds = {created.node: operator_of(created.node).kind for created in walk.created}
        # a sum with a parameter creates too, but its module returns the other term's channels beside these
        self.own = modules.places({node for node, kind in kinds.items() if kind is Kind.CREATES})
        self.readers = {node: _reader(modules, node) for node in kinds}
        self.behind = _behind_norms(
            walk,
            modules,
            {  # a norm that reads a sum reads what others have created too
                key: [None if kinds[created.node].joins else self.readers[created.node] for created in runs]
                for key, runs in self.creators.items()
                if not any(created.gates for created in runs)
            },
        )
        self.read = _at_readers(walk, classes)
        self.again = torch.cat([group for group, _ in self.read] or [torch.empty(0, dtype=torch.int64)])

    def gates(self, after_norm: bool) -> tuple[Gate, ...]:
        """The gates of all creators, and then of what is gated where it is read."""
        found: dict[tuple[str, Side, int, int | None], Gate] = {}
        for number, (creator, runs) in enumerate(self.creators.items()):
            for created in runs:
                places, norm = self._places(creator, created, after_norm)
                for where, side, dim, labels, item in places:
                    numbers = self.classes(labels)
                    if numbers is not None and not created.gates:  # scaled where they are read, and not here again
                        numbers = torch.where(torch.isin(numbers, self.again), -1, numbers)
                    if numbers is not None and bool((numbers >= 0).any()):
                        # runs of one creator find the same place, and it has one gate
                        gate = Gate(where, side, dim, numbers, item, number, norm)
                        found.setdefault((where, side, dim, item), gate)
        return (*found.values(), *self._heads())

    def _heads(self) -> Iterable[Gate]:
        """The gates of heads and hidden units: a creator each, for nothing else scales them."""
        for number, (group, places) in enumerate(self.read, start=len(self.creators)):
            for where, side, dim, labels, item in places:
                if (numbers := self.classes(labels)) is not None:
                    yield Gate(where, side, dim, torch.where(torch.isin(numbers, group), numbers, -1), item, number)

    def _places(self, creator: object, created: Created, after_norm: bool) -> tuple[Where, str | None]:
        """Where one run of a creator is gated, and the norm that then divides the gate out again."""
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
        """Whether it is the created channels that are scaled there, and not those of another dimension."""
        inside = [self.classes(place.labels) for place in places]
        made = [self.classes(self.walk.tensors[name][dim]) for name, dim in created.sites]
        return any(
            a is not None and b is not None and bool(torch.isin(a[a >= 0], b).any()) for a in inside for b in made
        )


def _at_readers(
    walk: Walk, classes: Callable[[Tensor | None], Classes | None]
) -> list[tuple[Classes, Sequence[Place]]]:
    """Heads of attention and units of recurrent cells: their classes, and the places where these are read.

    What makes a head (q, k and v) is not in proportion to it, and a cell carries its state beside what reads it.
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
            continue  # a gate on what creates them has to do
        places = {(place.where, place.side, place.dim): place for place in (_place(walk, one) for one in reads)}
        reached = torch.cat([n for one in reads if (n := classes(one.labels)) is not None])
        found.append((mine[torch.isin(mine, reached)], tuple(places.values())))
        seen = torch.cat([seen, mine])
    return found


def _place(walk: Walk, read: Read) -> Place:
    if _reads_input(walk, read):
        first = operator_of(read.node).channels == 1
        return Place(module_of(read.node), "input", 1 if first else -1, read.labels)
    assert read.site is not None
    name, dim = read.site
    return Place(name, "parameter", dim, read.labels)


def _reads_input(walk: Walk, read: Read) -> bool:
    """Whether what is read is what a linear layer or a convolution was given."""
    module = walk.modules.get(module_of(read.node))
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and (
        read.site is None or walk.names.get(f"{module_of(read.node)}.weight".lstrip(".")) == read.site[0]
    )


def _parameters(walk: Walk, sites: Iterable[tuple[str, int]]) -> Where:
    labelled = [(name, dim, walk.tensors[name][dim]) for name, dim in sites]
    return tuple(Place(name, "parameter", dim, labels) for name, dim, labels in labelled if labels is not None)


def _reader(modules: Modules, creator: Node) -> Node | None:
    """The operator that alone reads what was created, if there is one."""
    node = modules.returned(creator) or creator
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def _behind_norms(
    walk: Walk, modules: Modules, readers: dict[object, list[Node | None]]
) -> dict[object, dict[Node, Where]]:
    """For each creator all of whose runs have such a norm: the places behind each."""
    behind = {
        creator: norms
        for creator, found in readers.items()
        if len(norms := [one for one in found if one is not None and operator_of(one).kind.norm]) == len(found)
    }
    # to lose one norm may leave another with readers that are none of these, so this goes on until nothing changes
    while True:  # a norm that also reads something else is none, and then its creators have none
        nodes = {norm for norms in behind.values() for norm in norms}
        places = modules.places(nodes)
        for node in nodes - places.keys():  # no module returns it: its own scale and shift, if nobody else reads them
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
