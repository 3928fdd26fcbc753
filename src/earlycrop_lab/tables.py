"""Finished runs as the poster's table: a row a description, its numbers over the seeds, beside its dense twin's.

`rows = table(results)`, then `markdown(rows)` or `csv(rows)`; other forms read `row.spread(column)` of `columns(rows)`:
the figures that the task is judged by, then what they cost, which is the same for all tasks.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from csv import writer
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from statistics import fmean, stdev

import earlycrop
from earlycrop.units import Weights
from earlycrop_lab.intervals import Interval, student, within
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import PRUNING, Description, Metric, prunes

NONE = "–"


@dataclass(frozen=True)
class Spread:
    """What a number is over the seeds: mean, sample standard deviation (over n − 1), n, 95 % interval of the mean.

    >>> spread = Spread.of([1.0, None, 2.0, 3.0])
    >>> spread.mean, spread.deviation, spread.n, [round(end, 2) for end in spread.interval]
    (2.0, 1.0, 3, [-0.48, 4.48])
    >>> Spread.of([0.5])
    Spread(mean=0.5, deviation=None, n=1, interval=(-inf, inf))
    """

    mean: float
    deviation: float | None
    n: int
    interval: Interval = (-inf, inf)

    @classmethod
    def of(cls, values: Iterable[float | None], bounds: Interval = (-inf, inf)) -> "Spread | None":
        """Of the runs that have the number, which is within these bounds; None if none has."""
        had = [value for value in values if value is not None]
        if not had:
            return None
        return cls(fmean(had), stdev(had) if len(had) > 1 else None, len(had), within(student(had), bounds))


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Args:
        name: In a CSV file, with its unit.
        group: What it is of.
        label: Which of the group's; empty if it is alone.
        read: The number of a run, None where it does not apply or was not had.
        unit: Of what is shown, which is the number times `scale`.
        scale: See `unit`.
        multiple: Whether it says how many times the dense run's it is.
        bounds: What the number can be.
    """

    name: str
    group: str
    label: str
    read: Callable[[Result], float | None]
    unit: str = ""
    scale: float = 1.0
    multiple: bool = False
    bounds: Interval = (0.0, inf)

    @property
    def heading(self) -> str:
        """The group, the label and the unit in one line."""
        named = f"{self.group}, {self.label}" if self.label else self.group
        return f"{named} [{self.unit}]" if self.unit else named

    def show(self, value: float | None) -> str:
        """A value without its unit: percents to a tenth, counts whole, else three digits that count."""
        if value is None:
            return NONE
        if self.unit == "%":
            return percent(value).removesuffix(" %")
        shown = value * self.scale
        return _digits(shown) if self.unit and 0.001 <= shown < 1000 else amount(shown)

    def show_deviation(self, spread: Spread) -> str:
        """A deviation with the decimals of its mean; empty for one run, and where all runs agree."""
        if not spread.deviation:
            return ""
        shown = self.show(spread.mean)
        if "e" in shown:
            return self.show(spread.deviation)
        decimals = len(shown.partition(".")[2])
        return f"{spread.deviation * (100 if self.unit == '%' else self.scale):,.{decimals}f}"


def _pruned(read: Callable[[Result], float | None]) -> Callable[[Result], float | None]:
    """Nothing for a dense run, which has no such phase."""
    return lambda result: None if result.report is None else read(result)


