"""The plots of a run: the main metric over time, the lazy regime, channels per layer; and the plot of a plan.

They are drawn from `result.json` alone, except for a task's samples, which come from the tensors that the run kept.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

import earlycrop
from earlycrop.files import replacing
from earlycrop.timing import EarlyBird, LazyRegime, NtkSettled, RateSettled, ScoreSettled
from earlycrop_lab.reporting.columns import shown
from earlycrop_lab.reporting.depth_figures import beside
from earlycrop_lab.reporting.texts import AS_IT_IS
from earlycrop_lab.runs import Result, samples

PRUNED, DENSE, MARK, FAINT = "#0b7a75", "#7d8597", "#d1495b", "#d5dae1"
STYLE = {"linewidth": 2, "markersize": 4.5, "solid_capstyle": "round"}


def draw(result: Result, folder: Path, dense: Result | None = None) -> list[Path]:
    """Draw the run's plots into its folder; their paths."""
    figures = {
        "progress.png": progress(result, dense),
        "regime.png": regime(result),
        "channels.png": channels(result),
        "samples.png": sampled({run.description.method: run for run in (dense, result) if run}, folder.parent),
    }
    return [_save(figure, folder / name) for name, figure in figures.items() if figure is not None]


SAMPLED = {"depth": beside}
"""By task, the function that plots samples of runs, given by name, in a figure of a width in inches."""


def sampled(runs: Mapping[str, Result], out: Path, width: float = 7.2, **options: Any) -> Figure | None:
    """The predictions of these runs under `out` for a few samples; None if the task or one of the runs keeps none."""
    kept = {name: samples(run.description, out) for name, run in runs.items()}
    draw_samples = SAMPLED.get(next(iter(runs.values())).description.task)
    return draw_samples(kept, width, **options) if draw_samples and all(kept.values()) else None


def draw_plan(plan: earlycrop.Plan, path: Path) -> Path:
    """Draw what each layer would keep, as `pruner.dry_run()` reports it; the path."""
    rows = plan.as_dict()["rows"]
    return _save(_widths(rows, plan.unit == "weights", f"{plan.method}: what each layer would keep"), path)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
    return path


def progress(result: Result, dense: Result | None = None) -> Figure:
    """The main metric over seconds of training, with the dense run's if there is one."""
    figure, axes = _figure(4.2)
    metric = result.description.metric
    runs = [(result, PRUNED)] if dense is None else [(dense, DENSE), (result, PRUNED)]
    for run, colour in runs:
        seconds, values = [e.seconds for e in run.epochs], [e.test for e in run.epochs]
        name = run.description.method
        if run.report is not None:
            name += f", {run.columns.weight_sparsity:.1%} of weights removed"
        axes.plot(seconds, values, color=colour, marker="o", label=f"{name}: {shown(metric, values[-1])}", **STYLE)
        axes.plot(seconds[-1:], values[-1:], "o", color=colour, markersize=9, markeredgecolor="white", zorder=4)
        axes.axvline(seconds[-1], color=colour, linewidth=0.8, linestyle=(0, (1, 3)))
    if result.report is not None and (epoch := result.report["epoch"]) > 0:
        cut = result.epochs[int(epoch) - 1].seconds
        axes.axvline(cut, color=MARK, linewidth=1.4)
        _note(axes, cut, f"cut at epoch {epoch:g}")
    axes.set_xlabel("training time, seconds (without evaluation)")
    axes.set_ylabel(metric.label + (f", {metric.unit}" if metric.unit not in ("", "%") else ""))
    axes.set_xlim(left=0)
    values = [e.test for run, _ in runs for e in run.epochs]
    if metric.unit == "%":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(max(0.0, min(values) - 0.05), min(1.0, axes.get_ylim()[1]) + 0.02)
    elif min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    d = result.description
    axes.set_title(f"{d.network} on {d.data}: {metric.label} after each epoch", loc="left", **AS_IT_IS)
    return figure


