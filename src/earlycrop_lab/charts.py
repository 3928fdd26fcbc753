"""The pictures of a table of runs: what counts against sparsity and against what it cost, the moments, the widths.

Each is a matplotlib figure, drawn once for a paper, a picture file and the page. It is as wide as a phone, so that text
keeps its size there; colours are few and named here, so that the page can give each its twin for dark screens.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite, log10
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

import earlycrop
from earlycrop.timing import AbstractDetector
from earlycrop_lab.equal_cost import controls
from earlycrop_lab.figures import LABELS
from earlycrop_lab.runs import Result
from earlycrop_lab.tables import NAMED, Column, Row, amount, frontier, shown, unequal
from earlycrop_lab.tasks.description import Metric

WIDTH = 360.0
"""In points, as all lengths here."""
SIZE, SMALL = 10.5, 9.5
INK, SOFT, GRID, PAPER, DENSE = "#1c2126", "#5d6673", "#e1e5ea", "#ffffff", "#5f6876"
HUES = ("#0b7a75", "#c2334a", "#3b5bdb", "#945800", "#8b3fb0", "#4c7d24", "#0c6fa3", "#a84a14", "#b8307f", "#6a6a15")
"""Of the methods, in the order of the rows; dense is grey."""
LETTER = 0.57
"""Width of a letter in parts of its size: how long a text will be is estimated, so that no picture depends on fonts."""
LEVELS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Sparsities worth a tick."""
BESIDE = 8
"""Rows in one picture of widths."""

Place = tuple[float, float]
Box = tuple[float, float, float, float]

WEIGHTS = NAMED["weight_sparsity"]
PEAK = Column(
    "peak_bytes",
    "peak memory",
    "",
    lambda result: max(filter(None, _memory(result)), default=None),
    "MB",
    1e-6,
)
"""The largest of the run, so what a device must have."""
COSTS = {
    "time": NAMED["seconds"],
    "memory": PEAK,
    "emissions": NAMED["grams_co2"],
    "flops": NAMED["flops"],
    "parameters": NAMED["parameters"],
}


@dataclass(frozen=True)
class Chart:
    """A figure with what is said about it.

    Args:
        name: For its files.
        title: What it shows.
        note: How to read it, and what it says.
        figure: It.
    """

    name: str
    title: str
    note: str
    figure: Figure


def charts(rows: Sequence[Row], narrow: Sequence[Row] = ()) -> list[Chart]:
    """All pictures of rows that can be compared with each other; none of what they have no numbers for.

    Args:
        rows: Of one setting.
        narrow: Dense rows of the same network in smaller widths, which are on the pictures of cost.
    """
    random = controls(rows)
    asked = [row for row in rows if all(row is not other for other in random)]
    costs = [against([*asked, *random], name, narrow) for name in COSTS]
    found = [by_sparsity(asked), *costs, *moments(asked), *widths(asked)]
    return [chart for chart in found if chart is not None]


def reading(rows: Iterable[Row]) -> str:
    """How points and bars of the pictures are to be read."""
    counts = sorted({len(row.results) for row in rows})
    bars = (
        "One run each (n = 1), so no spread can be told."
        if counts == [1]
        else f"Bars: ± sample standard deviation over the seeds, n = {' or '.join(map(str, counts))}."
    )
    return f"Circles: channels are removed; diamonds and broken lines: weights are masked; squares: dense. {bars}"


# What counts against sparsity -----------------------------------------------------------------------------


