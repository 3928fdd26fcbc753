"""The figure of how much each layer's units matter: a map of layers and sparsities."""

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from earlycrop import Sensitivity
from earlycrop.sensitivity import title_of
from earlycrop_lab.reporting.charts.canvas import GRID, HUES, INK, PAPER, SMALL, blank, entitle, plain, shortened
from earlycrop_lab.reporting.texts import AS_IT_IS

WORSE = HUES[1]


def layers(found: Sequence[Sensitivity], rises: bool = False, title: str = "") -> Figure:
    """Plot the figure when one layer loses a part of its units: a row for each layer, the first above.

    Args:
        found: An answer for each seed; their mean is shown.
        rises: Whether the figure is the better the higher it is.
        title: The title of the figure.
    """
    rows, columns = list(found[0].by_layer), list(found[0].sparsities)
    values = np.full((len(rows), len(columns)), np.nan)
    for (y, layer), (x, sparsity) in ((a, b) for a in enumerate(rows) for b in enumerate(columns)):
        here = [p.value for one in found for p in one.by_layer.get(layer, ()) if p.sparsity == sparsity]
        values[y, x] = fmean(here) if here else np.nan
    whole = fmean(one.whole for one in found)
    worse = (whole - values if rises else values - whole).clip(min=0)
    known = worse[np.isfinite(worse)]
    figure = blank(18 * len(rows) + 84)
    axes = figure.subplots()
    plain(axes)
    axes.grid(False)
    axes.set_facecolor(GRID)
    # most layers bear a lot, and one or two little: equal steps of colour would show only these
    scale = PowerNorm(0.5, 0, max(float(known.max()) if known.size else 0.0, 1e-12))
    axes.imshow(worse, cmap=LinearSegmentedColormap.from_list("worse", [PAPER, WORSE]), norm=scale, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if isfinite(value):
            axes.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=SMALL - 2, color=INK)
    axes.set_xticks(range(len(columns)), [f"{100 * sparsity:g} %" for sparsity in columns])
    axes.set_yticks(range(len(rows)), [shortened(title_of(layer, shown=1), end=False) for layer in rows])
    axes.set_xlabel(f"of this layer's {found[0].unit} removed, and of no other's", fontsize=SMALL, color=INK)
    axes.set_title(f"{found[0].figure}; with all: {whole:.3g}", fontsize=SMALL, loc="left", color=INK, **AS_IT_IS)
    entitle(figure, title)
    return figure
