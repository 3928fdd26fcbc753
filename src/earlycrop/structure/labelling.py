"""One walk through the exported graph: every value gets its labels, every operator its rule."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.export.graph_signature import InputKind

import earlycrop.structure.operators  # noqa: F401 - registers the records that the walk looks up
from earlycrop.structure import statistics
from earlycrop.structure.graph import tensor_nodes, unlabelled, unread
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.trace import Program
from earlycrop.structure.walk import OUTPUT, Walk, tensors_of

UNREACHED = "used in no call that was traced"


def label(model: nn.Module, program: Program, others: Sequence[Program] = ()) -> list[Walk]:
    """Walk the graph once, from the inputs to the outputs; then those of other calls of the model, on the same labels.

    Returns:
        The walk through the graph, and those through the others; still to be settled.
    """
    walk = Walk(model, program)
    for name, tensor in tensors_of(model):  # parameters come first, so `parametric` separates their labels from others
        walk.tensors[name] = [walk.labels.fresh(size) if size > 1 else None for size in tensor.shape]
        if isinstance(tensor, nn.Parameter):
            walk.parametric = walk.labels.count
    used = _through(walk)
    beside = []
    for other in others:
        beside.append(
            one := Walk(
                model, other, walk.labels, tensors=walk.tensors, parametric=walk.parametric, grids=walk.grids,
                spread=walk.spread, unruled=walk.unruled, guesses=walk.guesses,
            )
        )  # fmt: skip
        used |= _through(one)
        walk.attributes = {**one.attributes, **walk.attributes}
    for name, dims in walk.tensors.items():
        if name not in used:
            for labels in dims:
                walk.labels.freeze(labels, UNREACHED)
    return [walk, *beside]


def settled(walks: Sequence[Walk], equal: Sequence[tuple[Tensor, Tensor]] = ()) -> list[Walk]:
    """Copies of finished walks, in which nothing is left open.

    Args:
        walks: As `label` gives them.
        equal: Further labels that are assumed to be equal, pair by pair.
    """
    labels = walks[0].labels.copied()
    for a, b in equal:
        labels.unite(a, b)
    walks = [replace(one, labels=labels, statistics=dict(one.statistics)) for one in walks]
    for one in walks:
        statistics.settle(one)
    _settle(walks[0])
    return walks


def _through(walk: Walk) -> set[str]:
    """Label every value of a walk's graph; gives the tensors of the model that are used."""
    used = set()
    specs = {spec.arg.name: spec for spec in walk.program.graph_signature.input_specs}
    for node in walk.program.graph.nodes:
        if node.op == "output":
            for value in tensor_nodes(node.args):
                walk.freeze(value, OUTPUT)
        elif unread(node):
            continue
        elif node.op == "call_function":
            if node.all_input_nodes and walk.made.issuperset(node.all_input_nodes):
                walk.made.add(node)
            operator = operator_of(node)
            if not node.users and operator.kind is Kind.MIXES:
                continue  # nothing reads the result, so what it mixes may leave
            walk.values[node] = operator.rule(walk, node)
        elif node.op == "placeholder" and specs[node.name].kind in (InputKind.PARAMETER, InputKind.BUFFER):
            name = walk.names[str(specs[node.name].target)]
            walk.origin[node] = name
            walk.made.add(node)
            walk.values[node] = list(walk.tensors[name])
            if node.users:
                used.add(name)
        else:
            if node.op == "placeholder" and specs[node.name].kind is InputKind.CONSTANT_TENSOR:
                walk.constants[node] = str(specs[node.name].target)
            walk.values[node] = unlabelled(node)
    return used


def _settle(walk: Walk) -> None:
    """Leave each grid of channels one axis that may shrink: the longest, where no operator has decided."""
    root = walk.labels.components()
    for grid in walk.grids:
        roots = root[grid.labels]
        varying = [k for k in range(roots.ndim) if not bool((roots == roots.narrow(k, 0, 1)).all())]
        for k in sorted(varying, key=lambda k: roots.shape[k])[:-1]:
            walk.labels.unite(grid.labels, grid.labels.narrow(k, 0, 1))
        if len(varying) > 1:
            root = walk.labels.components()