def by_sparsity(rows: Sequence[Row]) -> Chart | None:
    """What counts over the weights that left, a line a method; a ranking of the methods if there is one sparsity."""
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
    axes = _axes(height, left=38, right=22 + max(_width(_cut(name)) for name in series))
    spots = {id(row): -log10(max(1 - _mean(row, WEIGHTS), 1e-6)) for row in pruned}
    left, right = min(spots.values()), max(spots.values())
    span = right - left or 0.1
    axes.set_xlim(left - 0.08 * span, right + 0.08 * span)
    metric = rows[0].metric
    _figures(axes, rows)
    for row in rows:
        if not row.prunes:
            _level(axes, row)
    ends = {row.line: (axes.get_xlim()[1], row.figure.mean) for row in rows if not row.prunes}
    for place, (name, group) in enumerate(series.items()):
        aside = 0.06 * span * (place / max(1, len(series) - 1) - 0.5)  # deviations stand side by side
        xs = [spots[id(row)] + aside for row in group]
        ys = [row.figure.mean for row in group]
        axes.plot(xs, ys, color=hues[name], linewidth=1.4, linestyle="--" if group[0].masks else "-")
        for x, row in zip(xs, group, strict=True):
            _point(axes, x, row, hues[name])
        ends[name] = (xs[-1], ys[-1])
    _names_beside(axes, ends, hues)
    ticks = {-log10(1 - level) for level in {*LEVELS, *(row.sparsity or 0.0 for row in pruned)}}
    axes.xaxis.set_major_locator(
        FixedLocator([x for x in sorted(ticks) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 10**-x):.4g} %"))
    axes.set_xlabel("weights removed", fontsize=SIZE)
    _headed(axes, _titled(metric))
    best = [ranked([row for row in pruned if row.sparsity == level])[0] for level in _levels(rows)]
    said = "; ".join(f"{row.label}, {shown(metric, row.figure.mean)}" for row in best)
    note = f"The axis is logarithmic in what stays. Best at each sparsity: {said}. {unequal(rows)}".rstrip()
    return Chart("sparsity", f"{_capital(metric.label)} against sparsity", note, _figure(axes))


def _ranking(rows: Sequence[Row]) -> Chart:
    """The methods, the best first."""
    order, metric, hues = ranked(rows), rows[0].metric, colours(rows)
    axes = _axes(44 + 16 * len(order), left=12 + max(_width(_cut(row.name)) for row in rows), right=50, top=8)
    _figures(axes, rows, vertical=False)
    axes.set_ylim(len(order) - 0.5, -0.5)
    for row in rows:
        if not row.prunes:
            _level(axes, row, vertical=False)
    for place, row in enumerate(order):
        _point(axes, place, row, hues[row.line], vertical=False)
        _text(axes, (1, place), (6, 0), shown(metric, row.figure.mean), INK, across=True, va="center_baseline")
    axes.set_yticks(range(len(order)), [_cut(row.name) for row in order], fontsize=SMALL)
    for tick, row in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(hues[row.line] if row.prunes else SOFT)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(_titled(metric), fontsize=SIZE)
    asked = next(row.asked for row in rows if row.prunes)
    note = f"Best: {order[0].name}, {shown(metric, order[0].figure.mean)}. {unequal(rows)}".rstrip()
    return Chart("sparsity", f"{_capital(metric.label)} at {asked} sparsity", note, _figure(axes))


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The rows, the best first by the mean of what counts."""
    return sorted(rows, key=lambda row: -row.metric.gain(row.figure.mean, 0))


def _titled(metric: Metric) -> str:
    """With its unit, and which way is better where that is not the usual way."""
    unit = f", {metric.unit}" if metric.unit not in ("", "%") else ""
    return f"{metric.label}{unit}" + (" (lower is better)" if metric.better == "lower" else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# What counts against cost ---------------------------------------------------------------------------------


def against(rows: Sequence[Row], name: str, narrow: Sequence[Row] = ()) -> Chart | None:
    """What counts over a cost, with the rows named that no other beats in both; a line through all widths of dense."""
    cost, metric = COSTS[name], rows[0].metric
    rows = [*rows, *narrow]
    known = [row for row in rows if row.spread(cost)]
    if len(known) < 2:
        return None
    hues = colours(rows)
    axes = _axes(310, left=38, right=12)
    costs = [_mean(row, cost) * cost.scale for row in known]
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
    _figures(axes, known)
    best = frontier(known, cost)
    spots = {id(row): (_mean(row, cost) * cost.scale, row.figure.mean) for row in known}
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
        _point(axes, x, row, hues[row.line])
    known = sorted(known, key=lambda row: all(row is not other for other in best))  # the frontier chooses first
    names = labels(rows)
    _names_at(axes, [(names(row), hues[row.line], spots[id(row)], n < len(best)) for n, row in enumerate(known)], lines)
    axes.set_xlabel(cost.heading.replace(", all", ""), fontsize=SIZE)
    _headed(axes, _titled(metric))
    told = "; ".join(
        f"{names(row)} ({shown(metric, row.figure.mean)}, {cost.show(_mean(row, cost))} {cost.unit})" for row in best
    )
    what = "The memory is that of the largest training step of the run. " if cost is PEAK else ""
    if narrow:
        what += "The grey line joins the dense network's widths. "
    if cost is NAMED["parameters"] and any(row.masks for row in known):
        what += "Masked weights are not counted. "
    note = f"{what}On the frontier (dashed, names in bold), where no other row is as good in both: {told}."
    return Chart(name, f"{_capital(metric.label)} against {cost.group}", note, _figure(axes))


# The moments ----------------------------------------------------------------------------------------------


def moments(rows: Sequence[Row]) -> list[Chart]:
    """For each detector what it saw in each run, its thresholds, and when the run was cut."""
    kinds: dict[type, list[Row]] = {}
    for row in rows:
        timing = earlycrop.get_method(row.description.method).timing
        if isinstance(timing, AbstractDetector) and any(r.report and r.report["curve"] for r in row.results):
            kinds.setdefault(type(timing), []).append(row)
    return [_moments(kind, watched, colours(rows)) for kind, watched in kinds.items()]


def _moments(kind: type, rows: Sequence[Row], hues: Mapping[str, str]) -> Chart:
    first, names = {row.line: row for row in reversed(rows)}, labels(rows)
    legend = ceil(len(first) / 2) * 13.0
    above, below = _axes_two(310 + legend, left=38, right=12, bottom=40 + legend)
    small, seen = LABELS.get(kind, ("what must become small", "what was seen"))
    thresholds: dict[float, set[str]] = {}
    signals, last, highest = [], 0.0, 0.0
    for row in rows:
        for result in row.results:
            if not result.report or not result.report["curve"]:
                continue
            curve, moment = result.report["curve"], result.report["epoch"]
            last = max(last, moment)
            thresholds.setdefault(curve[-1]["threshold"], set()).add(row.asked)
            highest = max(highest, *(each["value"] for each in curve))
            look = {"color": hues[row.line], "linewidth": 1.2, "alpha": 0.85, "linestyle": _dash(row)}
            looks = [(each["epoch"], each["signal"]) for each in curve if each["signal"] is not None]
            looks = [(epoch, signal) for epoch, signal in looks if isfinite(signal) and signal > 0]
            signals += [signal for _, signal in looks]
            for axes, points in ((above, looks), (below, [(each["epoch"], each["value"]) for each in curve])):
                axes.axvline(moment, color=hues[row.line], linewidth=0.7, alpha=0.35, zorder=0)
                if points:
                    axes.plot(*zip(*points, strict=True), marker=".", markersize=4, **look)
                    full = result.report["reason"] == "trigger"
                    axes.plot(
                        *points[-1],
                        marker="v",
                        markersize=6,
                        color=hues[row.line],
                        markerfacecolor=hues[row.line] if full else PAPER,
                        zorder=4,
                    )
    known = [*signals, *(threshold for threshold in thresholds if threshold > 0)]
    if known:
        above.set_yscale("log")
        above.set_ylim(min(known) / 1.8, max(known) * 1.8)
        above.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if max(known) < 30 * min(known) else (1,)))
        above.yaxis.set_minor_formatter(NullFormatter())
    above.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for threshold, asked in thresholds.items():
        if threshold > 0:
            above.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            told = f"threshold {threshold:.2g}" + (f" at {' and '.join(sorted(asked))}" if len(thresholds) > 1 else "")
            _text(above, (0, threshold), (4, 6), told, INK, across=True)
    below.set_ylim(0, 1.15 * highest or 1)
    below.set_xlim(0, last + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    below.set_xlabel("epoch", fontsize=SIZE)
    _headed(above, small)
    _headed(below, seen)
    _legend(_figure(below), [first[name] for name in dict.fromkeys(row.line for row in rows)], hues)
    cuts = "; ".join(f"{names(row)}: {_when(row.results)}" for row in rows)
    note = (
        "A line a run, until its cut (triangle: filled where the signal fell below the threshold, hollow where the "
        f"detector was made to cut without it). Cut at epoch: {cuts}."
    )
    return Chart(f"moments-{kind.__name__.lower()}", f"When is the moment? {kind.__name__}", note, _figure(below))


def _when(results: Iterable[Result]) -> str:
    """The moments of the runs, how many runs each, and the reason of those that did not trigger."""
    moments = Counter((r.report["epoch"], r.report["reason"]) for r in results if r.report)
    told = []
    for (epoch, reason), runs in sorted(moments.items()):
        why = [reason] * (reason != "trigger") + [f"{runs} runs"] * (runs > 1)
        told.append(f"{epoch:g}" + (f" ({', '.join(why)})" if why else ""))
    return ", ".join(told)


# The widths -----------------------------------------------------------------------------------------------


def widths(rows: Sequence[Row]) -> list[Chart]:
    """For each sparsity what each method keeps of each layer, the mean over its seeds."""
    drawn = []
    for sparsity in _levels(rows):
        cut = [
            row
            for row in rows
            if row.sparsity == sparsity and all(r.report and r.report["widths"] for r in row.results)
        ]
        parts = [cut[start : start + BESIDE] for start in range(0, len(cut), BESIDE)]
        for number, group in enumerate(parts, start=1):
            name = f"widths-{sparsity:g}" + (f"-{number}" if len(parts) > 1 else "")
            drawn.append(_widths(group, colours(rows), name))
    return drawn


def _widths(rows: Sequence[Row], hues: Mapping[str, str], name: str) -> Chart:
    layers = list(dict.fromkeys(w["layer"] for row in rows for w in (row.results[0].report or {})["widths"]))
    pitch = 13.0
    shown = [_cut(layer, end=True) for layer in layers]
    longest = max(_width(_cut(row.name)) for row in rows)
    axes = _axes(
        pitch * len(layers) + 0.75 * longest + 30,
        left=10 + max(_width(layer) for layer in shown),
        right=12 + max(0.62 * _width(_cut(row.name)) - 25 * (len(rows) - 1 - place) for place, row in enumerate(rows)),
        bottom=12,
        top=18 + 0.75 * longest,
    )
    axes.set_xlim(-0.1, len(rows))
    axes.set_ylim(len(layers) - 0.5, -0.5)
    for place, row in enumerate(rows):
        kept = _kept(row)
        axes.add_patch(_bars(place, [0.86] * len(layers), GRID))
        axes.add_patch(_bars(place, [0.86 * kept.get(layer, 0.0) for layer in layers], hues[row.line]))
        _text(axes, (place + 0.1, 1), (0, 5), _cut(row.name), hues[row.line], above=True, rotation=50)
    axes.set_yticks(range(len(layers)), shown, fontsize=SMALL)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    n = sorted({len(row.results) for row in rows})
    note = (
        "A full grey bar is the dense layer. Coloured: the part of its output channels that stays, or of its weights "
        f"where they are masked; mean over n = {' or '.join(map(str, n))}."
    )
    return Chart(name, f"What each layer keeps at {rows[0].asked} sparsity", note, _figure(axes))


def _kept(row: Row) -> dict[str, float]:
    """The part of each layer that stays, the mean over the seeds."""
    parts: dict[str, list[float]] = {}
    for result in row.results:
        for width in (result.report or {"widths": []})["widths"]:
            parts.setdefault(width["layer"], []).append(width["after"] / width["before"])
    return {layer: fmean(values) for layer, values in parts.items()}


def _bars(left: float, lengths: Sequence[float], colour: str) -> PathPatch:
    """Bars from the top down as one outline, which a file of thousands of them needs."""
    corners = [(0, -0.38), (1, -0.38), (1, 0.38), (0, 0.38), (0, -0.38)]
    vertices = [(left + x * length, row + y) for row, length in enumerate(lengths) if length for x, y in corners]
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY] * (len(vertices) // 5)
    return PathPatch(Outline(vertices or [(0, 0)], codes or [Outline.MOVETO]), facecolor=colour, linewidth=0)


# What they share ------------------------------------------------------------------------------------------

BAR = {"linewidth": 1.0, "alpha": 0.55, "solid_capstyle": "butt"}


def colours(rows: Iterable[Row]) -> dict[str, str]:
    """Of each line, the same in all pictures of the rows."""
    names = list(dict.fromkeys(row.line for row in rows if row.prunes))
    hues = {name: HUES[number % len(HUES)] for number, name in enumerate(names)}
    return hues | {row.line: DENSE for row in rows if not row.prunes}


def labels(rows: Iterable[Row]) -> Callable[[Row], str]:
    """What a row of these is called: its sparsity is said only if there are several, and so is the width of dense."""
    rows = list(rows)
    several, widths = len(_levels(rows)) > 1, len({row.description.width for row in rows}) > 1

    def name(row: Row) -> str:
        width = f", width {row.description.width}" * (widths and not row.prunes)
        return (row.label if several else row.name) + width

    return name


def _levels(rows: Iterable[Row]) -> list[float]:
    return sorted({row.sparsity for row in rows if row.sparsity is not None})


def _memory(result: Result) -> list[int | None]:
    c = result.columns
    cuda = [c.dense_cuda_bytes, c.sparse_cuda_bytes]
    return cuda if any(cuda) else [c.dense_memory_bytes, c.sparse_memory_bytes]


def _mean(row: Row, column: Column) -> float:
    spread = row.spread(column)
    return 0.0 if spread is None else spread.mean


def _dash(row: Row):
    return (0, (4, 2)) if row.masks else "-"


def _width(text: str, size: float = SMALL) -> float:
    return len(text) * LETTER * size


def _cut(name: str, end: bool = False) -> str:
    """At most 26 letters of it, its first or its last, so that there is room for what it names."""
    return name if len(name) <= 26 else f"…{name[-25:]}" if end else f"{name[:25]}…"


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _axes(height: float, left: float, right: float, bottom: float = 40, top: float = 24) -> Axes:
    """Axes with so many points around them; a dot a point, so that what follows can count in points."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER)
    return _plain(figure, (left, bottom, WIDTH - left - right, height - bottom - top))


def _axes_two(height: float, left: float, right: float, bottom: float) -> tuple[Axes, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER)
    room = height - bottom - 22 - 30
    below = _plain(figure, (left, bottom, WIDTH - left - right, 0.38 * room))
    above = _plain(figure, (left, bottom + 0.38 * room + 30, WIDTH - left - right, 0.62 * room))
    above.sharex(below)
    above.tick_params(labelbottom=False)
    return above, below


def _plain(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    width, height = figure.get_size_inches() * 72
    x, y, w, h = place
    axes = figure.add_axes((x / width, y / height, w / width, h / height), facecolor="none")
    plain(axes)
    return axes


def plain(axes: Axes) -> None:
    """Two quiet spines, a faint grid, and all text in the colours and sizes of the pictures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(DENSE)
    axes.spines[["left", "bottom"]].set_linewidth(0.8)
    axes.tick_params(which="both", color=DENSE, labelcolor=SOFT, labelsize=SMALL, width=0.8, length=3)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _figures(axes: Axes, rows: Sequence[Row], vertical: bool = True) -> None:
    """The axis of what counts, with room for all means and deviations."""
    spreads = [row.figure for row in rows]
    low = min(each.mean - (each.deviation or 0) for each in spreads)
    high = max(each.mean + (each.deviation or 0) for each in spreads)
    margin = 0.07 * (high - low or 0.1)
    (axes.set_ylim if vertical else axes.set_xlim)(low - margin, high + margin)
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_major_locator(MaxNLocator(7 if vertical else 4, steps=[1, 2, 5, 10]))
    part = rows[0].metric.unit == "%"
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %" if part else f"{value:,.4g}"))


def _point(axes: Axes, at: float, row: Row, hue: str, vertical: bool = True) -> None:
    """What counts of a row, with its deviation."""
    spread = row.figure
    form = "s" if not row.prunes else "D" if row.masks else "o"
    face = PAPER if row.prunes and row.masks else hue
    if spread.deviation:
        ends = [spread.mean - spread.deviation, spread.mean + spread.deviation]
        axes.plot(*((([at] * 2, ends)) if vertical else (ends, [at] * 2)), color=hue, zorder=2, **BAR)
    place = (at, spread.mean) if vertical else (spread.mean, at)
    axes.plot(*place, form, color=hue, markerfacecolor=face, markersize=4.6 if form == "D" else 5.4, zorder=3)


def _level(axes: Axes, row: Row, vertical: bool = True) -> None:
    """A line at what counts of a dense row, with a band for its deviation."""
    spread = row.figure
    (axes.axhline if vertical else axes.axvline)(
        spread.mean, color=DENSE, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1
    )
    if spread.deviation:
        band = axes.axhspan if vertical else axes.axvspan
        band(spread.mean - spread.deviation, spread.mean + spread.deviation, color=DENSE, alpha=0.12, linewidth=0)


def _headed(axes: Axes, title: str) -> None:
    """What the y-axis shows, above it, where it can be read without turning a phone."""
    axes.set_title(title, fontsize=SMALL, loc="left", color=INK, pad=6, x=0)


def _text(
    axes: Axes, at: Place, aside: Place, text: str, colour: str, across: bool = False, above: bool = False, **said: Any
) -> None:
    """Text beside a point of the axes; `across` and `above` count its x or y from the axes' edge, in parts."""
    frame = axes.get_yaxis_transform() if across else axes.get_xaxis_transform() if above else axes.transData
    style = {"ha": "left", "va": "bottom" if above else "center", "fontsize": SMALL, "color": colour, **said}
    axes.annotate(
        text,
        at,
        aside,
        xycoords=frame,
        textcoords="offset points",
        annotation_clip=False,
        rotation_mode="anchor",
        **style,
    )


def _legend(figure: Figure, rows: Sequence[Row], hues: Mapping[str, str]) -> None:
    handles = [Line2D([], [], color=hues[row.line], linewidth=1.6, linestyle=_dash(row)) for row in rows]
    box = figure.legend(
        handles,
        [row.line for row in rows],
        loc="lower left",
        bbox_to_anchor=(0.01, 0.0),
        ncols=2,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=2.2,
        columnspacing=1.4,
        labelspacing=0.35,
        borderpad=0.2,
    )
    box.set_in_layout(False)


def _names_beside(axes: Axes, ends: Mapping[str, tuple[float, float]], hues: Mapping[str, str]) -> None:
    """Each line's name at the right, moved up or down as far as it must, with a thin line to where it ends."""
    names = sorted(ends, key=lambda name: ends[name][1])
    box = axes.get_window_extent()
    wanted = [axes.transData.transform(ends[name])[1] for name in names]
    for name, y in zip(names, apart(wanted, 1.25 * SMALL, box.y0 - 6, box.y1 + 6), strict=True):
        axes.annotate(
            _cut(name),
            ends[name],
            (box.x1 + 14, y),
            textcoords="figure points",
            ha="left",
            va="center",
            fontsize=SMALL,
            color=hues[name],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": hues[name],
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 4,
                "relpos": (0, 0.5),  # from where the name begins
            },
        )


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the order of those wanted, `gap` apart, as near to them as can be in the least squares; within bounds.

    >>> apart([0.0, 10.0, 11.0], 4.0, -5.0, 50.0)
    [0.0, 8.5, 12.5]
    """
    pools: list[list[float]] = []  # of what is wanted, less the gaps before it: neighbours out of order are averaged
    for place, y in enumerate(wanted):
        pools.append([y - gap * place])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    places = [mean for pool in pools for mean in [fmean(pool)] * len(pool)]
    top = high - gap * (len(wanted) - 1)
    return [max(low, min(top, y)) + gap * place for place, y in enumerate(places)]


def _names_at(
    axes: Axes,
    named: Sequence[tuple[str, str, Place, bool]],
    lines: Sequence[tuple[Place, Place]],
) -> None:
    """Names beside points: in turn each where it covers no point, no name and, if it can, no line.

    Bold ones are always named, others if there is room.
    """
    frame = axes.get_window_extent()
    points = [axes.transData.transform(at) for _, _, at, _ in named]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    strokes: list[Box] = []
    for ends in lines:
        (ax, ay), (bx, by) = map(axes.transData.transform, ends)
        strokes.append((min(ax, bx) - 1, min(ay, by) - 1, max(ax, bx) + 1, max(ay, by) + 1))
    for (name, hue, at, bold), (x, y) in zip(named, points, strict=True):
        width, height = _width(name) * (1.1 if bold else 1), 1.1 * SMALL
        places = [(dx, dy) for reach in (6, 12, 20, 30) for dx, dy in _around(reach, width, height)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        inside = [b for b in boxes if b[0] > frame.x0 and b[2] < WIDTH and b[1] > frame.y0 and b[3] < frame.y1 + 8]
        free = [box for box in inside if not any(_meet(box, other) for other in taken)]
        clear = [box for box in free if not any(_meet(box, other) for other in strokes)]
        choice = [*clear, *free, *(inside + boxes if bold else [])]
        if not choice:
            continue
        left, low, right, high = choice[0]
        taken.append(choice[0])
        far = max(left - x, x - right, low - y, y - high) > 8
        axes.annotate(
            name,
            at,
            (left, (low + high) / 2),
            textcoords="figure points",
            ha="left",
            va="center",
            fontsize=SMALL,
            fontweight="bold" if bold else "normal",
            color=hue if bold else SOFT,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _around(reach: float, width: float, height: float) -> list[tuple[float, float]]:
    """Where the lower left corner of a text can be, seen from its point."""
    middle = (-width / 2, -height / 2)
    return [
        (reach, middle[1]),
        (-reach - width, middle[1]),
        (middle[0], reach - 1),
        (middle[0], 1 - reach - height),
        (0.7 * reach, 0.5 * reach),
        (0.7 * reach, -0.5 * reach - height),
        (-0.7 * reach - width, 0.5 * reach),
        (-0.7 * reach - width, -0.5 * reach - height),
    ]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
