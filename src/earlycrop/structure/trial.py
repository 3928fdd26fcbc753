"""Finds what can leave a model; trial cuts find sizes in the model's own code before anything leaves.

The labels predict the shape of every value of the graph after a cut. So some channels of each space are removed from a
copy without data, which then runs beside the graph. Where a literal size (`x.view(-1, 400)`) makes the code do
something else, or fail, the channels that it counts are frozen.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.errors import TraceError
from earlycrop.structure.attempts import Attempts, Copies
from earlycrop.structure.builder import Builder
from earlycrop.structure.choosing import passing, together
from earlycrop.structure.graph import shape_of, tensor_nodes
from earlycrop.structure.labelling import UNREACHED, label
from earlycrop.structure.named import couple, ignoring
from earlycrop.structure.progress import Progress
from earlycrop.structure.structure import Structure
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
    progress = Progress(type(model).__name__)
    program = export(model, example_inputs)
    progress(f"{len(program.graph.nodes)} operators and tensors recorded; next, the same in training mode")
    beside, untraced = others(model, program, ways)
    progress("what the operators do with channels")
    walk, walks = label(model, program, beside)
    couple(walk, coupled)
    builder = Builder(walk, ignored, examples_in(example_inputs), walks)
    names = sorted({name for _, name, _ in walk.guesses})
    found = _possible(builder, names, Copies(model, progress))
    doubtful = untraced or any(reason == UNREACHED for _, reason in walk.labels.prohibitions())
    return replace(found.alone(), doubtful=doubtful)


def _possible(builder: Builder, names: Sequence[str], copies: Copies) -> Structure:
    """The structure of what can leave, with those of the guessed sizes that hold."""
    first = Attempts(builder.build(names.__contains__), copies)
    spaces = first.structure.spaces().unique().tolist()
    faults = first.faults(spaces, 0)
    if not faults and all(not first.faults(spaces, seed, goes_on=False) for seed in first.seeds[1:]):
        return first.structure
    for guessed in dict.fromkeys([(), *((name,) for name in names)]):
        if guessed != tuple(names):
            other = Attempts(builder.build(guessed.__contains__), copies)
            if other.passes(spaces):
                return other.structure
    return _without(first.structure, together(first, spaces, faults), LITERAL)


def only(structure: Structure, passes: Callable[[Sequence[int]], bool], reason: str) -> Structure:
    """The structure in which those spaces are frozen that do not pass, for this reason."""
    return _without(structure, passing(passes, [], structure.spaces().unique().tolist()), reason)


def _without(structure: Structure, good: Sequence[int], reason: str) -> Structure:
    """The structure in which all other spaces are frozen, for this reason."""
    spaces = structure.spaces()
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


def _constants(node: Node) -> list[object]:
    """The numbers in a node's arguments: one that counts channels (`x / x.shape[1]`) changes with a cut."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return [leaf for leaf in leaves if not isinstance(leaf, Node | torch.device)]
