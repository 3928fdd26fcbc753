"""Times each operator of a network at several widths, and the network itself: the measurements behind `Latency`.

Operators run alone, on random entries, as the graph of the network calls them. All of them take turns, round by round,
so that other load on the machine passes over all alike; a time is the median of the rounds.
"""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from earlycrop.allocation import within
from earlycrop.counting.sizes import Sizes
from earlycrop.counting.table import Entry, Place, Table, Timing
from earlycrop.errors import BudgetError
from earlycrop.files import replacing
from earlycrop.structure import Kind, Structure, cut, trace
from earlycrop.structure.attempts import unemptied
from earlycrop.structure.duplicates import duplicate
from earlycrop.structure.registry import operator_of
from earlycrop.structure.trace import as_inputs, called, examples_in, inputs_for
from earlycrop.structure.work import Operation, operands_of

FORMAT = "earlycrop latency 1"
PARTS, LEAST = (0.06, 0.19, 0.38, 0.69, 0.94, 1.0), 2
"""The widths at which an operator is timed, as parts of the dense one, and the least: one channel alone may be a
special case that takes less. Few are multiples of 8, as few are after a cut."""
CUTS, VARIED = (1.0, 0.55, 0.3, 0.14), 4
"""The parts of all channels in the networks that are timed; how many more there are, with other parts of each layer."""
ROUNDS, STEADY = (3, 15), 0.03
"""The least and most rounds; no more are made once the median spread is below this."""
BURST = 1e-3
"""Seconds that all calls of an operator take in one round, if it is fast."""
TOGETHER = 2**27
"""Bytes of the operands of operators that are called in turn."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Found:
    """The measurements, what was measured on, in words, and the number of examples."""

    table: Table
    device: str
    batch: int


def measure(model: nn.Module, inputs: object, path: Path | None, seconds: float, again: bool, clock: Clock) -> Found:
    """See `Latency.measured`."""
    example = as_inputs(inputs)
    first = next(model.parameters(), torch.empty(0))
    device, example = first.device, inputs_for(model, example, first.dtype)
    machine = _machine(device)
    record = _read(path, machine, again) if path is not None and path.exists() else {"entries": {}, "networks": {}}
    structure = trace(model, example)
    operations = structure.work.operations
    if not operations:
        raise BudgetError("The graph of this network has no operator whose latency could be measured.")
    subjects = _subjects(structure)
    wanted = {name: one for name, one in subjects.items() if not one.covered(record)}
    network = "\n".join(one.name for one in operations)
    if wanted or network not in record["networks"]:
        rounds = _Rounds(model, structure, example, list(wanted.values()), clock, device)
        rounds.run(seconds)
        record["entries"] |= {name: asdict(rounds.entry(one)) for name, one in wanted.items()}
        calls = _calls(operations, record)
        record["networks"][network] = [asdict(one) for one in rounds.timings(Table(calls, ()))]
        if path is not None:
            with replacing(path) as file:
                file.write(json.dumps({"format": FORMAT, "machine": machine, **record}, indent=1).encode())
    timings = tuple(Timing(**one) for one in record["networks"][network])
    words = f"{machine['device']}, {machine['threads']} threads" if device.type == "cpu" else str(machine["device"])
    return Found(Table(_calls(operations, record), timings), words, examples_in(example))


# The file ---------------------------------------------------------------------------------------------


def _machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else processor()
    return {"device": name, "threads": 0 if cuda else torch.get_num_threads(), "torch": str(torch.__version__)}


def processor() -> str:
    """The processor's name, as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read(path: Path, machine: Mapping[str, Any], again: bool) -> dict[str, Any]:
    """What a file has, checked; nothing if all is to be measured again.

    Raises:
        BudgetError: it is damaged, or of another machine.
    """
    if again:
        return {"entries": {}, "networks": {}}
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}")
        theirs = {key: record["machine"][key] for key in machine}
        for one in record["entries"].values():
            Entry.of(one)
        for timings in record["networks"].values():
            if any(not Timing(**one).seconds > 0 or not Timing(**one).table >= 0 for one in timings):
                raise ValueError("a network without a time")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BudgetError(
            f"{path} is no file of latencies, or it is damaged ({type(error).__name__}: {error}). Name another file, "
            f"or replace it: Latency.measured(..., again=True)."
        ) from error
    if theirs != dict(machine):
        raise BudgetError(
            f"{path} was measured on {_words(theirs)}; this is {_words(machine)}. Latencies of one do not say what the "
            f"other takes: name another file, or replace it: Latency.measured(..., again=True)."
        )
    return {"entries": record["entries"], "networks": record["networks"]}


