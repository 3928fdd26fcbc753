"""Tries a cut on a copy without data, to find sizes in the model's own code before anything leaves.

The labels predict the shape of every value of the graph after a cut. So some channels of each space are removed from a
weightless copy, the copy is traced again, and the two graphs are compared operator by operator. Where a literal size
(`x.view(-1, 400)`) makes the code do something else, or fail, the channels that it counts are frozen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.errors import TraceError
from earlycrop.structure.builder import Builder
from earlycrop.structure.graph import argument, shape_of, tensor_nodes
from earlycrop.structure.labelling import UNREACHED, label
from earlycrop.structure.named import couple, ignoring
from earlycrop.structure.registry import operator_of
from earlycrop.structure.structure import ChannelGraph, Structure
from earlycrop.structure.surgery import remove
from earlycrop.structure.trace import Call, Program, examples_in, export

LITERAL = "a size in the model's code is literal, or code that the graph does not show reads these channels"


def trace(
    model: nn.Module,
    example_inputs: object,
    ignore: Sequence[str] = (),
    coupled: Sequence[Sequence[str]] = (),
    ways: Sequence[Call] = (),
) -> Structure:
    """Find every class of coupled channels that can leave the model.

    Args:
        model: The network; untouched.
        example_inputs: What `model(*example_inputs)` takes; a tensor is a single input.
        ignore: Modules or parameters to keep whole, or a single one: names, or beginnings of dotted names.
        coupled: Tuples of names of layers (or of their weights): channel i of one leaves with channel i of the others.
        ways: Other calls of the model, as that of a loss. What they do with a channel holds as well; gates and the
            proof are those of the example inputs. That of the example inputs in training mode is among them anyway.

    Raises:
        EarlyCropError: `ignore` or `coupled` names something that the model does not have, or that cannot be coupled.
        TraceError: the model cannot be exported; the message names the module.
    """
    ignored = ignoring(model, ignore)
    program = export(model, example_inputs)
    beside, untraced = others(model, program, ways)
    walk, walks = label(model, program, beside)
    couple(walk, coupled)
    builder = Builder(walk, ignored, examples_in(example_inputs), walks)
    names = sorted({name for _, name, _ in walk.guesses})
    structures = []
    for guessed in dict.fromkeys([tuple(names), (), *((name,) for name in names)]):
        structures.append(builder.build(guessed.__contains__))
        if _passes(structures[-1], model, structures[-1].spaces().unique().tolist()):
            found = structures[-1]
            break
    else:
        found = only(structures[0], lambda spaces: _passes(structures[0], model, spaces), LITERAL)
    doubtful = untraced or any(reason == UNREACHED for _, reason in walk.labels.prohibitions())
    return replace(found.alone(), doubtful=doubtful)


def only(structure: Structure, passes: Callable[[Sequence[int]], bool], reason: str) -> Structure:
    """The structure in which those spaces are frozen that do not pass, for this reason."""
    spaces = structure.spaces()
    good = _passing(passes, [], spaces.unique().tolist())
    return structure.without(~torch.isin(spaces, torch.tensor(good, dtype=spaces.dtype)), reason)


def others(model: nn.Module, program: Program, ways: Sequence[Call]) -> tuple[list[Program], bool]:
    """The graphs of other calls, that of the example inputs in training mode first: those that are unlike the others.

    Returns:
        The graphs, and whether one of `ways` could not be traced.
    """
    found, untraced, seen = [], False, [_wiring(program, False), _wiring(program, True)]
    trained = replace(program.call, training=True)
    again = [replace(program.call, times=2)] if program.caches else []  # what a call leaves the next may read
    for call in (trained, *again, *ways):
        try:
            other = export(model, call)
        except TraceError:  # the example's may need what only the loss gives
            untraced |= call not in (trained, *again)
            continue
        # other inputs have other sizes, which are among the constants
        if (wiring := _wiring(other, constants=call.args is program.call.args)) not in seen:
            seen.append(wiring)
            found.append(other)
    return found, untraced


def _wiring(program: Program, constants: bool) -> list[object]:
    """Which operators a graph has, and which of them reads which; and with which integers, if asked."""
    number: dict[Node, object] = {}
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        number[node] = spec.target or (spec.kind.name, len(shape) if (shape := _shape(node)) is not None else None)
    wiring: list[object] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            number[node] = len(wiring)
            integers = [one for one in _constants(node) if constants and type(one) is int]
            wiring.append((node.target, [number[one] for one in tensor_nodes((node.args, node.kwargs))], integers))
        elif node.op == "output":
            wiring.append([number[one] for one in tensor_nodes(node.args)])
    return wiring


def _shape(node: Node) -> tuple[int, ...] | None:
    return shape_of(node) if isinstance(node.meta.get("val"), Tensor) else None


def _passing(passes: Callable[[Sequence[int]], bool], beside: list[int], failing: list[int]) -> list[int]:
    """The spaces of `failing` that can be cut together with all those of `beside`, found by halving."""
    if len(failing) <= 1:
        return []
    found: list[int] = []
    half = len(failing) // 2
    for part in (failing[:half], failing[half:]):
        good = [*beside, *found]
        found += part if passes([*good, *part]) else _passing(passes, good, part)
    return found


def _passes(structure: Structure, model: nn.Module, spaces: Sequence[int]) -> bool:
    """Whether the model still computes the same graph after some classes of each of these spaces have left.

    Where sizes in the code were assumed to be integers of a module, or channels are split, two different cuts must
    pass.
    """
    graph = structure.graph
    assert graph is not None
    ways = (graph, *graph.ways)
    return all(_same(structure, ways, model, spaces, seed) for seed in range(2 if any(w.split for w in ways) else 1))


def _same(
    structure: Structure, ways: Sequence[ChannelGraph], model: nn.Module, spaces: Sequence[int], seed: int
) -> bool:
    """Whether one random cut of these spaces gives, for each call, the graph that the labels predict."""
    keep = some(structure, spaces, seed)
    return bool(keep.all()) or all(_same_way(structure, way, model, keep) for way in ways)


def _same_way(structure: Structure, graph: ChannelGraph, model: nn.Module, keep: Tensor) -> bool:
    """Whether one call computes the same graph when these classes have left."""
    again = _traced_after(structure, graph.program, model, keep)
    if again is None:
        return False
    before, after = _operators(graph.program.graph.nodes), _operators(again.graph.nodes)
    if len(before) != len(after):
        return False
    stays = torch.cat([keep, torch.tensor([True])])
    for old, new in zip(before, after, strict=True):
        if old.target != new.target:  # the code took another branch
            return False
        if old.name in graph.nodes and shape_of(new) != _promised(graph, old, stays):
            return False
        counted = graph.arguments.get(old.name)
        if counted is not None and _groups(new) != int(stays[counted].sum()):
            return False
        if old.name in graph.positions and _start(new) != _moved(graph, old, stays):
            return False
        # a number that is no size must not change: after a cut the code would compute something else
        if counted is None and not operator_of(old).sizes and _constants(old) != _constants(new):
            return False
    return True


def some(structure: Structure, spaces: Iterable[int], seed: int) -> Tensor:
    """Which classes stay when a random part of each of these spaces leaves, without emptying any dimension.

    The parts differ in size, so that no ratio of two sizes stays the same by accident.
    """
    membership, generator = structure.spaces(), torch.Generator().manual_seed(seed)
    keep = torch.ones(len(structure), dtype=torch.bool)
    for space in spaces:
        inside = (membership == space).nonzero().flatten()
        count = int(torch.randint(1, max(len(inside), 2), (), generator=generator))
        keep[inside[torch.randperm(len(inside), generator=generator)[:count]]] = False
    for _, _, classes in structure.dimensions():
        if bool((classes >= 0).all()) and not bool(keep[classes].any()):
            keep[classes[0]] = True
    return keep


def _start(node: Node) -> int:
    """The first position that a slice takes."""
    dim, start = (*node.args[1:], 0, 0)[:2]
    size = shape_of(node.args[0])[dim]  # type: ignore[index]
    return min(start + size if start < 0 else start, size)  # type: ignore[operator]


def _moved(graph: ChannelGraph, node: Node, stays: Tensor) -> int:
    """Where a slice must start after the cut."""
    classes, start, _ = graph.positions[node.name]
    return int(stays[classes[:start]].sum())


def _traced_after(structure: Structure, program: Program, model: nn.Module, keep: Tensor) -> Program | None:
    """The graph of a cut copy, recorded as the dense one's was; None if that fails."""
    smaller = program.copy_of(model)
    remove(structure, smaller, keep, None)
    try:
        return program.again(smaller)
    except Exception:  # whatever it raises, the cut copy does not run
        return None


def _groups(node: Node) -> object:
    """The number of groups that an operator is given; 1 by default."""
    position = operator_of(node).groups
    return 1 if position is None else argument(node, position, "groups", 1)


def _constants(node: Node) -> list[object]:
    """The numbers in a node's arguments: one that counts channels (`x / x.shape[1]`) changes with a cut."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return [leaf for leaf in leaves if not isinstance(leaf, Node | torch.device)]


def _operators(nodes: Iterable[Node]) -> list[Node]:
    """The nodes of operators that run whatever the strides are."""
    return [node for node in nodes if node.op == "call_function" and not operator_of(node).strides]


def _promised(graph: ChannelGraph, node: Node, stays: Tensor) -> tuple[int, ...]:
    """The shape that the labels predict for this node's value after the cut."""
    dims = graph.nodes[node.name]
    return tuple(n if c is None else int(stays[c].sum()) for n, c in zip(shape_of(node), dims, strict=True))
