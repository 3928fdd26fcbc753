"""Rows of the table in a chart: their colours, their names, their points with deviations."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earlycrop_lab.reporting.charts.canvas import DENSE, HUES, PAPER
from earlycrop_lab.reporting.columns import Column
from earlycrop_lab.reporting.tables import Row
from earlycrop_lab.tasks.description import Metric

BAR = {"linewidth": 1.0, "alpha": 0.55, "solid_capstyle": "butt"}


def colours(rows: Iterable[Row]) -> dict[str, str]:
    """The colour of each line, the same in all charts of the rows."""
    names = list(dict.fromkeys(row.line for row in rows if row.prunes))
    hues = {name: HUES[number % len(HUES)] for number, name in enumerate(names)}
    return hues | {row.line: DENSE for row in rows if not row.prunes}


def labels(rows: Iterable[Row]) -> Callable[[Row], str]:
    """Names the rows, with the sparsity only if there are several, and the width of dense only if widths differ."""
    rows = list(rows)
    several, widths = len(levels(rows)) > 1, len({row.description.width for row in rows}) > 1

    def name(row: Row) -> str:
        width = f", width {row.description.width}" * (widths and not row.prunes)
        return (row.label if several else row.name) + width

    return name


def levels(rows: Iterable[Row]) -> list[float]:
    """The sparsities of the rows, increasing; dense has none."""
    return sorted({row.sparsity for row in rows if row.sparsity is not None})


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The rows, the best first by the mean of the main metric."""
    return sorted(rows, key=lambda row: -row.metric.gain(row.figure.mean, 0))


def axis_title(metric: Metric) -> str:
    """The metric's label with its unit, and "lower is better" where it is."""
    unit = f", {metric.unit}" if metric.unit not in ("", "%") else ""
    return f"{metric.label}{unit}" + (" (lower is better)" if metric.better == "lower" else "")


def capital(text: str) -> str:
    """A text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def mean_of(row: Row, column: Column) -> float:
    """A column's mean over the seeds; 0 where no run has the number."""
    spread = row.spread(column)
    return 0.0 if spread is None else spread.mean


def dash(row: Row) -> Any:
    """The line style of a row: dashed where weights are masked."""
    return (0, (4, 2)) if row.masks else "-"


def figure_axis(axes: Axes, rows: Sequence[Row], vertical: bool = True) -> None:
    """Set up the axis of the main metric, with room for all means and deviations."""
    spreads = [row.figure for row in rows]
    low = min(each.mean - (each.deviation or 0) for each in spreads)
    high = max(each.mean + (each.deviation or 0) for each in spreads)
    margin = 0.07 * (high - low or 0.1)
    (axes.set_ylim if vertical else axes.set_xlim)(low - margin, high + margin)
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_major_locator(MaxNLocator(7 if vertical else 4, steps=[1, 2, 5, 10]))
    part = rows[0].metric.unit == "%"
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if part else f"{value:,.4g}"))


def draw_row(axes: Axes, at: float, row: Row, hue: str, vertical: bool = True) -> None:
    """Draw the main metric of a row, with its deviation."""
    spread = row.figure
    form = "s" if not row.prunes else "D" if row.masks else "o"
    face = PAPER if row.prunes and row.masks else hue
    if spread.deviation:
        ends = [spread.mean - spread.deviation, spread.mean + spread.deviation]
        axes.plot(*((([at] * 2, ends)) if vertical else (ends, [at] * 2)), color=hue, zorder=2, **BAR)
    place = (at, spread.mean) if vertical else (spread.mean, at)
    axes.plot(*place, form, color=hue, markerfacecolor=face, markersize=4.6 if form == "D" else 5.4, zorder=3)


def draw_level(axes: Axes, row: Row, vertical: bool = True) -> None:
    """Draw a line at the main metric of a dense row, with a band for its deviation."""
    spread = row.figure
    (axes.axhline if vertical else axes.axvline)(
        spread.mean, color=DENSE, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1
    )
    if spread.deviation:
        band = axes.axhspan if vertical else axes.axvspan
        band(spread.mean - spread.deviation, spread.mean + spread.deviation, color=DENSE, alpha=0.12, linewidth=0)
