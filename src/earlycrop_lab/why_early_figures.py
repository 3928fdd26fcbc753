"""The picture of when early pays: a map for each sparsity, the share before the cut against the budget."""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from statistics import fmean, median

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from earlycrop_lab.charts import GRID, HUES, INK, PAPER, SMALL, WIDTH, plain
from earlycrop_lab.why import RULES
from earlycrop_lab.why_early import Cell, Mark, moment

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
    """How many points a cut after that share of the budget is above the cut before training; marks: the detectors.

    Args:
        found: What early was worth.
        shares: Of the budget; a row each but for 0.
        marks: When each detector would cut.
        equal_cost: Beside the cut before training that was trained for longer, at the same FLOPs.
        title: Above it all.
    """
    sparsities = sorted({cell.sparsity for cell in found})
    budgets = sorted({cell.budget for cell in found})
    rows = sorted(share for share in shares if share)
    by_place = {(cell.sparsity, cell.budget): cell for cell in found}
    gains = {place: _gains(cell, rows, equal_cost) for place, cell in by_place.items()}
    known = [gain for each in gains.values() for gain in each if isfinite(gain)]
    most = max([1.0, *map(abs, known)])
    lines = ceil(len(sparsities) / 2)
    figure = Figure(
        figsize=(WIDTH / 72, ((28 * len(rows) + 46) * lines + 62) / 72), dpi=72, facecolor=PAPER, layout="constrained"
    )
    colours = LinearSegmentedColormap.from_list("gain", [WORSE, PAPER, BETTER])
    panels = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    for axes, sparsity in zip(panels.flat, sparsities, strict=False):
        plain(axes)
        axes.grid(False)
        axes.set_facecolor(GRID)
        values = np.array([gains.get((sparsity, budget), [np.nan] * len(rows)) for budget in budgets]).T
        axes.imshow(values, cmap=colours, norm=TwoSlopeNorm(0, -most, most), aspect="auto", origin="lower")
        for (y, x), value in np.ndenumerate(values):
            if isfinite(value):
                axes.text(x, y, f"{value:+.1f}", ha="center", va="center", fontsize=SMALL - 2, color=INK)
        for rule, epoch in _median(marks, sparsity).items():
            for x, budget in enumerate(budgets):
                if rows[0] / 2 <= epoch / budget <= rows[-1]:
                    aside = 0.36 * (2 * list(RULES).index(rule) / (len(RULES) - 1) - 1)
                    y = float(np.interp(epoch / budget, rows, range(len(rows)))) - 0.36
                    axes.plot([x + aside], [y], MARKERS[rule], color=INK, markersize=3, markerfacecolor="none")
        axes.set_title(f"{100 * sparsity:g} % removed", loc="left", fontsize=SMALL, color=INK)
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
        figure.legend(
            [
                Line2D([], [], linestyle="", marker=MARKERS[rule], color=INK, markerfacecolor="none", markersize=4)
                for rule in shown
            ],
            shown,
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=SMALL - 1,
            labelcolor=INK,
            columnspacing=0.8,
            handletextpad=0.1,
        )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=SMALL, fontweight="bold", color=INK)
    return figure


def _gains(cell: Cell, rows: Sequence[float], equal_cost: bool) -> list[float]:
    """In points, by share; nan where there is no such run."""
    found = []
    for share in rows:
        epoch = moment(cell.budget, share)
        beside = (cell.longer.get(epoch) or cell.accuracies[0]) if equal_cost else cell.accuracies[0]
        there = epoch in cell.accuracies
        found.append(100 * (fmean(cell.accuracies[epoch]) - fmean(beside)) if there else float("nan"))
    return found


def _median(marks: Sequence[Mark], sparsity: float) -> Mapping[str, float]:
    """By rule its median moment over the seeds, of those that would cut in half of them or more."""
    found = {}
    for rule in RULES:
        epochs = [mark.epoch for mark in marks if mark.rule == rule and mark.sparsity == sparsity]
        had = [epoch if epoch is not None else float("inf") for epoch in epochs]
        if had and isfinite(middle := median(had)):
            found[rule] = middle
    return found