COLUMNS: tuple[Column, ...] = (
    Column("weight_sparsity", "sparsity", "weights", lambda r: r.columns.weight_sparsity, "%", bounds=(0.0, 1.0)),
    Column("node_sparsity", "sparsity", "nodes", lambda r: r.columns.node_sparsity, "%", bounds=(0.0, 1.0)),
    Column("parameters", "parameters", "", lambda r: r.columns.parameters_after),
    Column("flops", "FLOPs", "", lambda r: r.columns.flops_after, "M", 1e-6),
    Column("epochs", "epochs", "", lambda r: len(r.epochs)),
    Column("optimizer_steps", "steps", "", lambda r: r.columns.optimizer_steps, multiple=True),
    Column("seconds", "training time", "all", lambda r: r.columns.seconds, "s", multiple=True),
    Column("dense_seconds", "training time", "dense", lambda r: r.columns.dense_seconds, "s"),
    Column("scoring_seconds", "training time", "scoring", _pruned(lambda r: r.columns.scoring_seconds), "s"),
    Column("sparse_seconds", "training time", "sparse", _pruned(lambda r: r.columns.sparse_seconds), "s"),
    Column("dense_step_milliseconds", "training step", "dense", lambda r: r.columns.dense_step_milliseconds, "ms"),
    Column("sparse_step_milliseconds", "training step", "cut", lambda r: r.columns.sparse_step_milliseconds, "ms"),
    Column("dense_memory_bytes", "peak memory", "dense", lambda r: r.columns.dense_memory_bytes, "MB", 1e-6),
    Column("sparse_memory_bytes", "peak memory", "cut", lambda r: r.columns.sparse_memory_bytes, "MB", 1e-6),
    Column("dense_cuda_bytes", "CUDA memory", "dense", lambda r: r.columns.dense_cuda_bytes, "MB", 1e-6),
    Column("sparse_cuda_bytes", "CUDA memory", "cut", lambda r: r.columns.sparse_cuda_bytes, "MB", 1e-6),
    Column("inference_milliseconds", "inference", "", lambda r: r.columns.inference_milliseconds, "ms"),
    Column("disk_bytes", "disk", "", lambda r: r.columns.disk_bytes, "MB", 1e-6),
    Column("grams_co2", "emissions", "CO₂", lambda r: r.columns.grams_co2, "g", multiple=True),
    Column("kwh", "emissions", "energy", lambda r: r.columns.kwh, "Wh", 1000),
)
"""The poster's beside accuracy, in its order; a step and memory are those of the dense phase and after the cut."""
NAMED = {each.name: each for each in COLUMNS}


def column(metric: Metric) -> Column:
    """Of a figure that a task is judged by."""
    return Column(
        metric.name,
        metric.label,
        "",
        lambda r: r.columns.metrics.get(metric.name),
        metric.unit,
        bounds=metric.bounds,
    )


def shown(metric: Metric, value: float | None) -> str:
    """A value of it with its unit.

    >>> shown(Metric("test_accuracy", "test accuracy", unit="%"), 0.987)
    '98.7 %'
    >>> shown(Metric("rms", "rms", "lower", "m"), 0.5734)
    '0.573 m'
    """
    return percent(value) if metric.unit == "%" else amount(value, metric.unit)