def _words(machine: Mapping[str, Any]) -> str:
    threads = f" with {machine['threads']} threads" if machine["threads"] else ""
    return f"{machine['device']}{threads} and PyTorch {machine['torch']}"


def _calls(operations: Sequence[Operation], record: Mapping[str, Any]) -> tuple[tuple[str, Entry], ...]:
    entries = {name: Entry.of(record["entries"][name]) for name in dict.fromkeys(one.name for one in operations)}
    return tuple((one.name, entries[one.name]) for one in operations)


# What is timed ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of an operator, the operand that the operator before it has written, and the bytes of all operands."""

    run: Callable[[], object]
    written: Tensor | None
    held: int

    def warm(self) -> None:
        """Write that operand, as the operator before would."""
        if self.written is not None and self.written.is_floating_point():
            self.written.fill_(0.5)


@dataclass
class _Subject:
    """An operator to be timed: a call of it, and what changes in a cut.

    Attributes:
        name: What the graph calls it.
        node: The call.
        axes: The places of each width that changes.
        dense: These widths.
        units: What each width is a multiple of.
        joint: Whether all widths change together.
        times: For each point its seconds, one for each round.
    """

    name: str
    node: Node
    axes: tuple[tuple[Place, ...], ...]
    dense: tuple[int, ...]
    units: tuple[int, ...]
    joint: bool
    times: list[list[float]] = field(default_factory=list)
    points: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = []
        for size, unit in zip(self.dense, self.units, strict=True):
            row = [min(max(round(size * part / unit), LEAST) * unit, size) for part in PARTS]
            rows.append(row if self.joint else sorted(set(row)))
        if self.joint:
            each = [*dict.fromkeys(zip(*rows, strict=True))]
            sums = [self._sum(point) for point in each]
            self.points = [each[0], *(p for p, (a, b) in zip(each[1:], pairwise(sums), strict=True) if b > a)]
            self.widths: tuple[tuple[int, ...], ...] = (tuple(map(self._sum, self.points)),)
        else:
            self.points = [*product(*rows)]
            self.widths = tuple(map(tuple, rows))
        self.times = [[] for _ in self.points]

    def _sum(self, point: Sequence[int]) -> int:
        return sum(size * len(places) for size, places in zip(point, self.axes, strict=True))

    def covered(self, record: Mapping[str, Any]) -> bool:
        """Whether the file has an entry in which the same widths change."""
        there = record["entries"].get(self.name)
        if there is None:
            return False
        entry = Entry.of(there)
        return (entry.axes, entry.widths, entry.joint) == (self.axes, self.widths, self.joint)

    def call(self, point: Sequence[int], device: torch.device) -> "_Call":
        """A call of the operator at these widths, on random entries."""
        sizes = {place: size for size, places in zip(point, self.axes, strict=True) for place in places}
        operands = operands_of(self.node)
        made: dict[Node, Tensor] = {}
        for number, one in enumerate(operands):
            value = one.meta["val"]
            shape = [sizes.get((number, dim)) or size for dim, size in enumerate(value.shape)]
            made[one] = _random(value, shape).to(device)
        given: Any = map_arg((self.node.args, self.node.kwargs), made.get)
        args, kwargs = list(given[0]), dict(given[1])
        operator, target = operator_of(self.node), self.node.target
        if operator.kind is Kind.TRAILING_NORM:
            args[1] = list(args[0].shape[-len(args[1]) :])
        elif operator.groups is not None and self.joint and len(args) > operator.groups:
            args[operator.groups] = args[operator.groups] * point[0] // self.dense[0]
        if "device" in kwargs:
            kwargs["device"] = device
        assert callable(target)
        written = next((made[one] for one in operands if one.op == "call_function"), None)
        held = sum(one.nbytes for one in made.values())
        return _Call(lambda: target(*args, **kwargs), written, held)


