"""Finds what can leave a model; trial cuts find sizes in the model's own code before anything leaves.

The labels predict the shape of every value of the graph after a cut. So some channels of each space are removed from a
copy without data, which then runs beside the graph. Where a literal size (`x.view(-1, 400)`) makes the code do
something else, or fail, the channels that it counts are frozen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.errors import TraceError
from earlycrop.structure.attempts import Attempts, Copies
from earlycrop.structure.builder import Builder
from earlycrop.structure.choosing import passing, together
from earlycrop.structure.following import constants
from earlycrop.structure.graph import shape_of, tensor_nodes
from earlycrop.structure.labelling import UNREACHED, label, settled
from earlycrop.structure.named import couple, ignoring
from earlycrop.structure.progress import Progress
from earlycrop.structure.streams import Equal, from_streams
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
        example_inputs: What the model takes: a tensor, a tuple of arguments, or a mapping of arguments by name.
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
    walks = label(model, program, beside)

    def builder(equal: Equal) -> Builder:
        one, *others = settled(walks, equal)
        couple(one, coupled)
        return Builder(one, ignored, examples_in(example_inputs), others)

    found = _possible(model, builder, from_streams(walks), Copies(model, progress))
    doubtful = untraced or any(reason == UNREACHED for _, reason in walks[0].labels.prohibitions())
    return replace(found.alone(), doubtful=doubtful)


def _possible(
    model: nn.Module, builder: Callable[[Equal], Builder], streams: Mapping[str, Equal], copies: Copies
) -> Structure:
    """The structure of what can leave, with those of the guessed sizes that hold.

    Args:
        model: The network.
        builder: Reads the classes off the labels, given further labels that are equal.
        streams: For each module, labels that are equal if its code takes sizes from the width of what it reads.
        copies: Copies of the model.
    """
    plain = _Guesses(builder([]), copies)
    if (found := plain.whole()) is not None:
        return found
    kinds: dict[type, Equal] = {}
    for path, equal in streams.items():
        kinds.setdefault(type(model.get_submodule(path)), []).extend(equal)
    if not kinds:
        return plain.part()
    coupled = _Guesses(builder([pair for equal in kinds.values() for pair in equal]), copies)
    if (found := coupled.whole()) is None:
        return max(plain.part(), coupled.part(), key=Structure.removable)
    needed = set(kinds)
    for kind in kinds if len(kinds) > 1 else ():  # code of one kind takes its sizes from one place
        fewer = _Guesses(builder([pair for other in needed - {kind} for pair in kinds[other]]), copies)
        if (better := fewer.whole()) is not None:
            found, needed = better, needed - {kind}
    return found


class _Guesses:
    """Trial cuts of a structure, on several guesses about the integers from which the model's code takes sizes."""

    def __init__(self, builder: Builder, copies: Copies) -> None:
        self.builder, self.copies = builder, copies
        self.first = Attempts(builder.build(builder.guessed.__contains__), copies)
        self.spaces = self.first.structure.spaces().unique().tolist()
        self.faults = self.first.faults(self.spaces, 0)

    def whole(self) -> Structure | None:
        """The first structure that can be cut everywhere at once; None if there is none."""
        first, names = self.first, self.builder.guessed
        if not self.faults and all(not first.faults(self.spaces, seed, goes_on=False) for seed in first.seeds[1:]):
            return first.structure
        for guessed in dict.fromkeys([(), *((name,) for name in names)]):
            if guessed != names:
                other = Attempts(self.builder.build(guessed.__contains__), self.copies)
                if other.passes(self.spaces):
                    return other.structure
        return None

    def part(self) -> Structure:
        """The structure on the first guess, in which everything is frozen that does not pass."""
        return _without(self.first.structure, together(self.first, self.spaces, self.faults), LITERAL)


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
        if (wiring := _wiring(other, sizes=_same_inputs(call, program.call))) not in seen:
            seen.append(wiring)
            found.append(other)
    return found, untraced


def _same_inputs(one: Call, other: Call) -> bool:
    return one.args is other.args and one.kwargs is other.kwargs


def _wiring(program: Program, sizes: bool) -> list[object]:
    """Which operators a graph has, and which of them reads which; and with which integers, if asked."""
    number: dict[Node, object] = {}
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        number[node] = spec.target or (spec.kind.name, len(shape) if (shape := _shape(node)) is not None else None)
    wiring: list[object] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            number[node] = len(wiring)
            integers = [one for one in constants(node.args, node.kwargs) if sizes and type(one) is int]
            wiring.append((node.target, [number[one] for one in tensor_nodes((node.args, node.kwargs))], integers))
        elif node.op == "get_attr":
            number[node] = node.target
        elif node.op == "output":
            wiring.append([number[one] for one in tensor_nodes(node.args)])
    return wiring


def _shape(node: Node) -> tuple[int, ...] | None:
    return shape_of(node) if isinstance(node.meta.get("val"), Tensor) else None
