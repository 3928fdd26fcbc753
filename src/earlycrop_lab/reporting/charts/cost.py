"""The main metric against the cost."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from earlycrop_lab.reporting.charts.canvas import DENSE, SIZE, Chart, figure_of, framed, head
from earlycrop_lab.reporting.charts.marks import (
    BAR,
    axis_title,
    capital,
    colours,
    draw_row,
    figure_axis,
    labels,
    mean_of,
)
from earlycrop_lab.reporting.charts.names import names_at
from earlycrop_lab.reporting.columns import NAMED, Column, shown
from earlycrop_lab.reporting.conditions import comparable
from earlycrop_lab.reporting.numbers import amount
from earlycrop_lab.reporting.tables import Row, frontier
from earlycrop_lab.runs import Result


def _memory(result: Result) -> list[int | None]:
    c = result.columns
    cuda = [c.dense_cuda_bytes, c.sparse_cuda_bytes]
    return cuda if any(cuda) else [c.dense_memory_bytes, c.sparse_memory_bytes]


PEAK = Column(
    "peak_bytes",
    "peak memory",
    "",
    lambda result: max(filter(None, _memory(result)), default=None),
    "MB",
    1e-6,
)
"""The run's larger peak, before or after the cut: what a device must have."""
COSTS = {
    "time": NAMED["seconds"],
    "memory": PEAK,
    "emissions": NAMED["grams_co2"],
    "flops": NAMED["flops"],
    "parameters": NAMED["parameters"],
}


def against(rows: Sequence[Row], name: str, narrow: Sequence[Row] = ()) -> Chart | None:
    """The main metric over a cost, with the frontier named, and a line through all widths of the dense network."""
    cost, metric = COSTS[name], rows[0].metric
    rows = [*rows, *narrow]
    known = [row for row in rows if row.spread(cost)]
    if len(known) < 2:
        return None
    hues = colours(rows)
    axes = framed(310, left=38, right=12)
    _cost_axis(axes, [mean_of(row, cost) * cost.scale for row in known])
    figure_axis(axes, known)
    best = frontier(known, cost)
    spots = {id(row): (mean_of(row, cost) * cost.scale, row.figure.mean) for row in known}
    corners = [(spots[id(best[0])][0], axes.get_ylim()[0 if metric.better == "higher" else 1])]
    for x, y in [*(spots[id(row)] for row in best), (axes.get_xlim()[1], spots[id(best[-1])][1])]:
        corners += [(x, corners[-1][1]), (x, y)]
    axes.plot(*zip(*corners, strict=True), color=DENSE, linewidth=1.1, linestyle=(0, (3, 2)), zorder=1)
    lines = list(pairwise(corners))
    dense = sorted(spots[id(row)] for row in known if not row.prunes)
    if narrow and len(dense) > 1:
        axes.plot(*zip(*dense, strict=True), color=DENSE, linewidth=1.4, zorder=1)
        lines += pairwise(dense)
    for row in known:
        x, y = spots[id(row)]
        if (spread := row.spread(cost)) and spread.deviation:
            aside = spread.deviation * cost.scale
            axes.plot([x - aside, x + aside], [y, y], color=hues[row.line], **BAR)
            lines.append(((max(x - aside, axes.get_xlim()[0]), y), (min(x + aside, axes.get_xlim()[1]), y)))
        if (spread := row.figure).deviation:
            lines.append(((x, y - spread.deviation), (x, y + spread.deviation)))
        draw_row(axes, x, row, hues[row.line])
    known = sorted(known, key=lambda row: all(row is not other for other in best))  # the frontier chooses first
    names = labels(rows)
    names_at(axes, [(names(row), hues[row.line], spots[id(row)], n < len(best)) for n, row in enumerate(known)], lines)
    axes.set_xlabel(cost.heading.replace(", all", ""), fontsize=SIZE)
    head(axes, axis_title(metric))
    note = _note(known, best, names, cost, bool(narrow))
    return Chart(name, f"{capital(metric.label)} against {cost.group}", note, figure_of(axes))


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Set up the axis of a cost: logarithmic where the costs differ by more than a factor of 8."""
    if max(costs) > 8 * min(costs) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.25, max(costs) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: amount(x)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.12 * max(max(costs) - min(costs), 0.1 * max(costs)) or 1
        axes.set_xlim(max(0, min(costs) - margin), max(costs) + 1.6 * margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))


def _note(known: Sequence[Row], best: Sequence[Row], names: Callable[[Row], str], cost: Column, narrow: bool) -> str:
    """How to read the chart, and which networks are on its frontier."""
    stated = "; ".join(
        f"{names(row)} ({shown(row.metric, row.figure.mean)}, {cost.show(mean_of(row, cost))} {cost.unit})"
        for row in best
    )
    what = "The memory is that of the largest training step of the run. " if cost is PEAK else ""
    if not comparable(cost.name, [result for row in known for result in row.results]):
        what += "Not all were measured under the same conditions, so they are no ranking. "
    if narrow:
        what += "The grey line joins the dense network's widths. "
    if cost is NAMED["parameters"] and any(row.masks for row in known):
        what += "Masked weights are not counted. "
    return f"{what}On the frontier (dashed, names in bold), where no other network is as good in both: {stated}."
