"""Finished runs as the poster's table: one row per description, with its numbers over the seeds and its dense twin's.

`rows = table(results)`, then `markdown(rows)` or `csv(rows)`; other forms read `row.spread(column)` for each of
`columns(rows)`: the task's metrics, then the costs, which are the same for all tasks.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from csv import writer
from dataclasses import asdict, dataclass, fields, replace

import earlycrop
from earlycrop.units import Weights
from earlycrop_lab.reporting.columns import COLUMNS, NAMED, Column, Spread, column
from earlycrop_lab.reporting.conditions import comparable, condition, conditions, letter, setting
from earlycrop_lab.reporting.numbers import NONE, large, times
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import PRUNING, Description, Metric, prunes


@dataclass(frozen=True)
class Row:
    """All seeds of one description.

    Args:
        results: The runs, by seed; their descriptions differ in nothing else.
        dense: The runs of the dense twin, by seed; empty if there is none.
        marks: Letters of those of its runs' conditions that are not the table's most common one (see `footnotes`).
    """

    results: tuple[Result, ...]
    dense: tuple[Result, ...]
    marks: str

    @property
    def description(self) -> Description:
        """The description of its first seed."""
        return self.results[0].description

    @property
    def metric(self) -> Metric:
        """The task's main metric."""
        return self.description.metric

    @property
    def figure(self) -> Spread:
        """The main metric over the seeds."""
        found = self.spread(column(self.metric))
        assert found is not None  # every run has it
        return found

    @property
    def prunes(self) -> bool:
        """Whether the method removes anything."""
        return prunes(earlycrop.get_method(self.description.method))

    @property
    def masks(self) -> bool:
        """Whether the method masks weights, so that no layer becomes smaller."""
        return self.prunes and isinstance(earlycrop.get_method(self.description.method).units, Weights)

    @property
    def setting(self) -> str:
        """What it has in common with its dense twin: the network, the data, the training."""
        return setting(self.description)

    @property
    def name(self) -> str:
        """The method and the pruning options that are not every task's default, so a task's usual floor is shown."""
        return self._named(lambda name, value: "" if value is True else f" {value}")

    @property
    def line(self) -> str:
        """Its name among other sparsities: as `name`, but without the values of options that are usual for the task."""
        usual = self.description.usual()
        return self._named(lambda name, value: "" if value is True or value == getattr(usual, name) else f" {value}")

    def _named(self, stated: Callable[[str, object], str]) -> str:
        d = self.description
        asked = [
            name.replace("_", " ") + stated(name, value)
            for name, default in ((each.name, each.default) for each in fields(d))
            if name in PRUNING and name != "sparsity" and (value := getattr(d, name)) != default
        ]
        return f"{d.method} ({', '.join(asked)})" if asked else d.method

    @property
    def sparsity(self) -> float | None:
        """The requested sparsity; None for dense."""
        return self.description.sparsity if self.prunes else None

    @property
    def asked(self) -> str:
        """The requested sparsity in percent."""
        return NONE if self.sparsity is None else f"{100 * self.sparsity:g} %"

    @property
    def label(self) -> str:
        """The method and the requested sparsity, for a plot."""
        return self.name if self.sparsity is None else f"{self.name} {self.asked}"

    def spread(self, column: Column) -> Spread | None:
        """A column's statistics over the seeds; None where no run has it."""
        return Spread.of(map(column.read, self.results), column.bounds)

    def mean(self, column: Column) -> float | None:
        """A column's mean over the seeds; None where no run has it."""
        spread = self.spread(column)
        return None if spread is None else spread.mean

    def multiple(self, column: Column) -> float | None:
        """A column's mean over the dense twin's; None for dense itself, without a twin, and under unlike conditions."""
        own, dense = self.spread(column), Spread.of(map(column.read, self.dense))
        if not (self.prunes and own and dense and dense.mean and comparable(column.name, (*self.results, *self.dense))):
            return None
        return own.mean / dense.mean

    def interval(self, column: Column) -> str:
        """The 95 % interval of the main metric's mean; empty for other columns, and without a deviation."""
        spread = self.spread(column)
        if column.name != self.metric.name or spread is None or not column.show_deviation(spread):
            return ""
        return " to ".join(map(column.show, spread.interval))

    def text(self, column: Column) -> str:
        """A cell of the table: mean ± deviation, the interval, n where not all runs have it, and the multiple."""
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
    """The rows by setting; in each, dense first, then by sparsity, masks after channels, in the order of `METHODS`.

    Of several results of one description and seed the first counts.
    """
    runs: dict[Description, Result] = {}
    for result in results:
        runs.setdefault(result.description, result)
    results = list(runs.values())
    groups: dict[Description, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result.description.seed):
        groups[_seedless(result.description)].append(result)
    letters = {text: letter(number) for number, text in enumerate(conditions(results))}
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
    """The rows by setting; those of one setting can be compared with each other."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.setting].append(row)
    return dict(groups)


def columns(rows: Iterable[Row]) -> list[Column]:
    """The metrics of the rows' tasks, then all other columns."""
    return [*map(column, dict.fromkeys(metric for row in rows for metric in row.description.metrics)), *COLUMNS]