def regime(result: Result) -> Figure | None:
    """The signal that must become small, with its threshold and the cut; the value observed; the learning rate.

    None for a run without a detector: dense, or pruned at a fixed epoch.
    """
    timing = earlycrop.get_method(result.description.method).timing
    if result.report is None or not result.report["curve"]:
        return None
    curve = result.report["curve"]
    looks, seen, threshold = (
        [look["epoch"] for look in curve],
        [look["value"] for look in curve],
        curve[-1]["threshold"],
    )
    signal = [math.nan if look["signal"] is None else look["signal"] for look in curve]
    small, what = LABELS.get(type(timing), ("what must become small", "what was observed"))
    moment = result.report["epoch"]

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    above, middle, below = figure.subplots(3, sharex=True, height_ratios=(3, 1.5, 1.2))
    for axes in (above, middle, below):
        plain(axes)
        axes.axvline(moment, color=MARK, linewidth=1.4)
    above.plot(looks, signal, color=PRUNED, marker="o", **STYLE)
    above.axhline(threshold, color=MARK, linestyle=(0, (4, 3)), linewidth=1.4)
    shown = [value for value in signal if value > 0]  # nan is not
    above.set_yscale("log")
    above.set_ylim(min([threshold, *shown]) / 2, max([threshold, 1.0, *shown]) * 2)
    above.set_title(small, loc="left", fontsize=10)
    middle.plot(looks, seen, color=PRUNED, marker="o", **STYLE)
    middle.set_title(what, loc="left", fontsize=10)
    middle.set_ylim(0, 1.15 * max([*seen, 1e-9]))
    rates = [end for e in result.epochs for end in ((e.epoch - 1, e.first_learning_rate), (e.epoch, e.learning_rate))]
    below.plot(*zip(*rates, strict=True), color=DENSE, linewidth=2)
    below.set_title("learning rate", loc="left", fontsize=10)
    below.set_ylim(0, 1.15 * max(rate for _, rate in rates))
    below.set_xlabel("epoch")
    below.set_xlim(0, len(result.epochs) * 1.02)
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.annotate(
        f"threshold {threshold:.3g}",
        (1, threshold),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=MARK,
        fontsize=9,
    )
    _note(above, moment, f"cut at epoch {moment:g}: {WHY[result.report['reason']]}")
    figure.suptitle(f"{result.description.method}: when to prune?", x=0.01, ha="left", **AS_IT_IS)
    return figure


DISTANCE = "distance from the start: ‖θ(t) − θ(0)‖ / ‖θ(0)‖"
WHY = {"trigger": "below the threshold", "cap": "the cap", "static": "the weights do not move"}
LABELS = {
    LazyRegime: ("what must become small: |Δ(t) − Δ(t−1)| / |Δ(1)|", DISTANCE),
    RateSettled: ("what must become small: the change of the rate", DISTANCE),
    ScoreSettled: ("what must become small: 1 − overlap", "overlap of what two scorings keep"),
    EarlyBird: ("what must become small: the largest distance of masks", "the same, from the second mask on"),
    NtkSettled: ("what must become small: the change of the kernel", "‖K(t) − K(t−1)‖ / ‖K(t−1)‖"),
}
"""By detector: the signal that must become small, and the value that its instrument observes."""


def channels(result: Result) -> Figure | None:
    """Each prunable layer before and after the cut: output channels, or kept weights where weights were masked."""
    if result.report is None or not result.report["widths"]:
        return None
    masks = result.report["unit"] == "weights"
    return _widths(result.report["widths"], masks, f"{result.description.method}: what each layer keeps")


def _widths(widths: Sequence[dict[str, Any]], masks: bool, title: str) -> Figure:
    """Bars of each layer before and after the cut; masked weights as fractions of their layer."""
    figure, axes = _figure(1.5 + 0.24 * len(widths))
    rows = range(len(widths))
    # channels as counts; weights, of which one layer may have a thousand times another's, as fractions of their layer
    before = [1.0 if masks else w["before"] for w in widths]
    after = [w["after"] / w["before"] if masks else w["after"] for w in widths]
    axes.barh(rows, before, height=0.72, color=FAINT, label="dense")
    axes.barh(rows, after, height=0.72, color=PRUNED, label="after the cut")
    axes.set_xlim(0, max(before) * (1.24 if masks else 1.16))
    if masks:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for row, end, w in zip(rows, before, widths, strict=True):
        text = f"{w['after']:,} / {w['before']:,}"
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(rows, [w["layer"] for w in widths], fontsize=8)
    axes.invert_yaxis()
    axes.set_ylim(len(widths) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.set_xlabel(
        "fraction of each layer's weights that stays" if masks else "output channels of each layer, after / before"
    )
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    axes.set_title(title, loc="left", **AS_IT_IS)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Style axes with two muted spines and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(DENSE)
    axes.tick_params(color=DENSE)
    axes.grid(color="#eceff3", linewidth=0.8)
    axes.set_axisbelow(True)


def _note(axes: Axes, x: float, text: str) -> None:
    """Write text at the top of a vertical line, on the side where there is room."""
    left, right = axes.get_xlim()
    late = x > left + 0.7 * (right - left)
    axes.annotate(
        text,
        (x, 1),
        (-5 if late else 5, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top",
        color=MARK,
        fontsize=9,
    )
