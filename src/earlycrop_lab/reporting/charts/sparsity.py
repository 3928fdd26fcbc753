"""The main metric against sparsity."""

from collections.abc import Sequence
from math import log10

from matplotlib.ticker import FixedLocator, FuncFormatter

from earlycrop_lab.reporting.charts.canvas import (
    INK,
    SIZE,
    SMALL,
    SOFT,
    Chart,
    figure_of,
    framed,
    head,
    shortened,
    text_at,
    text_width,
)
from earlycrop_lab.reporting.charts.marks import (
    axis_title,
    capital,
    colours,
    draw_level,
    draw_row,
    figure_axis,
    levels,
    mean_of,
    ranked,
)
from earlycrop_lab.reporting.charts.names import names_beside
from earlycrop_lab.reporting.columns import NAMED, shown
from earlycrop_lab.reporting.tables import Row, unequal
from earlycrop_lab.reporting.texts import AS_IT_IS

LEVELS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Sparsities that get a tick."""
WEIGHTS = NAMED["weight_sparsity"]


def by_sparsity(rows: Sequence[Row]) -> Chart | None:
    """The main metric over the weights removed, one line per method; with one sparsity, a ranking of the methods."""
    pruned = [row for row in rows if row.prunes]
    if not pruned:
        return None
    if len({row.sparsity for row in pruned}) == 1:
        return _ranking(rows)
    series: dict[str, list[Row]] = {}
    for row in pruned:
        series.setdefault(row.line, []).append(row)
    hues = colours(rows)
    height = max(310, 64 + 16 * (len(series) + 2))  # each has its name beside it
    axes = framed(height, left=38, right=22 + max(text_width(shortened(name)) for name in series))
    spots = {id(row): -log10(max(1 - mean_of(row, WEIGHTS), 1e-6)) for row in pruned}
    left, right = min(spots.values()), max(spots.values())
    span = right - left or 0.1
    axes.set_xlim(left - 0.08 * span, right + 0.08 * span)
    metric = rows[0].metric
    figure_axis(axes, rows)
    for row in rows:
        if not row.prunes:
            draw_level(axes, row)
    ends = {row.line: (axes.get_xlim()[1], row.figure.mean) for row in rows if not row.prunes}
    for place, (name, group) in enumerate(series.items()):
        aside = 0.06 * span * (place / max(1, len(series) - 1) - 0.5)  # so that deviations do not overlap
        xs = [spots[id(row)] + aside for row in group]
        ys = [row.figure.mean for row in group]
        axes.plot(xs, ys, color=hues[name], linewidth=1.4, linestyle="--" if group[0].masks else "-")
        for x, row in zip(xs, group, strict=True):
            draw_row(axes, x, row, hues[name])
        ends[name] = (xs[-1], ys[-1])
    names_beside(axes, ends, hues)
    ticks = {-log10(1 - level) for level in {*LEVELS, *(row.sparsity or 0.0 for row in pruned)}}
    axes.xaxis.set_major_locator(
        FixedLocator([x for x in sorted(ticks) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 10**-x):.4g} %"))
    axes.set_xlabel("weights removed", fontsize=SIZE)
    head(axes, axis_title(metric))
    best = [ranked([row for row in pruned if row.sparsity == level])[0] for level in levels(rows)]
    said = "; ".join(f"{row.label}, {shown(metric, row.figure.mean)}" for row in best)
    note = f"The axis is logarithmic in what is left. Best at each sparsity: {said}. {unequal(rows)}".rstrip()
    return Chart("sparsity", f"{capital(metric.label)} against sparsity", note, figure_of(axes))


def _ranking(rows: Sequence[Row]) -> Chart:
    """The methods ranked, the best first."""
    order, metric, hues = ranked(rows), rows[0].metric, colours(rows)
    axes = framed(44 + 16 * len(order), left=12 + max(text_width(shortened(row.name)) for row in rows), right=50, top=8)
    figure_axis(axes, rows, vertical=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    for row in rows:
        if not row.prunes:
            draw_level(axes, row, vertical=False)
    for place, row in enumerate(order):
        draw_row(axes, place, row, hues[row.line], vertical=False)
        text_at(axes, (1, place), (6, 0), shown(metric, row.figure.mean), INK, across=True, va="center_baseline")
    axes.set_yticks(range(len(order)), [shortened(row.name) for row in order], fontsize=SMALL, **AS_IT_IS)
    for tick, row in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(hues[row.line] if row.prunes else SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(axis_title(metric), fontsize=SIZE)
    asked = next(row.asked for row in rows if row.prunes)
    note = f"Best: {order[0].name}, {shown(metric, order[0].figure.mean)}. {unequal(rows)}".rstrip()
    return Chart("sparsity", f"{capital(metric.label)} at {asked} sparsity", note, figure_of(axes))
