"""The pictures behind the poster: what scores do to flow and kernel, when each rule prunes, and when was best.

They are as wide as a phone and in the colours of `charts`, so that a page can show them too: `of(folder)` draws what
`earlycrop why` kept there.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    SymmetricalLogLocator,
)

import earlycrop
from earlycrop.units import Channels
from earlycrop_lab import why_choice_figures, why_early_figures
from earlycrop_lab.charts import DENSE, HUES, INK, PAPER, SIZE, SMALL, SOFT, WIDTH, Chart, plain
from earlycrop_lab.tables import amount, percent, setting
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.why import RULES, Flow, Moment, Watch, Watched
from earlycrop_lab.why_choice import Choice
from earlycrop_lab.why_early import MOST, Early, Mark, cells

COLOURS = dict(zip(RULES, HUES, strict=False))
FIRED, CAPPED = "o", "s"
STYLE = {"linewidth": 1.4, "markersize": 3.6, "solid_capstyle": "round"}


@dataclass(frozen=True)
class Inquiry:
    """What was asked of one network, and the pictures of the answer.

    Args:
        title: The question.
        setting: Of which training.
        charts: The answer.
    """

    title: str
    setting: str
    charts: tuple[Chart, ...]


def of(folder: Path) -> Inquiry:
    """What `earlycrop why` has kept in a folder.

    Raises:
        ValueError: If its records cannot be understood.
        OSError: If they cannot be read.
    """
    path = folder / "records.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        d = _asked(stored["asked"])
        if "moments" in stored:
            title = f"When is the moment? {d.method} at {100 * d.sparsity:g} %"
            return Inquiry(title, setting(d), tuple(_swept(stored, folder.name)))
        if "choices" in stored:
            chosen = [Choice(**each) for each in stored["choices"]]
            return Inquiry(f"What is the choice of {d.method} worth?", setting(d), tuple(_chosen(chosen, folder.name)))
        if "runs" in stored:
            where = re.sub(r", \d+ epochs?", "", setting(d))  # there are several budgets
            return Inquiry(f"When does early pay? {d.method}", where, tuple(_early(stored, folder.name)))
        found = [Flow(**each) for each in stored["found"]]
        return Inquiry("What do scores do to flow and kernel?", setting(d), (_pruned(found, folder.name),))
    except (LookupError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is no answer of `earlycrop why` ({type(error).__name__}: {error}).") from error


def _asked(source: str) -> Classification:
    """The description whose source that is; nothing of it is executed."""
    call = ast.parse(source, mode="eval").body
    if not isinstance(call, ast.Call):
        raise ValueError(f"{source!r} is no description")
    return Classification(**{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})


def _swept(stored: Mapping[str, Any], name: str) -> list[Chart]:
    accuracies = {float(epoch): values for epoch, values in stored["accuracies"].items()}
    moments = [Moment(**each) for each in stored["moments"]]
    seen = _watched(stored["seen"])
    counts = " or ".join(map(str, sorted(set(map(len, accuracies.values())))))
    bars = "" if counts == "1" else "; bars: ± sample standard deviation"
    best = max(accuracies, key=lambda epoch: fmean(accuracies[epoch]))
    never = [watch.rule for watch in seen.rules if watch.chosen is None]
    looks = "; ".join(f"{each.rule} {_took(each.seconds)}" for each in moments)
    told = (
        f"Runs that differ in the epoch of the cut alone, n = {counts} each{bars}. "
        f"The best: epoch {best:g}, {percent(fmean(accuracies[best]))}. "
        "Below, for each rule: filled, the swept epoch nearest to "
        "where it would cut (circle: its signal fired; square: its cap, a part of the budget, came first); hollow, the "
        "epoch that it chooses without a cap, if that is another. "
    )
    if never:
        told += f"Never in {seen.epochs[-1]} epochs: {'; '.join(never)}. "
    watched = (
        "Dots: where a rule looked. Large: the first epoch at which it would cut, with no cap; “never”: its signal "
        "stays above its threshold. Nothing was cut in this training."
    )
    return [
        Chart(
            f"{name}-moment",
            "Test accuracy by the epoch of the cut, and what each rule chooses",
            f"{told}A look takes: {looks}.",
            moment(accuracies, moments, seen),
        ),
        Chart(f"{name}-training", "A dense training at a constant rate, as the rules see it", watched, training(seen)),
    ]


def _chosen(found: Sequence[Choice], name: str) -> list[Chart]:
    """A picture for each sparsity."""
    charts = []
    for sparsity in sorted({each.sparsity for each in found}):
        some = [each for each in found if each.sparsity == sparsity]
        told = (
            f"All keep the same number of units in each layer, cut after {some[0].epoch} of {some[0].epochs} epochs, "
            f"n = {len({each.seed for each in some})}. Left: test accuracy after the last epoch; lines: 95 % intervals "
            "of the means; dotted: a random choice. Middle: accuracy on the scoring set right after the cut. Right: 1 "
            "where the kept channels are uncorrelated. Bold: the method's own choice."
        )
        title = f"Choices inside the same widths, {100 * sparsity:g} % removed"
        charts.append(Chart(f"{name}-{sparsity:g}", title, told, why_choice_figures.choice(some, sparsity)))
    return charts


def _early(stored: Mapping[str, Any], name: str) -> list[Chart]:
    """At equal epochs and at equal cost."""
    shares, marks = stored["shares"], [Mark(**each) for each in stored["marks"]]
    found = [Early.of(each) for each in stored["runs"]]
    made = cells(found, stored["budgets"], shares)
    told = (
        f"Points of test accuracy, the mean over n = {len({each.seed for each in found})}. Marks: where the detectors "
        "would cut in the dense training, with no cap; the median over the seeds."
    )
    return [
        Chart(
            f"{name}-{kind.replace(' ', '-')}",
            f"A cut after a share of the budget against one before training, at {kind}",
            told + beside,
            why_early_figures.early(made, shares, marks, equal_cost=kind == "equal FLOPs"),
        )
        for kind, beside in (
            ("equal epochs", ""),
            ("equal FLOPs", f" The cut before training goes on for longer, at most {MOST} times the budget."),
        )
    ]


def _pruned(found: Sequence[Flow], name: str) -> Chart:
    seeds = len({each.seed for each in found})
    told = (
        f"The same network, {found[0].epochs} dense epochs old, pruned by each score and not trained any further; mean "
        f"over n = {seeds}. Above: the gradient flow over what is left, as a multiple of the dense one's. Below: how "
        "much of the empirical neural tangent kernel changed."
    )
    return Chart(f"{name}-flow", "Gradient flow and kernel after the cut", told, flow(found, titled=False))


def _watched(stored: Mapping[str, Any]) -> Watched:
    """From JSON, which has no nan."""

    def back(kind: type, fields: Mapping[str, Any]) -> Any:
        return kind(**{name: tuple(map(_number, v)) if isinstance(v, list) else v for name, v in fields.items()})

    rules = tuple(back(Watch, each) for each in stored["rules"])
    return back(Watched, {**stored, "rules": rules})


def _number(value: float | None) -> float:
    return nan if value is None else value


def _took(seconds: float) -> str:
    return amount(seconds, "s") if seconds >= 1 else amount(seconds, "ms", 1e3)


STEEP = 20
"""A change of the kernel beyond which its axis is linear up to 1 only, and logarithmic above."""


def flow(found: Sequence[Flow], titled: bool = True) -> Figure:
    """Gradient flow and change of the kernel against sparsity, a line a score: weights on the left, channels right."""
    names = list(dict.fromkeys(each.method for each in found))
    units = [[n for n in names if not _channels(n)], [n for n in names if _channels(n)]]
    shown = [group for group in units if group]
    figure = _figure(400)
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
        ratio.yaxis.set_major_locator(LogLocator(10, numticks=6))
        ratio.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ratio.yaxis.set_minor_formatter(NullFormatter())
        change.set_xticks(range(len(levels)), [f"{100 * s:g}" for s in levels])
        change.set_xlabel("weights removed, %", fontsize=SIZE)
        change.legend(
            *ratio.get_legend_handles_labels(),
            **(LEGEND | {"ncols": 2, "columnspacing": 0.8, "handlelength": 1.0}),
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.32),
        )
        _headed(ratio, "single weights" if not _channels(group[0]) else "channels")
    largest = max(each.kernel_change for each in found)
    if largest > STEEP:  # GraSP's may be of any size, and the others would lie on the axis
        panels[1][0].set_yscale("symlog", linthresh=1)
        panels[1][0].yaxis.set_major_locator(SymmetricalLogLocator(base=10 ** ceil(log10(largest) / 4), linthresh=1))
        panels[1][0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0e}" if y >= 1000 else f"{y:g}"))
    panels[1][0].set_ylim(bottom=0)  # shared: when all lines are there, or it would cut off those that come later
    panels[0][0].set_ylabel("flow ‖g‖², of the dense one's", fontsize=SMALL)
    panels[1][0].set_ylabel("‖K − K₀‖ / ‖K₀‖", fontsize=SMALL)
    if titled:
        seeds = len({each.seed for each in found})
        _titled(figure, f"After {found[0].epochs} dense epochs, before any further step (n = {seeds})")
    return figure


def training(seen: Watched, title: str = "") -> Figure:
    """Norm, drift and kernel of a dense training at a constant rate, and the epoch at which each rule would prune."""
    figure = _figure(500)
    above, middle, kernel, rules = figure.subplots(4, sharex=True, height_ratios=(1, 1, 1.3, 1.6))
    for axes, values, label in (
        (above, seen.norm, "weight norm ‖θ‖"),
        (middle, seen.drift, "distance from the start ‖θ − θ(0)‖ / ‖θ(0)‖"),
    ):
        plain(axes)
        axes.plot(seen.epochs, values, color=HUES[0], marker="o", **STYLE)
        _headed(axes, label)
    plain(kernel)
    kernel.plot(seen.epochs, seen.from_start, color=HUES[0], marker="o", label="from the start", **STYLE)
    kernel.plot(seen.epochs[1:], seen.pace[1:], color=HUES[1], marker="o", label="from the epoch before", **STYLE)
    kernel.set_ylim(bottom=0)
    _headed(kernel, "change of the neural tangent kernel ‖ΔK‖ / ‖K‖")
    kernel.legend(**LEGEND, loc="upper right")
    _choices(rules, seen)
    rules.set_xlabel("epoch", fontsize=SIZE)
    rules.xaxis.set_major_locator(MaxNLocator(integer=True))
    _titled(figure, title)
    return figure


def _choices(axes: Axes, seen: Watched) -> None:
    """A row a rule: where it looked, and where it would have pruned."""
    plain(axes)
    for row, watch in enumerate(seen.rules):
        axes.plot(watch.epochs, [row] * len(watch.epochs), ".", color=DENSE, alpha=0.5, markersize=5)
        if watch.chosen is None:
            _beside(axes, row, "never")
        else:
            axes.plot([watch.chosen], [row], FIRED, color=COLOURS[watch.rule], markersize=7)
    _rows(axes, [watch.rule for watch in seen.rules])
    _headed(axes, "the first epoch at which each rule would prune")


def moment(
    accuracies: Mapping[float, Sequence[float]], moments: Sequence[Moment], seen: Watched, title: str = ""
) -> Figure:
    """Test accuracy against the epoch at which was pruned, with the choice of every rule marked beneath.

    What a rule chooses without its cap, between the swept epochs too, is marked hollow beside the epoch that stands
    for it.
    """
    figure = _figure(440)
    above, below = figure.subplots(2, sharex=True, height_ratios=(1.4, 1.3))
    plain(above)
    plain(below)
    epochs = list(accuracies)
    means = [fmean(values) for values in accuracies.values()]
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in accuracies.values()]
    above.errorbar(epochs, means, spread if any(spread) else None, color=HUES[0], marker="o", capsize=3, **STYLE)
    best = max(range(len(epochs)), key=means.__getitem__)
    above.plot(epochs[best], means[best], "o", color=HUES[1], markersize=8, zorder=4)
    above.margins(y=0.1)
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    counts = sorted({len(values) for values in accuracies.values()})
    _headed(
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
    _headed(below, "the swept epoch nearest to each rule's choice,\nand how many points it is behind the best")
    below.set_xlabel("epoch at which was pruned", fontsize=SIZE)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    marks = {
        "its signal fired": (FIRED, SOFT),
        "its cap came first": (CAPPED, SOFT),
        "chosen without cap": (FIRED, PAPER),
    }
    figure.legend(
        [
            Line2D([], [], linestyle="", marker=marker, color=SOFT, markerfacecolor=face, markersize=6)
            for marker, face in marks.values()
        ],
        list(marks),
        **(LEGEND | {"ncols": 3, "columnspacing": 0.8, "handletextpad": 0.1}),
        loc="outside lower left",
    )
    _titled(figure, title)
    return figure


LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER, layout="constrained")


def _titled(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=SMALL, fontweight="bold", color=INK)


def _headed(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=SMALL, color=INK)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """A row for each name, from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _beside(axes: Axes, row: int, text: str) -> None:
    """Text of a row, at the right of its panel."""
    axes.annotate(
        text,
        (1, row),
        (4, 0),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        color=INK,
    )


def _ratio(each: Flow) -> float:
    return max(each.flow_after / each.flow_before, 1e-12)


def _channels(name: str) -> bool:
    return isinstance(earlycrop.get_method(name).units, Channels)
