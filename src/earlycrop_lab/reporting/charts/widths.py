"""What each method keeps of each layer."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from earlycrop_lab.reporting.charts.canvas import GRID, SMALL, Chart, figure_of, framed, shortened, text_at, text_width
from earlycrop_lab.reporting.charts.marks import colours, levels
from earlycrop_lab.reporting.tables import Row

BESIDE = 8
"""The greatest number of methods in one chart of widths."""


def widths(rows: Sequence[Row]) -> list[Chart]:
    """For each sparsity a chart of what each method keeps of each layer, as the mean over its seeds."""
    drawn = []
    for sparsity in levels(rows):
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
    shown = [shortened(layer, end=True) for layer in layers]
    lengths = [text_width(shortened(row.name)) for row in rows]
    longest = max(lengths)
    axes = framed(
        pitch * len(layers) + 0.75 * longest + 30,
        left=10 + max(text_width(layer) for layer in shown),
        right=12
        + max(0.62 * text_width(shortened(row.name)) - 25 * (len(rows) - 1 - place) for place, row in enumerate(rows)),
        bottom=12,
        top=18 + 0.75 * longest,
    )
    axes.set_xlim(-0.1, len(rows))
    axes.set_ylim(len(layers) - 0.5, -0.5)
    for place, row in enumerate(rows):
        kept = _kept(row)
        axes.add_patch(_bars(place, [0.86] * len(layers), GRID))
        axes.add_patch(_bars(place, [0.86 * kept.get(layer, 0.0) for layer in layers], hues[row.line]))
        text_at(axes, (place + 0.1, 1), (0, 5), shortened(row.name), hues[row.line], above=True, rotation=50)
    axes.set_yticks(range(len(layers)), shown, fontsize=SMALL)
    axes.set_xticks([])
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    n = sorted({len(row.results) for row in rows})
    note = (
        "A full grey bar is the dense layer. Coloured: the fraction of its output channels that stays, or of its "
        f"weights where they are masked; mean over n = {' or '.join(map(str, n))}."
    )
    return Chart(name, f"What each layer keeps at {rows[0].asked} sparsity", note, figure_of(axes))


def _kept(row: Row) -> dict[str, float]:
    """The fraction of each layer that stays, as the mean over the seeds."""
    parts: dict[str, list[float]] = {}
    for result in row.results:
        for width in (result.report or {"widths": []})["widths"]:
            parts.setdefault(width["layer"], []).append(width["after"] / width["before"])
    return {layer: fmean(values) for layer, values in parts.items()}


def _bars(left: float, lengths: Sequence[float], colour: str) -> PathPatch:
    """Bars from the top down as one outline, which keeps the files of charts with thousands of bars small."""
    corners = [(0, -0.38), (1, -0.38), (1, 0.38), (0, 0.38), (0, -0.38)]
    vertices = [(left + x * length, row + y) for row, length in enumerate(lengths) if length for x, y in corners]
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY] * (len(vertices) // 5)
    return PathPatch(Outline(vertices or [(0, 0)], codes or [Outline.MOVETO]), facecolor=colour, linewidth=0)
