"""When each run was cut, and what its detector observed until then."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

import earlycrop
from earlycrop.timing import AbstractDetector
from earlycrop_lab.reporting.charts.canvas import (
    INK,
    LEGEND,
    PAPER,
    SIZE,
    Chart,
    Place,
    figure_of,
    framed_twice,
    head,
    text_at,
)
from earlycrop_lab.reporting.charts.marks import colours, dash, labels
from earlycrop_lab.reporting.figures import LABELS
from earlycrop_lab.reporting.tables import Row
from earlycrop_lab.runs import Result


def moments(rows: Sequence[Row]) -> list[Chart]:
    """For each detector a chart of its observations in each run, its thresholds, and when each run was cut."""
    kinds: dict[type, list[Row]] = {}
    for row in rows:
        timing = earlycrop.get_method(row.description.method).timing
        if isinstance(timing, AbstractDetector) and any(r.report and r.report["curve"] for r in row.results):
            kinds.setdefault(type(timing), []).append(row)
    return [_moments(kind, watched, colours(rows)) for kind, watched in kinds.items()]


def _moments(kind: type, rows: Sequence[Row], hues: Mapping[str, str]) -> Chart:
    first, names = {row.line: row for row in reversed(rows)}, labels(rows)
    legend = ceil(len(first) / 2) * 13.0
    above, below = framed_twice(310 + legend, left=38, right=12, bottom=40 + legend)
    small, seen = LABELS.get(kind, ("what must become small", "what was observed"))
    thresholds: dict[float, set[str]] = {}
    signals, last, highest = [], 0.0, 0.0
    for row in rows:
        for result in row.results:
            if not result.report or not result.report["curve"]:
                continue
            curve = result.report["curve"]
            last = max(last, result.report["epoch"])
            thresholds.setdefault(curve[-1]["threshold"], set()).add(row.asked)
            highest = max(highest, *(each["value"] for each in curve))
            looks = [(each["epoch"], each["signal"]) for each in curve if each["signal"] is not None]
            looks = [(epoch, signal) for epoch, signal in looks if isfinite(signal) and signal > 0]
            signals += [signal for _, signal in looks]
            _line(above, looks, row, result, hues)
            _line(below, [(each["epoch"], each["value"]) for each in curve], row, result, hues)
    _signal_axis(above, signals, thresholds)
    below.set_ylim(0, 1.15 * highest or 1)
    below.set_xlim(0, last + 0.5)
    below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    below.set_xlabel("epoch", fontsize=SIZE)
    head(above, small)
    head(below, seen)
    _legend(figure_of(below), [first[name] for name in dict.fromkeys(row.line for row in rows)], hues)
    cuts = "; ".join(f"{names(row)}: {_when(row.results)}" for row in rows)
    note = (
        "One line per run, until its cut (triangle: filled where the signal fell below the threshold, hollow where the "
        f"detector had to cut without it). Cut at epoch: {cuts}."
    )
    return Chart(f"moments-{kind.__name__.lower()}", f"When to prune? {kind.__name__}", note, figure_of(below))


def _line(axes: Axes, points: Sequence[Place], row: Row, result: Result, hues: Mapping[str, str]) -> None:
    """Draw what one run's detector observed until the cut."""
    assert result.report is not None
    hue = hues[row.line]
    axes.axvline(result.report["epoch"], color=hue, linewidth=0.7, alpha=0.35, zorder=0)
    if points:
        look: dict[str, Any] = {"linewidth": 1.2, "alpha": 0.85, "linestyle": dash(row)}
        axes.plot(*zip(*points, strict=True), marker=".", markersize=4, color=hue, **look)
        face = hue if result.report["reason"] == "trigger" else PAPER
        axes.plot(*points[-1], marker="v", markersize=6, color=hue, markerfacecolor=face, zorder=4)


def _signal_axis(axes: Axes, signals: Sequence[float], thresholds: Mapping[float, set[str]]) -> None:
    """Set up the axis of the signal, with its thresholds; logarithmic where there is anything to show."""
    known = [*signals, *(threshold for threshold in thresholds if threshold > 0)]
    if known:
        axes.set_yscale("log")
        axes.set_ylim(min(known) / 1.8, max(known) * 1.8)
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if max(known) < 30 * min(known) else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for threshold, asked in thresholds.items():
        if threshold > 0:
            axes.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            told = f"threshold {threshold:.2g}" + (f" at {' and '.join(sorted(asked))}" if len(thresholds) > 1 else "")
            text_at(axes, (0, threshold), (4, 6), told, INK, across=True)


def _legend(figure: Figure, rows: Sequence[Row], hues: Mapping[str, str]) -> None:
    """Add a legend with the line style of each method."""
    box = figure.legend(
        [Line2D([], [], color=hues[row.line], linewidth=1.6, linestyle=dash(row)) for row in rows],
        [row.line for row in rows],
        **LEGEND,
        loc="lower left",
        bbox_to_anchor=(0.01, 0.0),
        ncols=2,
        handlelength=2.2,
        columnspacing=1.4,
        labelspacing=0.35,
        borderpad=0.2,
    )
    box.set_in_layout(False)


def _when(results: Iterable[Result]) -> str:
    """The epochs at which the runs were cut, with the number of runs, and the reason where no signal triggered it."""
    moments = Counter((r.report["epoch"], r.report["reason"]) for r in results if r.report)
    told = []
    for (epoch, reason), runs in sorted(moments.items()):
        why = [reason] * (reason != "trigger") + [f"{runs} runs"] * (runs > 1)
        told.append(f"{epoch:g}" + (f" ({', '.join(why)})" if why else ""))
    return ", ".join(told)