@dataclass(frozen=True)
class Row:
    """All seeds of one description.

    Args:
        results: The runs, by seed; their descriptions differ in nothing else.
        dense: The runs of the dense twin, by seed; empty if there is none.
        marks: Letters of the conditions of its runs that are not the table's commonest (see `footnotes`).
    """

    results: tuple[Result, ...]
    dense: tuple[Result, ...]
    marks: str

    @property
    def description(self) -> Description:
        """Of its first seed."""
        return self.results[0].description

    @property
    def metric(self) -> Metric:
        """The figure that counts."""
        return self.description.metric

    @property
    def figure(self) -> Spread:
        """That figure over the seeds."""
        found = self.spread(column(self.metric))
        assert found is not None  # every run has it
        return found

    @property
    def prunes(self) -> bool:
        """Whether anything ever leaves."""
        return prunes(earlycrop.get_method(self.description.method))

    @property
    def masks(self) -> bool:
        """Whether weights are masked, so that no layer becomes smaller."""
        return self.prunes and isinstance(earlycrop.get_method(self.description.method).units, Weights)

    @property
    def setting(self) -> str:
        """What it shares with its dense twin: the network, the data, the training."""
        return setting(self.description)

    @property
    def name(self) -> str:
        """The method, with what was asked of its cut that is not every task's default: a usual floor is told too."""
        return self._named(lambda name, value: "" if value is True else f" {value}")

    @property
    def line(self) -> str:
        """What it is called together with other sparsities: the same, without how much it is where that is usual."""
        usual = self.description.usual()
        return self._named(lambda name, value: "" if value is True or value == getattr(usual, name) else f" {value}")

    def _named(self, told: Callable[[str, object], str]) -> str:
        d = self.description
        asked = [
            name.replace("_", " ") + told(name, value)
            for name, default in ((each.name, each.default) for each in fields(d))
            if name in PRUNING and name != "sparsity" and (value := getattr(d, name)) != default
        ]
        return f"{d.method} ({', '.join(asked)})" if asked else d.method

    @property
    def sparsity(self) -> float | None:
        """What was asked to leave; None for dense."""
        return self.description.sparsity if self.prunes else None

    @property
    def asked(self) -> str:
        """The same in percent."""
        return NONE if self.sparsity is None else f"{100 * self.sparsity:g} %"

    @property
    def label(self) -> str:
        """The method and what was asked, for a picture."""
        return self.name if self.sparsity is None else f"{self.name} {self.asked}"

    def spread(self, column: Column) -> Spread | None:
        """The number over the seeds."""
        return Spread.of(map(column.read, self.results), column.bounds)

    def mean(self, column: Column) -> float | None:
        """Its mean over the seeds; None where no run has it."""
        spread = self.spread(column)
        return None if spread is None else spread.mean

    def multiple(self, column: Column) -> float | None:
        """Its mean over the dense twin's; None for dense itself and without a twin."""
        own, dense = self.spread(column), Spread.of(map(column.read, self.dense))
        return own.mean / dense.mean if self.prunes and own and dense and dense.mean else None

    def interval(self, column: Column) -> str:
        """Of the figure that counts, between what its mean is at 95 %; else, and without deviation, empty."""
        spread = self.spread(column)
        if column.name != self.metric.name or spread is None or not column.show_deviation(spread):
            return ""
        return " to ".join(map(column.show, spread.interval))

    def text(self, column: Column) -> str:
        """As shown in a line: mean ± deviation (n where not all runs have it), and the multiple."""
        spread = self.spread(column)
        if spread is None:
            return NONE
        text = column.show(spread.mean)
        if deviation := column.show_deviation(spread):
            text += f" ± {deviation}"
        if interval := self.interval(column):
            text += f" ({interval})"
        if spread.n < len(self.results):
            text += f" (n = {spread.n})"
        multiple = self.multiple(column) if column.multiple else None
        return text if multiple is None else f"{text} ({times(multiple)})"


def table(results: Iterable[Result]) -> list[Row]:
    """The rows: by setting, in each dense first, then by sparsity, masks after channels, as the methods are listed."""
    results = list(results)
    groups: dict[Description, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.description.seed):
        groups[_seedless(result.description)].append(result)
    letters = {text: _letter(number) for number, text in enumerate(conditions(results))}
    rows = [
        Row(
            tuple(group),
            tuple(groups.get(_seedless(description.dense_twin()), ())),
            "".join(sorted({letters[condition(result)] for result in group})),
        )
        for description, group in groups.items()
    ]
    methods = list(earlycrop.METHODS)

    def order(row: Row) -> tuple:
        return (row.setting, row.prunes, row.sparsity or 0, row.masks, methods.index(row.description.method), row.name)

    return sorted(rows, key=order)


