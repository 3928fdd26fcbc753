"""The figure of what a choice is worth: one line per choice, the best first, with its accuracy right after the cut."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earlycrop_lab.reporting.charts.canvas import (
    DENSE,
    HUES,
    SMALL,
    SOFT,
    blank,
    entitle,
    explain_marks,
    headline,
    plain,
)
from earlycrop_lab.reporting.intervals import student, within
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.why.choices import CHANCE, Choice, against_chance, ranked

COLOURS = {"better": HUES[0], "worse": HUES[1], "inconclusive": SOFT}


def choice(found: Sequence[Choice], sparsity: float, title: str = "") -> Figure:
    """Plot the choices at a sparsity: dots are means; lines are 95 % intervals of the means, clipped to [0, 1]."""
    names = ranked(found, sparsity)
    runs = {name: [each for each in found if each.sparsity == sparsity and each.choice == name] for name in names}
    figure = blank(16 * len(names) + 96)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(1.8, 1, 1.25))
    end, cut, independence = panels
    for axes in panels:
        plain(axes)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    colours = {name: _colour(found, name, sparsity) for name in names}
    for row, name in enumerate(names):
        some, hue = runs[name], colours[name]
        _dot(end, row, [each.accuracy for each in some], hue, Classification.metrics[0].bounds)
        _dot(cut, row, [each.cut_accuracy for each in some], hue)
        _dot(independence, row, [each.independence for each in some if each.independence is not None], hue)
    if CHANCE in runs:
        for axes, values in (
            (end, [each.accuracy for each in runs[CHANCE]]),
            (cut, [each.cut_accuracy for each in runs[CHANCE]]),
            (independence, [each.independence for each in runs[CHANCE] if each.independence is not None]),
        ):
            if values:
                axes.axvline(fmean(values), color=DENSE, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=0)
    end.set_yticks(range(len(names)), [name.replace("as they are", "as is") for name in names], fontsize=SMALL - 1)
    end.set_ylim(len(names) - 0.5, -0.5)
    for tick, name in zip(end.get_yticklabels(), names, strict=True):
        tick.set_color(colours[name])
        tick.set_fontweight("bold" if runs[name][0].own else "normal")
    for axes, text in ((end, "accuracy"), (cut, "after cut"), (independence, "independence")):
        headline(axes, text)
        axes.xaxis.set_major_locator(MaxNLocator(4 if axes is end else 2, steps=[1, 2, 5, 10]))
    for axes in (end, cut):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
        axes.set_xlabel("%", fontsize=SMALL)
    verdicts = {verdict: f"{verdict} than chance" for verdict in COLOURS} | {"inconclusive": "inconclusive"}
    marks = {text: {"marker": "o", "color": COLOURS[verdict], "markersize": 5} for verdict, text in verdicts.items()}
    explain_marks(figure, marks)
    entitle(figure, title)
    return figure


def _colour(found: Sequence[Choice], name: str, sparsity: float) -> str:
    difference = against_chance(found, name, sparsity)
    return DENSE if difference is None else COLOURS[difference.verdict]


def _dot(axes: Axes, row: int, values: Sequence[float], hue: str, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    if not values:
        return
    if len(values) > 1:
        axes.plot(within(student(values), bounds), [row, row], color=hue, linewidth=1.0, alpha=0.6, zorder=1)
    axes.plot([fmean(values)], [row], "o", color=hue, markersize=5, zorder=2)
