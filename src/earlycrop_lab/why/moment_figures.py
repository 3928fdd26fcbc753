"""The figures of when to prune: what every rule observes in a dense training, and the sweep of the epoch of the cut."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from earlycrop_lab.reporting.charts.canvas import (
    DENSE,
    HUES,
    INK,
    LEGEND,
    PAPER,
    SIZE,
    SMALL,
    SOFT,
    STROKE,
    blank,
    entitle,
    explain_marks,
    headline,
    plain,
)
from earlycrop_lab.reporting.numbers import percent
from earlycrop_lab.reporting.texts import AS_IT_IS
from earlycrop_lab.why.moments import RULES, Moment, Watched

COLOURS = dict(zip(RULES, HUES, strict=False))
FIRED, CAPPED = "o", "s"


def training(seen: Watched, title: str = "") -> Figure:
    """Plot norm, drift and kernel of a dense training at a constant rate, and when each rule would prune."""
    figure = blank(500)
    above, middle, kernel, rules = figure.subplots(4, sharex=True, height_ratios=(1, 1, 1.3, 1.6))
    for axes, values, label in (
        (above, seen.norm, "weight norm ‖θ‖"),
        (middle, seen.drift, "distance from the start ‖θ − θ(0)‖ / ‖θ(0)‖"),
    ):
        plain(axes)
        axes.plot(seen.epochs, values, color=HUES[0], marker="o", **STROKE)
        headline(axes, label)
    plain(kernel)
    kernel.plot(seen.epochs, seen.from_start, color=HUES[0], marker="o", label="from the start", **STROKE)
    kernel.plot(seen.epochs[1:], seen.pace[1:], color=HUES[1], marker="o", label="from the epoch before", **STROKE)
    kernel.set_ylim(bottom=0)
    headline(kernel, "change of the neural tangent kernel ‖ΔK‖ / ‖K‖")
    kernel.legend(**LEGEND, loc="upper right")
    _choices(rules, seen)
    rules.set_xlabel("epoch", fontsize=SIZE)
    rules.xaxis.set_major_locator(MaxNLocator(integer=True))
    entitle(figure, title)
    return figure


def _choices(axes: Axes, seen: Watched) -> None:
    """Draw one row per rule: the epochs at which it observed, and the one at which it would have pruned."""
    plain(axes)
    for row, watch in enumerate(seen.rules):
        axes.plot(watch.epochs, [row] * len(watch.epochs), ".", color=DENSE, alpha=0.5, markersize=5)
        if watch.chosen is None:
            _beside(axes, row, "never")
        else:
            axes.plot([watch.chosen], [row], FIRED, color=COLOURS[watch.rule], markersize=7)
    _rows(axes, [watch.rule for watch in seen.rules])
    headline(axes, "the first epoch at which each rule would prune")


def moment(
    accuracies: Mapping[float, Sequence[float]], moments: Sequence[Moment], seen: Watched, title: str = ""
) -> Figure:
    """Plot test accuracy against the epoch of pruning, with the choice of every rule marked below.

    A rule's choice is the nearest swept epoch; the epoch that it would choose without its cap is marked hollow.
    """
    figure = blank(440)
    above, below = figure.subplots(2, sharex=True, height_ratios=(1.4, 1.3))
    plain(above)
    plain(below)
    epochs = list(accuracies)
    means = [fmean(values) for values in accuracies.values()]
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in accuracies.values()]
    above.errorbar(epochs, means, spread if any(spread) else None, color=HUES[0], marker="o", capsize=3, **STROKE)
    best = max(range(len(epochs)), key=means.__getitem__)
    above.plot(epochs[best], means[best], "o", color=HUES[1], markersize=8, zorder=4)
    above.margins(y=0.1)
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    counts = sorted({len(values) for values in accuracies.values()})
    headline(
        above,
        f"test accuracy after the whole budget (n = {', '.join(map(str, counts))}),\n"
        f"the best of these at epoch {epochs[best]:g}: {percent(means[best])}",
    )
    chosen = {watch.rule: watch.chosen for watch in seen.rules}
    for row, each in enumerate(moments):
        hue, own = COLOURS[each.rule], chosen.get(each.rule)
        if own is not None and own != each.epoch:
            below.plot([each.epoch, own], [row, row], color=hue, linewidth=0.9, zorder=1)
            below.plot([own], [row], FIRED, color=hue, markerfacecolor=PAPER, markersize=7)
        below.plot([each.epoch], [row], FIRED if each.reason == "trigger" else CAPPED, color=hue, markersize=7)
        _beside(below, row, f"{100 * each.behind:.1f} behind")
    _rows(below, [each.rule for each in moments])
    headline(below, "the swept epoch nearest to each rule's choice,\nand how many points it is behind the best")
    below.set_xlabel("epoch of pruning", fontsize=SIZE)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    filled = {"color": SOFT, "markerfacecolor": SOFT, "markersize": 6}
    marks = {
        "its signal fired": {**filled, "marker": FIRED},
        "its cap came first": {**filled, "marker": CAPPED},
        "chosen without cap": {**filled, "marker": FIRED, "markerfacecolor": PAPER},
    }
    explain_marks(figure, marks)
    entitle(figure, title)
    return figure


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Label a row with each name, from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _beside(axes: Axes, row: int, text: str) -> None:
    """Write text beside a row, at the right of its panel."""
    axes.annotate(
        text,
        (1, row),
        (4, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        color=INK,
        **AS_IT_IS,
    )
