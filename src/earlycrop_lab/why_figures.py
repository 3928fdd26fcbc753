"""The pictures behind the poster: what scores do to flow and kernel, when each rule prunes, and when was best."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

import earlycrop
from earlycrop.units import Channels
from earlycrop_lab.charts import HUES
from earlycrop_lab.figures import DENSE, FAINT, MARK, PRUNED, STYLE, plain
from earlycrop_lab.tables import amount, percent
from earlycrop_lab.why import RULES, Flow, Moment, Watched

COLOURS = dict(zip(RULES, HUES, strict=False))


def flow(found: Sequence[Flow]) -> Figure:
    """Gradient flow and change of the kernel against sparsity, a line a score: weights on the left, channels right."""
    names = list(dict.fromkeys(each.method for each in found))
    units = [[n for n in names if not _channels(n)], [n for n in names if _channels(n)]]
    shown = [group for group in units if group]
    figure = Figure(figsize=(4.6 * len(shown), 6.4), layout="constrained")
    panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    levels = sorted({each.sparsity for each in found})
    for column, group in enumerate(shown):
        ratio, change = panels[0][column], panels[1][column]
        for axes in (ratio, change):
            plain(axes)
        ratio.axhline(1, color=DENSE, linewidth=1.2, linestyle=(0, (4, 3)))
        for number, name in enumerate(group):
            style = STYLE | {"color": HUES[number % len(HUES)], "marker": "o"}
            at = {s: [each for each in found if each.method == name and each.sparsity == s] for s in levels}
            ratio.plot(range(len(levels)), [fmean(_ratio(e) for e in at[s]) for s in levels], label=name, **style)
            change.plot(range(len(levels)), [fmean(e.kernel_change for e in at[s]) for s in levels], **style)
        ratio.set_yscale("log")
        change.set_ylim(bottom=0)
        change.set_xticks(range(len(levels)), [percent(s) for s in levels])
        change.set_xlabel("weights removed")
        ratio.set_title("single weights" if not _channels(group[0]) else "channels", loc="left", fontsize=11, y=1.0)
        ratio.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.05))
    panels[0][0].set_ylabel("gradient flow ‖g‖², of the dense one's")
    panels[1][0].set_ylabel("change of the kernel, ‖K − K₀‖ / ‖K₀‖")
    seeds = len({each.seed for each in found})
    figure.suptitle(f"After {found[0].epochs} dense epochs, before any further step (n = {seeds})", x=0.01, ha="left")
    return figure


def training(seen: Watched, title: str) -> Figure:
    """Norm, drift and kernel of a dense training at a constant rate, and the epoch at which each rule would prune."""
    figure = Figure(figsize=(7.2, 7.6), layout="constrained")
    above, middle, kernel, rules = figure.subplots(4, sharex=True, height_ratios=(1, 1, 1.3, 1.6))
    for axes, values, label in (
        (above, seen.norm, "weight norm ‖θ‖"),
        (middle, seen.drift, "distance from the start ‖θ − θ(0)‖ / ‖θ(0)‖"),
    ):
        plain(axes)
        axes.plot(seen.epochs, values, color=PRUNED, marker="o", **STYLE)
        axes.set_title(label, loc="left", fontsize=10)
    plain(kernel)
    kernel.plot(seen.epochs, seen.from_start, color=PRUNED, marker="o", label="from the start", **STYLE)
    kernel.plot(seen.epochs[1:], seen.pace[1:], color=MARK, marker="o", label="from the epoch before", **STYLE)
    kernel.set_ylim(bottom=0)
    kernel.set_title("change of the neural tangent kernel ‖ΔK‖ / ‖K‖", loc="left", fontsize=10)
    kernel.legend(frameon=False, fontsize=9, ncols=2)
    _choices(rules, seen)
    rules.set_xlabel("epoch")
    rules.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _choices(axes: Axes, seen: Watched) -> None:
    """A row a rule: where it looked, and where it would have pruned."""
    plain(axes)
    for row, watch in enumerate(seen.rules):
        axes.plot(watch.epochs, [row] * len(watch.epochs), ".", color=FAINT, markersize=7)
        if watch.chosen is None:
            axes.annotate("never", (seen.epochs[-1], row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        else:
            axes.plot([watch.chosen], [row], "o", color=COLOURS[watch.rule], markersize=9)
    axes.set_yticks(range(len(seen.rules)), [watch.rule for watch in seen.rules], fontsize=9)
    axes.set_ylim(len(seen.rules) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.set_title("the first epoch at which each rule would prune", loc="left", fontsize=10)


def moment(accuracies: Mapping[float, Sequence[float]], moments: Sequence[Moment], title: str) -> Figure:
    """Test accuracy against the epoch at which was pruned, with the choice of every rule marked beneath."""
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1.3))
    plain(above)
    plain(below)
    epochs = list(accuracies)
    means = [fmean(values) for values in accuracies.values()]
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in accuracies.values()]
    above.errorbar(epochs, means, spread, color=PRUNED, marker="o", capsize=3, **STYLE)
    best = max(range(len(epochs)), key=means.__getitem__)
    above.plot(epochs[best], means[best], "o", color=MARK, markersize=10, zorder=4)
    above.annotate(
        f"best of these: epoch {epochs[best]:g}, {percent(means[best])}",
        (epochs[best], means[best]),
        (0, 9),
        textcoords="offset points",
        ha="center",
        color=MARK,
        fontsize=9,
    )
    above.margins(y=0.2)
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    counts = sorted({len(values) for values in accuracies.values()})
    above.set_title(
        f"test accuracy after the whole budget (n = {', '.join(map(str, counts))})", loc="left", fontsize=10
    )
    for row, each in enumerate(moments):
        below.plot(
            [each.epoch], [row], "o" if each.reason == "trigger" else "s", color=COLOURS[each.rule], markersize=8
        )
        text = f"{each.reason}, {100 * each.behind:.1f} points behind; a look {amount(each.seconds, 's')}"
        left = each.epoch > (min(epochs) + max(epochs)) / 2
        below.annotate(
            text,
            (each.epoch, row),
            (-8 if left else 8, 0),
            textcoords="offset points",
            va="center",
            ha="right" if left else "left",
            fontsize=8.5,
        )
    below.set_yticks(range(len(moments)), [each.rule for each in moments], fontsize=9)
    below.set_ylim(len(moments) - 0.5, -0.5)
    below.grid(False, axis="y")
    below.set_title("the swept epoch nearest to each rule's choice", loc="left", fontsize=10)
    below.set_xlabel("epoch at which was pruned")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _ratio(each: Flow) -> float:
    return max(each.flow_after / each.flow_before, 1e-12)


def _channels(name: str) -> bool:
    return isinstance(earlycrop.get_method(name).units, Channels)