def _random(like: Any, shape: Sequence[int]) -> Tensor:
    last = len(shape) == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    made = torch.rand(shape).to(like.dtype) if like.is_floating_point() else torch.zeros(shape, dtype=like.dtype)
    return made.contiguous(memory_format=torch.channels_last) if last else made


def _subjects(structure: Structure) -> dict[str, _Subject]:
    """Every operator of the graph once, with the finest division of its widths among its calls."""
    assert structure.graph is not None
    nodes = {node.name: node for node in structure.graph.program.graph.nodes}
    axes: dict[str, list[set[Place]]] = {}
    first: dict[str, Operation] = {}
    grouped = set()
    for one in structure.work.operations:
        first.setdefault(one.name, one)
        mine: dict[tuple[int, ...], set[Place]] = {}
        for number, layout in enumerate(one.operands):
            for dim, classes in enumerate(layout.classes):
                if classes is not None and bool((classes >= 0).any()):
                    mine.setdefault(tuple(classes.tolist()), set()).add((number, dim))
        axes[one.name] = _finest(axes.get(one.name, []), [*mine.values()])
        if one.node in structure.graph.arguments:
            grouped.add(one.name)
    return {name: _subject(nodes[one.node], one, axes[name], name in grouped) for name, one in first.items()}


def _finest(one: list[set[Place]], other: list[set[Place]]) -> list[set[Place]]:
    """The places of both, together only where neither tells them apart."""
    known, more = {place for axis in one for place in axis}, {place for axis in other for place in axis}
    parts = [a & b for a in one for b in other]
    parts += [axis - more for axis in one]
    parts += [axis - known for axis in other]
    return [part for part in parts if part]


