"""The figure of when early pruning pays: a map for each sparsity, the share before the cut against the budget."""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from statistics import fmean, median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from earlycrop_lab.reporting.charts.canvas import (
    GRID,
    HUES,
    INK,
    PAPER,
    SMALL,
    blank,
    entitle,
    explain_marks,
    headline,
    plain,
)
from earlycrop_lab.why.early import Cell, Mark, moment
from earlycrop_lab.why.moments import RULES

WORSE, BETTER = HUES[1], HUES[0]
MARKERS = dict(zip(RULES, "ov^s<>D", strict=True))


def early(
    found: Sequence[Cell],
    shares: Sequence[float],
    marks: Sequence[Mark] = (),
    *,
    equal_cost: bool = False,
    title: str = "",
) -> Figure:
    """Plot how many points a cut after a share of the budget gains over the cut before training; marks: the detectors.

    Args:
        found: The cells.
        shares: Shares of the budget; each except 0 is a row of the map.
        marks: When each detector would cut.
        equal_cost: Whether to compare with the cut before training that was trained for longer, at the same FLOPs.
        title: The title of the figure.
    """
    sparsities = sorted({cell.sparsity for cell in found})
    budgets = sorted({cell.budget for cell in found})
    rows = sorted(share for share in shares if share)
    by_place = {(cell.sparsity, cell.budget): cell for cell in found}
    gains = {place: _gains(cell, rows, equal_cost) for place, cell in by_place.items()}
    known = [gain for each in gains.values() for gain in each if isfinite(gain)]
    most = max([1.0, *map(abs, known)])
    lines = ceil(len(sparsities) / 2)
    figure = blank((28 * len(rows) + 46) * lines + 62)
    panels = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    for axes, sparsity in zip(panels.flat, sparsities, strict=False):
        values = np.array([gains.get((sparsity, budget), [np.nan] * len(rows)) for budget in budgets]).T
        _map(axes, values, most)
        _mark(axes, _median(marks, sparsity), budgets, rows)
        headline(axes, f"{100 * sparsity:g} % removed")
        axes.set_xticks(range(len(budgets)), [f"{budget}" for budget in budgets])
        axes.set_yticks(range(len(rows)), [f"{100 * share:g} %" for share in rows])
    for axes in panels.flat[len(sparsities) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("before the cut", fontsize=SMALL, color=INK)
    for axes in panels.flat[max(len(sparsities) - 2, 0) : len(sparsities)]:
        axes.set_xlabel("epochs in all", fontsize=SMALL, color=INK)
        axes.tick_params(labelbottom=True)
    shown = [rule for rule in RULES if any(mark.rule == rule and mark.epoch is not None for mark in marks)]
    if shown:
        look = {"color": INK, "markerfacecolor": "none", "markersize": 4}
        explain_marks(figure, {rule: {**look, "marker": MARKERS[rule]} for rule in shown}, fontsize=SMALL - 1)
    entitle(figure, title)
    return figure


def _map(axes: Axes, values: np.ndarray, most: float) -> None:
    """Draw gains in points as colours and numbers, budgets from left to right, shares from the bottom up."""
    plain(axes)
    axes.grid(False)
    axes.set_facecolor(GRID)
    colours = LinearSegmentedColormap.from_list("gain", [WORSE, PAPER, BETTER])
    axes.imshow(values, cmap=colours, norm=TwoSlopeNorm(0, -most, most), aspect="auto", origin="lower")
    for (y, x), value in np.ndenumerate(values):
        if isfinite(value):
            axes.text(x, y, f"{value:+.1f}", ha="center", va="center", fontsize=SMALL - 2, color=INK)


def _mark(axes: Axes, epochs: Mapping[str, float], budgets: Sequence[int], rows: Sequence[float]) -> None:
    """Mark when each rule would cut, as a share of each budget, where that is within the map."""
    for rule, epoch in epochs.items():
        for x, budget in enumerate(budgets):
            if rows[0] / 2 <= epoch / budget <= rows[-1]:
                aside = 0.36 * (2 * list(RULES).index(rule) / (len(RULES) - 1) - 1)
                y = float(np.interp(epoch / budget, rows, range(len(rows)))) - 0.36
                axes.plot([x + aside], [y], MARKERS[rule], color=INK, markersize=3, markerfacecolor="none")


def _gains(cell: Cell, rows: Sequence[float], equal_cost: bool) -> list[float]:
    """The gains in points, by share; nan where there is no such run."""
    found = []
    for share in rows:
        epoch = moment(cell.budget, share)
        beside = (cell.longer.get(epoch) or cell.accuracies[0]) if equal_cost else cell.accuracies[0]
        there = epoch in cell.accuracies
        found.append(100 * (fmean(cell.accuracies[epoch]) - fmean(beside)) if there else float("nan"))
    return found


def _median(marks: Sequence[Mark], sparsity: float) -> Mapping[str, float]:
    """By rule, the median epoch over the seeds, for rules that would cut in at least half of them."""
    found = {}
    for rule in RULES:
        epochs = [mark.epoch for mark in marks if mark.rule == rule and mark.sparsity == sparsity]
        had = [epoch if epoch is not None else float("inf") for epoch in epochs]
        if had and isfinite(middle := median(had)):
            found[rule] = middle
    return found