def by_setting(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows that can be compared with each other, by what they share."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.setting].append(row)
    return dict(groups)


def columns(rows: Iterable[Row]) -> list[Column]:
    """The figures of the rows' tasks, then all others."""
    return [*map(column, dict.fromkeys(metric for row in rows for metric in row.description.metrics)), *COLUMNS]


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that any of the rows has."""
    return [column for column in columns(rows) if any(row.spread(column) for row in rows)]


def frontier(rows: Iterable[Row], cost: Column) -> list[Row]:
    """The rows that no other beats, by increasing cost: none is as good for less, nor better for as much.

    Both are means; rows without the cost are left out.
    """
    points = [(c.mean, row.metric.gain(row.figure.mean, 0), row) for row in rows if (c := row.spread(cost))]
    best = [
        (cheap, good, row)
        for cheap, good, row in points
        if not any(c <= cheap and g >= good and (c, g) != (cheap, good) for c, g, _ in points)
    ]
    return [row for *_, row in sorted(best, key=lambda point: point[0])]


def unequal(rows: Iterable[Row]) -> str:
    """A sentence where the FLOPs of rows differ, so that nobody takes their ranking for one at equal cost."""
    known = [flops for row in rows if (flops := row.mean(NAMED["flops"]))]
    if not known or max(known) <= SAME * min(known):
        return ""
    return f"The rows have {large(min(known))} to {large(max(known))} FLOPs, so this is no comparison at equal cost."


SAME = 1.01
"""Up to this ratio, FLOPs count as equal."""


def setting(d: Description) -> str:
    """What a run shares with its dense twin, in words; what is usual for the data is not said, and a rehearsal is.

    >>> from earlycrop_lab.tasks.classification import Classification
    >>> setting(Classification(data="cifar10", train_size=10_000, epochs=12, learning_rate=0.001))
    'resnet18 of width 64 on cifar10, 10,000 training images, 12 epochs, learning rate 0.001'
    """
    usual = d.usual()
    images = f", {d.train_size:,} {d.samples}" if d.train_size else ""
    told = ("network", "width", "data", "train_size", "epochs", "max_steps", "seed", *PRUNING)
    more = [
        f", {each.name.replace('_', ' ')} {getattr(d, each.name)}"
        for each in fields(d)
        if each.metadata["tag"] is not None
        and each.name not in told
        and getattr(d, each.name) != getattr(usual, each.name)
    ]
    epochs = f"{d.epochs} epoch{'s' * (d.epochs > 1)}"
    steps = f"{d.max_steps} batch{'es' * (d.max_steps != 1)} an epoch"
    rehearsal = "" if d.max_steps is None else f"A REHEARSAL, NO RESULT ({steps}): "
    return f"{rehearsal}{d.network} of width {d.width} on {d.data}{images}, {epochs}{''.join(more)}"


def condition(result: Result) -> str:
    """Under what the figures of a run were had, but for the load: hardware, threads, versions, electricity."""
    e, m = result.environment, result.emissions
    device = e["cpu"] if e["device"] == "cpu" else f"{e['device']}, {e['cpu']}"
    packages = e["packages"]
    ours = f"commit {_short(e['commit'])}" if e.get("commit") else f"version {packages.get('earlycrop', 'unknown')}"
    began = f"; begun with other {' and '.join(e['changed_from'])}" if e.get("changed_from") else ""
    ranks = f"{e['ranks']} processes of " if e.get("ranks", 1) > 1 else ""
    return (
        f"{device}, {ranks}{e['threads']} thread{'s' * (e['threads'] > 1)} on {e['cpus']} CPUs; "
        f"earlycrop of {ours}, torch {packages['torch']}{began}. "
        f"Emissions: mix of {m.country}, PUE {m.pue:g}, whole machine; {m.power}."
    )


def conditions(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The runs by condition, the commonest first."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[condition(result)].append(result)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def footnotes(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """For each condition its letter in `Row.marks`, empty for the commonest, and the condition with its runs' load."""
    notes = []
    for number, (text, runs) in enumerate(conditions(result for row in rows for result in row.results).items()):
        loads = [run.environment.get(name) for run in runs for name in ("load", "load_after")]
        known = [load for load in loads if load is not None]
        load = f"load {min(known):g} to {max(known):g}" if known else "load unknown"
        notes.append((_letter(number), f"{len(runs)} run{'s' * (len(runs) > 1)}, {load}: {text}"))
    return notes


def data_of(rows: Iterable[Row]) -> str:
    """What the runs were trained and tested on, in words; empty where no run knows."""
    return "; ".join(dict.fromkeys(result.data for row in rows for result in row.results if result.data))


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table for each setting, and under what the figures were had."""
    parts = []
    for name, group in by_setting(rows).items():
        columns = shown_columns(group)
        header = ["method", "asked", "n", *(column.heading for column in columns)]
        lines = [header, ["---", *("---:" for _ in header[1:])]]
        for row in group:
            marks = f" [{row.marks}]" if row.marks else ""
            lines.append(
                [f"`{row.name}`{marks}", row.asked, str(len(row.results)), *(row.text(each) for each in columns)]
            )
        parts += [f"**{name}**", data_of(group), "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    notes = [f"- {f'[{letter}] ' if letter else ''}{text}" for letter, text in footnotes(rows)]
    return "\n\n".join(filter(None, [*parts, SPREAD, "\n".join(notes)])) + "\n"


SPREAD = (
    "Mean ± sample standard deviation over the seeds, n runs a row; no ± where all agree; of the figure that counts "
    "Student's 95 % interval of the mean too. "
    "× is the multiple of the dense run's mean. “Dense” is the phase before the cut, “cut” what is left after it."
)


def csv(rows: Sequence[Row]) -> str:
    """Every number unrounded and in the unit of its name: what was asked, then mean, deviation and n of each column."""
    file = io.StringIO()
    lines = writer(file, lineterminator="\n")
    described = {row.description.task: fields(row.description) for row in rows}
    asked = list(dict.fromkeys(each.name for own in described.values() for each in own if each.name != "seed"))
    header, all_columns = ["task", *asked, "seeds", "conditions"], columns(rows)
    for column in all_columns:
        header += [f"{column.name}_{part}" for part in ("mean", "deviation", "n", "low", "high")]
        header += [f"{column.name}_multiple"] * column.multiple
    lines.writerow(header)
    for row in rows:
        d = asdict(row.description)
        if not row.prunes:
            d = {name: None if name in PRUNING else value for name, value in d.items()}
        line = [row.description.task, *(d.get(name) for name in asked)]
        line.append(" ".join(str(result.description.seed) for result in row.results))
        line.append(" | ".join(dict.fromkeys(map(condition, row.results))))
        for column in all_columns:
            spread = row.spread(column)
            if spread is None:
                line += [None, None, 0, None, None]
            else:
                line += [spread.mean, spread.deviation, spread.n, *(spread.interval if spread.n > 1 else (None, None))]
            line += [row.multiple(column)] * column.multiple
        lines.writerow(line)
    return file.getvalue()


def percent(part: float | None) -> str:
    """A part, in percent.

    >>> percent(0.9501), percent(None)
    ('95.0 %', '–')
    """
    return NONE if part is None else f"{100 * part:.1f} %"


def spread_percent(parts: Sequence[float]) -> str:
    """The mean of parts ± their sample standard deviation, in percent.

    >>> spread_percent([0.25, 0.75]), spread_percent([0.5])
    ('50.0 ± 35.4 %', '50.0 %')
    """
    spread = Spread.of(parts)
    assert spread is not None
    beside = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:.1f}{beside} %"


def amount(value: float | None, unit: str = "", scale: float = 1.0) -> str:
    """Three digits that count, thousands apart.

    >>> amount(11173962), amount(0.01234, "g"), amount(1536000, "MB", 1e-6), amount(64.128, "s"), amount(0)
    ('11,173,962', '0.0123 g', '1.54 MB', '64.1 s', '0')
    >>> amount(-83.24)
    '-83.2'
    """
    if value is None:
        return NONE
    value *= scale
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif value == 0:
        text = "0"
    else:
        text = f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2e}"
    return f"{text} {unit}".rstrip()


def times(multiple: float) -> str:
    """A multiple.

    >>> times(0.7), times(11.82)
    ('×0.700', '×11.8')
    """
    return f"×{_digits(multiple)}"


def large(value: float | None) -> str:
    """With a letter for the thousands.

    >>> large(1234567), large(62_000_000_000), large(12)
    ('1.23 M', '62 G', '12')
    """
    if value is None:
        return NONE
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _digits(value: float) -> str:
    """Three of them, zeros too, so that a column can be read down."""
    return f"{value:#.3g}".rstrip(".")


def _seedless(description: Description) -> Description:
    return replace(description, seed=0)


def _letter(number: int) -> str:
    """Of the n-th condition: none, a, b, …, z, aa, bb, …"""
    return "" if number == 0 else chr(ord("a") + (number - 1) % 26) * (1 + (number - 1) // 26)


def _short(commit: str) -> str:
    head, changed, _ = commit.partition("-changed")
    return head[:9] + changed
