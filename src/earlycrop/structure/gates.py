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
from jaxtyping import Int
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.rules.norms import NORMALISING, NORMS
from earlycrop.structure.rules.registry import name_of
from earlycrop.structure.trace import module_of
from earlycrop.structure.walk import JOINING, Created, Place, Read, Side, Walk, operator_of, tensor_nodes

Classes = Int[Tensor, "_"]
"""For each index of a dimension the number of its class, or -1 where it cannot leave."""


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
    modules = _Modules(walk, classes)
    creators: dict[object, list[Created]] = {}
    for created in walk.created:
        creators.setdefault(created.sites or created.node, []).append(created)
    own = modules.places({c.node for c in walk.created if name_of(c.node) in CREATING})
    readers = {created.node: _reader(modules, created) for created in walk.created}
    read = _at_readers(walk, classes)
    again = torch.cat([group for group, _ in read]) if read else torch.empty(0, dtype=torch.int64)
    implicit = {key: runs for key, runs in creators.items() if not any(created.gates for created in runs)}
    alone = {  # a norm that reads a sum reads what others have created too
        key: [None if name_of(c.node) in JOINING else readers[c.node] for c in runs] for key, runs in implicit.items()
    }
    behind = _behind_norms(walk, modules, alone)

    def holds(places: Where, created: Created) -> bool:
        """Whether it is the created channels that are scaled there, and not those of another dimension."""
        inside = [classes(place.labels) for place in places]
        made = [classes(walk.tensors[name][dim]) for name, dim in created.sites]
        return any(
            a is not None and b is not None and bool(torch.isin(a[a >= 0], b).any()) for a in inside for b in made
        )

    def gates(after_norm: bool) -> tuple[Gate, ...]:
        found: dict[tuple[str, Side, int, int | None], Gate] = {}
        for number, (key, runs) in enumerate(creators.items()):
            for created in runs:
                reader = readers[created.node]
                norm = None
                if created.gates:
                    places: Iterable[Place] = created.gates
                elif after_norm and reader is not None and key in behind and holds(behind[key][reader], created):
                    places = behind[key][reader]
                else:
                    places = own.get(created.node, ())
                    if created.sites and not holds(places, created):
                        places = _parameters(walk, created.sites)
                    if reader is not None and operator_of(reader) in NORMALISING:
                        norm = module_of(reader)
                for where, side, dim, labels, item in places:
                    numbers = classes(labels)
                    if numbers is not None and not created.gates:
                        numbers = torch.where(torch.isin(numbers, again), -1, numbers)
                    if numbers is not None and bool((numbers >= 0).any()):
                        gate = Gate(where, side, dim, numbers, item, number, norm)
                        found.setdefault((where, side, dim, item), gate)
        heads = [
            Gate(where, side, dim, torch.where(torch.isin(numbers, group), numbers, -1), item, len(creators) + number)
            for number, (group, places) in enumerate(read)
            for where, side, dim, labels, item in places
            if (numbers := classes(labels)) is not None
        ]
        return (*found.values(), *heads)

    return gates(after_norm=True), gates(after_norm=False)


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
            continue  # the gates of what creates them have to do
        places = {(place.where, place.side, place.dim): place for place in (_place(walk, one) for one in reads)}
        reached = torch.cat([n for one in reads if (n := classes(one.labels)) is not None])
        found.append((mine[torch.isin(mine, reached)], tuple(places.values())))
        seen = torch.cat([seen, mine])
    return found


def _place(walk: Walk, read: Read) -> Place:
    if _reads_input(walk, read):
        return Place(module_of(read.node), "input", 1 if operator_of(read.node).startswith("conv") else -1, read.labels)
    assert read.site is not None
    name, dim = read.site
    return Place(name, "parameter", dim, read.labels)


def _reads_input(walk: Walk, read: Read) -> bool:
    """Whether what is read is what a linear layer or a convolution was given."""
    module = walk.modules.get(module_of(read.node))
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and (
        read.site is None or walk.names.get(f"{module_of(read.node)}.weight".lstrip(".")) == read.site[0]
    )


CREATING = ("linear", "addmm", "matmul", "mm", "bmm", "embedding", "conv1d", "conv2d", "conv3d")
CREATING += ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
"""Operators whose whole output their parameters create; a sum with a parameter is not: the other term has a creator."""

CHANNELS_FIRST = ("conv", "batch_norm", "instance_norm", "group_norm")
"""Operators whose channels are dimension 1; those of the others are counted from the last."""

MOVING = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "movedim")
"""What may stand between the operator and the module's `return`."""

Where = tuple[Place, ...]

Call = tuple[str, str]
"""A call of a module: a name that no other call has, and the module's path."""


def _parameters(walk: Walk, sites: Iterable[tuple[str, int]]) -> Where:
    labelled = [(name, dim, walk.tensors[name][dim]) for name, dim in sites]
    return tuple(Place(name, "parameter", dim, labels) for name, dim, labels in labelled if labels is not None)


def _reader(modules: "_Modules", created: Created) -> Node | None:
    """The operator that alone reads what was created, if there is one."""
    node = modules.returned(created.node) or created.node
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].args and users[0].args[0] is node else None


