"""The columns of the poster's table, and the statistics of each over the seeds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean, stdev

from earlycrop_lab.reporting.intervals import Interval, student, within
from earlycrop_lab.reporting.numbers import NONE, amount, digits, percent
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import Metric


@dataclass(frozen=True)
class Spread:
    """Statistics of a number over the seeds: mean, sample standard deviation (n − 1), n, 95 % interval of the mean.

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
        """Over the runs that have the number, with the interval clipped to `bounds`; None if no run has it."""
        had = [value for value in values if value is not None]
        if not had:
            return None
        return cls(fmean(had), stdev(had) if len(had) > 1 else None, len(had), within(student(had), bounds))


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Args:
        name: Its name in a CSV file, which includes the unit.
        group: The heading of its group of columns.
        label: Its label within the group; empty if it is the only one.
        read: Reads the number from a result; None where it does not apply or was not measured.
        unit: The unit in which it is shown, as the number times `scale`.
        scale: See `unit`.
        multiple: Whether it is also shown as a multiple of the dense run's.
        bounds: The least and the greatest possible number.
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
        """The group, the label and the unit on one line."""
        named = f"{self.group}, {self.label}" if self.label else self.group
        return f"{named} [{self.unit}]" if self.unit else named

    def show(self, value: float | None) -> str:
        """A value without its unit: percents to a tenth, counts whole, others to three significant digits."""
        if value is None:
            return NONE
        if self.unit == "%":
            return percent(value).removesuffix(" %")
        shown = value * self.scale
        return digits(shown) if self.unit and 0.001 <= shown < 1000 else amount(shown)

    def show_deviation(self, spread: Spread) -> str:
        """The deviation with as many decimals as the mean; empty for one run, and where all runs agree."""
        if not spread.deviation:
            return ""
        shown = self.show(spread.mean)
        if "e" in shown:
            return self.show(spread.deviation)
        decimals = len(shown.partition(".")[2])
        return f"{spread.deviation * (100 if self.unit == '%' else self.scale):,.{decimals}f}"


def _pruned(read: Callable[[Result], float | None]) -> Callable[[Result], float | None]:
    """`read` for pruned runs; None for dense ones, which have no such phase."""
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
"""The poster's columns but accuracy, in its order; steps and memory are those of the dense phase and after the cut."""
NAMED = {each.name: each for each in COLUMNS}


def column(metric: Metric) -> Column:
    """The column of a task's metric."""
    return Column(
        metric.name,
        metric.label,
        "",
        lambda r: r.columns.metrics.get(metric.name),
        metric.unit,
        bounds=metric.bounds,
    )


def shown(metric: Metric, value: float | None) -> str:
    """A value of a metric with its unit.

    >>> shown(Metric("test_accuracy", "test accuracy", unit="%"), 0.987)
    '98.7 %'
    >>> shown(Metric("rms", "rms", "lower", "m"), 0.5734)
    '0.573 m'
    """
    return percent(value) if metric.unit == "%" else amount(value, metric.unit)


def spread_percent(parts: Sequence[float]) -> str:
    """The mean of fractions ± their sample standard deviation, in percent.

    >>> spread_percent([0.25, 0.75]), spread_percent([0.5])
    ('50.0 ± 35.4 %', '50.0 %')
    """
    spread = Spread.of(parts)
    assert spread is not None
    beside = "" if spread.deviation is None else f" ± {100 * spread.deviation:.1f}"
    return f"{100 * spread.mean:.1f}{beside} %"
