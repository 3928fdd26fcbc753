"""Widths that a module's code takes from the width of what it reads: `C // num_heads`, and `reshape(B, N, C)`.

Most vision transformers compute the width of a head so, and give what the heads return the width of the stream. Then a
head can only leave together with as many channels of the stream as it has itself, and one head of each such module. The
graph shows the sizes, not where they come from; so where the model does not bear a cut otherwise, it is assumed that
they come from what the module reads, and a trial cut finds out.
"""

from collections.abc import Container, Iterator, Sequence
from math import prod

from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import shape_of
from earlycrop.structure.labels import Axis, Dims
from earlycrop.structure.operators.movement import runs
from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.trace import module_of
from earlycrop.structure.walk import Walk

Equal = list[tuple[Tensor, Tensor]]
"""Labels that leave together if a size comes from the stream, pair by pair."""


def from_streams(walks: Sequence[Walk]) -> dict[str, Equal]:
    """For each module whose views have sizes that may come from the width of what it reads: what is equal then."""
    found: dict[str, Equal] = {}
    for walk in walks:
        views: dict[str, list[Node]] = {}
        for node in walk.program.graph.nodes:
            operator = operator_of(node)
            if node.op == "call_function" and operator.sizes and operator.kind is Kind.REARRANGES:
                views.setdefault(module_of(node), []).append(node)
        for path, streams in _entering(walk, views.keys()).items():
            equal = [pair for node in views[path] for stream in streams for pair in _pairs(walk, node, stream)]
            if equal:
                found.setdefault(path, []).extend(equal)
    return found


def _entering(walk: Walk, paths: Container[str]) -> dict[str, list[Tensor]]:
    """For each of these modules the labels along the dimensions of what it and its children read from outside."""
    found: dict[str, dict[tuple[Node, int], Tensor]] = {}
    for node in walk.program.graph.nodes:
        if node.op != "call_function":
            continue
        inside = module_of(node).split(".")
        for depth in range(1, len(inside) + 1):
            path = ".".join(inside[:depth])
            if path not in paths:
                continue
            for arg in node.all_input_nodes:
                if arg not in walk.made and not f"{module_of(arg)}.".startswith(f"{path}."):
                    for dim, labels in enumerate(walk.raw(arg)):
                        if isinstance(labels, Tensor):
                            found.setdefault(path, {})[arg, dim] = labels
    return {path: list(streams.values()) for path, streams in found.items()}


def _pairs(walk: Walk, node: Node, stream: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The labels of a view that must equal those of a stream whose width is the product of some of its sizes."""
    dims, shape = walk.raw(node), shape_of(node)
    for _, (start, stop) in runs(shape_of(node.args[0]), shape):
        if places := _spanning(shape, start, stop, stream.numel()):
            yield from _split([dims[dim] for dim in places], stream.view([shape[dim] for dim in places]))


def _spanning(shape: Sequence[int], start: int, stop: int, size: int) -> Sequence[int]:
    """The dimensions of a run whose sizes multiply to `size`: the last ones if possible, as in (3, heads, width)."""
    ranges = [range(first, last) for last in range(stop, start, -1) for first in range(start, last)]
    apart = [(first, last) for first in range(start, stop) for last in range(first + 2, stop)]
    return next((one for one in (*ranges, *apart) if prod(shape[dim] for dim in one) == size), ())


def _split(dims: Dims, stream: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The labels of dimensions into which a view splits channels, and those of the stream at the same places."""
    grids = {id(one.grid): one.grid for one in dims if isinstance(one, Axis)}.values()
    every = [([dim], one[:, None]) for dim, one in enumerate(dims) if isinstance(one, Tensor)]
    for grid in grids:
        places = [dim for dim, one in enumerate(dims) if isinstance(one, Axis) and one.grid is grid]
        axes = [dims[dim].axis for dim in places]  # type: ignore[union-attr]
        front = grid.labels.movedim(axes, [*range(len(axes))])
        every.append((places, front.reshape(front.shape[: len(axes)].numel(), -1)))
    for places, labels in every:
        theirs = stream.movedim(places, [*range(len(places))]).reshape(len(labels), -1)
        yield labels[:, :, None], theirs[:, None, :]