def _subject(node: Node, operation: Operation, found: Sequence[set[Place]], varied: bool) -> _Subject:
    axes = tuple(tuple(sorted(places)) for places in sorted(found, key=min))
    dense = tuple(operation.operands[places[0][0]].shape[places[0][1]] for places in axes)
    operator, units = operator_of(node), [1] * len(axes)
    if operator.groups is not None and len(node.args) > operator.groups and isinstance(node.args[operator.groups], int):
        groups = node.args[operator.groups]
        assert isinstance(groups, int)
        units = [size // groups if varied else groups for size in dense]
        units = [unit if unit and size % unit == 0 else size for unit, size in zip(units, dense, strict=True)]
    return _Subject(operation.name, node, axes, dense, tuple(units), joint=varied or len(axes) > 2)


# The timings ------------------------------------------------------------------------------------------


class _Rounds:
    """All timings, made in turn.

    Args:
        model: The network.
        structure: Its classes.
        example: What it takes.
        subjects: The operators.
        clock: Gives the time.
        device: Where everything runs.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, example: Any, subjects: list[_Subject], clock: Clock, device: Any
    ) -> None:
        self.subjects, self.clock, self.device, self.example = subjects, clock, device, example
        self.keeps = [*_choices(structure)]
        self.sizes = [Sizes(model, structure).keeping(keep) for keep in self.keeps]
        self.networks = [duplicate(model).eval() for _ in self.keeps]
        for network, keep in zip(self.networks, self.keeps, strict=True):
            if not bool(keep.all()):
                cut(structure, network, keep, None)
        self.whole: list[list[float]] = [[] for _ in self.keeps]

    def run(self, seconds: float) -> None:
        """Rounds until timings are steady, or time is up."""
        least, most = ROUNDS
        began = time.monotonic()
        with torch.inference_mode():
            for number in range(most):
                self._round()
                steady = number + 1 >= least and self._unsteadiness() < STEADY
                if number + 1 >= least and (steady or time.monotonic() - began > seconds * (number + 1) / (number + 2)):
                    return

    def entry(self, subject: _Subject) -> Entry:
        """The entry of an operator."""
        usual = [_summed_up(times) for times in subject.times]
        dense = usual[-1] if math.isfinite(usual[-1][0]) else (0.0, 0.0)  # what does not run alone is not counted
        seconds, spreads = zip(*(one if math.isfinite(one[0]) else dense for one in usual), strict=True)
        return Entry(subject.axes, subject.widths, seconds, spreads, subject.joint)

    def timings(self, table: Table) -> list[Timing]:
        """The times of the network, beside what the table says of each."""
        pairs = zip(self.sizes, map(_summed_up, self.whole), strict=True)
        return [Timing(table.sum(sizes), *times) for sizes, times in pairs]

    def _round(self) -> None:
        points = [(subject, place) for subject in self.subjects for place in range(len(subject.points))]
        group: list[tuple[list[float], _Call]] = []
        for k in torch.randperm(len(points)).tolist():
            subject, place = points[k]
            group.append((subject.times[place], subject.call(subject.points[place], self.device)))
            if sum(call.held for _, call in group) > TOGETHER:
                self._time_together(group)
                group = []
        if group:
            self._time_together(group)
        for network, times in zip(self.networks, self.whole, strict=True):
            times.append(self._timed(partial(called, network, self.example)))

    def _time_together(self, group: Sequence[tuple[list[float], "_Call"]]) -> None:
        """Call operators in turn, several times: in a network, too, others come between two calls of one.

        A kernel that finds its code and its weights in the caches, as in a loop of its own, can be twice as fast. What
        it reads of the operator before has just been written.
        """
        found: list[list[float]] = [[] for _ in group]
        began, passes = time.monotonic(), 0
        while passes < 3 or (passes < 20 and time.monotonic() - began < BURST * len(group)):
            for (_, call), times in zip(group, found, strict=True):
                try:
                    call.warm()
                    times.append(self._seconds(call.run, 1) if self.device.type == "cpu" else self._timed(call.run))
                except (RuntimeError, ValueError, IndexError, TypeError):  # these widths are none that it takes
                    times.append(math.inf)
            passes += 1
        empty = median(self._seconds(_nothing, 1) for _ in range(20)) if self.device.type == "cpu" else 0.0
        for (into, _), times in zip(group, found, strict=True):
            into.append(max(median(times[1:]) - empty, 0.0))

    def _timed(self, call: Callable[[], object]) -> float:
        call()
        once = self._seconds(call, 1)
        count = max(1, min(50, round(5 * BURST / max(once, 1e-7))))
        return self._seconds(call, count) / count

    def _seconds(self, call: Callable[[], object], count: int) -> float:
        self._wait()
        began = self.clock()
        for _ in range(count):
            call()
        self._wait()
        return self.clock() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _unsteadiness(self) -> float:
        times = [*(one for subject in self.subjects for one in subject.times), *self.whole]
        return median(_summed_up(one)[1] for one in times)


def _nothing() -> None:
    """What takes no time but that of the clock."""


def _choices(structure: Structure) -> Iterator[Tensor]:
    """What stays in the networks that are timed: a random part of every space, equal parts and different ones."""
    space, generator = structure.spaces(), torch.Generator().manual_seed(0)
    count = int(space.max()) + 1 if len(space) else 0
    parts = [torch.full((count,), part) for part in CUTS]
    parts += [torch.rand(count, generator=generator) * 0.8 + 0.05 for _ in range(VARIED)]
    sizes = torch.bincount(space, minlength=count)
    for part in parts:
        order = torch.rand(len(space), generator=generator)
        stays = (part * sizes).round().clamp_min(1).long()
        yield unemptied(structure, within(order, space, stays))


def _summed_up(times: Sequence[float]) -> tuple[float, float]:
    """The median, and half the range of the middle half over it."""
    middle = median(times)
    if not math.isfinite(middle):
        return middle, 0.0
    lower, _, upper = quantiles(times, n=4, method="inclusive")
    return middle, (upper - lower) / 2 / middle if middle else 0.0
