"""The figure of what scores do to the gradient flow and to the kernel."""

from collections.abc import Sequence
from math import ceil, log10
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, SymmetricalLogLocator

import earlycrop
from earlycrop.units import Channels
from earlycrop_lab.reporting.charts.canvas import (
    DENSE,
    HUES,
    LEGEND,
    SIZE,
    SMALL,
    STROKE,
    blank,
    entitle,
    headline,
    plain,
)
from earlycrop_lab.why.flows import Flow

STEEP = 20
"""A change of the kernel beyond which its axis is linear only up to 1, and logarithmic above."""


def flow(found: Sequence[Flow], titled: bool = True) -> Figure:
    """Plot gradient flow and kernel change against sparsity, one line per score; weights left, channels right."""
    names = list(dict.fromkeys(each.method for each in found))
    units = [[n for n in names if not _channels(n)], [n for n in names if _channels(n)]]
    shown = [group for group in units if group]
    figure = blank(400)
    panels = figure.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
    levels = sorted({each.sparsity for each in found})
    for column, group in enumerate(shown):
        ratio, change = panels[0][column], panels[1][column]
        for axes in (ratio, change):
            plain(axes)
        ratio.axhline(1, color=DENSE, linewidth=1.2, linestyle=(0, (4, 3)))
        for number, name in enumerate(group):
            style = STROKE | {"color": HUES[number % len(HUES)], "marker": "o"}
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
        headline(ratio, "single weights" if not _channels(group[0]) else "channels")
    largest = max(each.kernel_change for each in found)
    if largest > STEEP:  # GraSP's may be so large that all others would lie on the axis
        panels[1][0].set_yscale("symlog", linthresh=1)
        panels[1][0].yaxis.set_major_locator(SymmetricalLogLocator(base=10 ** ceil(log10(largest) / 4), linthresh=1))
        panels[1][0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0e}" if y >= 1000 else f"{y:g}"))
    panels[1][0].set_ylim(bottom=0)  # after all lines are drawn: set earlier, this shared axis would cut off later ones
    panels[0][0].set_ylabel("flow ‖g‖², of the dense one's", fontsize=SMALL)
    panels[1][0].set_ylabel("‖K − K₀‖ / ‖K₀‖", fontsize=SMALL)
    if titled:
        seeds = len({each.seed for each in found})
        entitle(figure, f"After {found[0].epochs} dense epochs, before any further step (n = {seeds})")
    return figure


def _ratio(each: Flow) -> float:
    return max(each.flow_after / each.flow_before, 1e-12)


def _channels(name: str) -> bool:
    return isinstance(earlycrop.get_method(name).units, Channels)