def shown_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns for which any of the rows has a number."""
    return [column for column in columns(rows) if any(row.spread(column) for row in rows)]


def frontier(rows: Iterable[Row], cost: Column) -> list[Row]:
    """The Pareto frontier by increasing cost: no other row is as good at a lower cost, or better at the same.

    Metric and cost are means; rows without the cost are left out.
    """
    points = [(c.mean, row.metric.gain(row.figure.mean, 0), row) for row in rows if (c := row.spread(cost))]
    best = [
        (cheap, good, row)
        for cheap, good, row in points
        if not any(c <= cheap and g >= good and (c, g) != (cheap, good) for c, g, _ in points)
    ]
    return [row for *_, row in sorted(best, key=lambda point: point[0])]


def unequal(rows: Iterable[Row]) -> str:
    """A warning where FLOPs differ, so that nobody takes the ranking for one at equal cost; otherwise empty."""
    known = [flops for row in rows if (flops := row.mean(NAMED["flops"]))]
    if not known or max(known) <= SAME * min(known):
        return ""
    return f"The networks have {large(min(known))} to {large(max(known))} FLOPs: this is no comparison at equal cost."


SAME = 1.01
"""Up to this ratio, FLOPs count as equal."""


def footnotes(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """For each condition its letter in `Row.marks`, empty for the most common, and its text with the runs' load."""
    notes = []
    for number, (text, runs) in enumerate(conditions(result for row in rows for result in row.results).items()):
        loads = [run.environment.get(name) for run in runs for name in ("load", "load_after")]
        known = [load for load in loads if load is not None]
        load = f"load {min(known):g} to {max(known):g}" if known else "load unknown"
        notes.append((letter(number), f"{len(runs)} run{'s' * (len(runs) > 1)}, {load}: {text}"))
    return notes


def data_of(rows: Iterable[Row]) -> str:
    """What the runs were trained and tested on, in words; empty where no result records it."""
    return "; ".join(dict.fromkeys(result.data for row in rows for result in row.results if result.data))


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table for each setting, and the conditions of the measurements."""
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
    "Mean ± sample standard deviation over the seeds, n runs per row; no ± where all agree; for the main metric also "
    "Student's 95 % interval of the mean. "
    "× is the multiple of the dense run's mean. “Dense” is the phase before the cut, “cut” what is left after it."
)


def csv(rows: Sequence[Row]) -> str:
    """The description, and unrounded mean, deviation, n and interval of each column, in the unit of its name."""
    file = io.StringIO()
    lines = writer(file, lineterminator="\n")
    described = {row.description.task: fields(row.description) for row in rows}
    asked = list(dict.fromkeys(each.name for own in described.values() for each in own if each.name != "seed"))
    header, all_columns = ["task", *asked, "seeds", "conditions"], columns(rows)
    for each in all_columns:
        header += [f"{each.name}_{part}" for part in ("mean", "deviation", "n", "low", "high")]
        header += [f"{each.name}_multiple"] * each.multiple
    lines.writerow(header)
    for row in rows:
        d = asdict(row.description)
        if not row.prunes:
            d = {name: None if name in PRUNING else value for name, value in d.items()}
        line = [row.description.task, *(d.get(name) for name in asked)]
        line.append(" ".join(str(result.description.seed) for result in row.results))
        line.append(" | ".join(dict.fromkeys(map(condition, row.results))))
        for each in all_columns:
            spread = row.spread(each)
            if spread is None:
                line += [None, None, 0, None, None]
            else:
                line += [spread.mean, spread.deviation, spread.n, *(spread.interval if spread.n > 1 else (None, None))]
            line += [row.multiple(each)] * each.multiple
        lines.writerow(line)
    return file.getvalue()


def _seedless(description: Description) -> Description:
    return replace(description, seed=0)