def _behind_norms(
    walk: Walk, modules: "_Modules", readers: dict[object, list[Node | None]]
) -> dict[object, dict[Node, Where]]:
    """For each creator all of whose runs have such a norm: the places behind each."""
    behind = {
        creator: norms
        for creator, found in readers.items()
        if len(norms := [one for one in found if one is not None and operator_of(one) in NORMS]) == len(found)
    }
    while True:  # a norm that also reads something else is none, and then its creators have none
        nodes = {norm for norms in behind.values() for norm in norms}
        places = modules.places(nodes)
        for node in nodes - places.keys():
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


class _Modules:
    """Which operators are what a leaf module returns.

    The graph says for each operator in which call of which module it ran. A module under two names is one.
    """

    def __init__(self, walk: Walk, classes: Callable[[Tensor | None], Classes | None]) -> None:
        self.walk, self.classes = walk, classes
        self.inside: dict[Call, set[Node]] = {}
        for node in walk.program.graph.nodes:
            if node.op == "call_function":
                self.inside.setdefault(_call(node), set()).add(node)
        self.paths: dict[int, str] = {}
        for path, module in walk.modules.items():
            self.paths.setdefault(id(module), path)
        self.calls: dict[str, int] = {}
        for call in self.inside:
            path = self._path(call)
            self.calls[path] = self.calls.get(path, 0) + 1

    def places(self, nodes: set[Node]) -> dict[Node, Where]:
        """For these operators the outputs of the modules that return them: of modules that do nothing else."""
        by_module: dict[str, list[Node]] = {}
        for node in nodes:
            if self.returned(node) is not None and self._owned(node):
                by_module.setdefault(self._path(_call(node)), []).append(node)
        found: dict[Node, Where] = {}
        for path, runs in by_module.items():
            outputs = [self._output(path, run) for run in runs]
            first = outputs[0]
            if first is None or len(runs) != self.calls[path]:
                continue
            if all(one is not None and one.dim == first.dim and self._alike(one, first) for one in outputs):
                found.update((run, (first,)) for run in runs)
        return found

    def returned(self, node: Node) -> Node | None:
        """What the leaf module that ran this operator returns, if it is this operator's result and nothing else."""
        call = _call(node)
        module = self.walk.modules.get(self._path(call))
        if module is None or any(name != "parametrizations" for name, _ in module.named_children()):
            return None
        inside = self.inside[call]
        while any(user in inside for user in node.users):
            (*others, user) = node.users
            if others or operator_of(user) not in MOVING:
                return None
            node = user
        alone = all(user in inside for other in inside - {node} for user in other.users)
        return node if alone else None

    def _output(self, path: str, node: Node) -> Place | None:
        """The dimension of the module's output that holds the operator's own channels; None if that is not clear."""
        last, before = self.returned(node), self._dims(node)
        own = self._channels(node)
        if last is None or own is None or (labels := before[own]) is None:
            return None
        after = self._dims(last)
        numbers = self.classes(labels)
        holding = (
            [own]
            if last is node
            else [
                dim
                for dim, other in enumerate(after)
                if (found := self.classes(other)) is not None and numbers is not None and found.equal(numbers)
            ]
        )
        if len(holding) != 1:
            return None
        (dim,) = holding
        return Place(path, "output", dim if operator_of(node).startswith(CHANNELS_FIRST) else dim - len(after), labels)

    def _channels(self, node: Node) -> int | None:
        """The dimension in which an operator creates or normalises."""
        name, dims = operator_of(node), self._dims(node)
        if name.startswith(CHANNELS_FIRST):
            return 1
        if name in ("layer_norm", "rms_norm"):
            normalised = range(len(dims) - len(node.args[1]), len(dims))  # type: ignore[arg-type]
            alive = [dim for dim in normalised if dims[dim] is not None]
            return alive[0] if len(alive) == 1 else None
        left = name in ("matmul", "mm", "bmm") and node.args[0] in self.walk.origin  # W x rather than x W
        return len(dims) - (2 if left else 1)

    def _dims(self, node: Node) -> list[Tensor | None]:
        value = self.walk.values.get(node)
        return [one if isinstance(one, Tensor) else None for one in value] if isinstance(value, list) else []

    def _alike(self, one: Place, other: Place) -> bool:
        a, b = self.classes(one.labels), self.classes(other.labels)
        return a is b is None or (a is not None and b is not None and a.equal(b))

    def _owned(self, node: Node) -> bool:
        """Whether all but one of the operator's operands are made of the module's own parameters and buffers."""
        call = _call(node)
        path = self._path(call)
        module = self.walk.modules[path]
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        own = {self.walk.names[f"{path}.{name}" if path else name] for name, _ in tensors}

        def made_of_own(arg: Node) -> bool:
            if arg in self.walk.origin:
                return self.walk.origin[arg] in own
            return arg in self.inside[call] and arg not in moved and all(map(made_of_own, arg.all_input_nodes))

        moved = {node}
        return sum(not made_of_own(arg) for arg in tensor_nodes((node.args, node.kwargs))) <= 1

    def _path(self, call: Call) -> str:
        """The module's first path."""
        module = self.walk.modules.get(call[1])
        return call[1] if module is None else self.paths[id(module)]


def _call(node: Node) -> Call:
    """The innermost call that ran this operator; what computes a parametrized weight counts as its owner's."""
    stack = node.meta.get("nn_module_stack") or {}
    calls = ((name, path.split("@")[0]) for name, (path, _) in reversed(stack.items()))
    return next((call for call in calls if "parametrizations" not in call[1].split(".")), ("", ""))
