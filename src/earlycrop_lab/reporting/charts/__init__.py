"""The charts of a table of runs: the main metric against sparsity and cost, the epochs of pruning, the widths.

Each is a matplotlib figure, drawn once for a paper, an image file and the page. It is as wide as a phone, so that text
keeps its size there.

    sparsity | cost | moments | widths
    marks        the colours, names and points of rows
    names        names beside lines and points
    canvas       figures, axes, colours, text
"""

from collections.abc import Iterable, Sequence

from earlycrop_lab.reporting.charts.canvas import Chart
from earlycrop_lab.reporting.charts.cost import COSTS, against
from earlycrop_lab.reporting.charts.moments import moments
from earlycrop_lab.reporting.charts.sparsity import by_sparsity
from earlycrop_lab.reporting.charts.widths import widths
from earlycrop_lab.reporting.equal_cost import controls
from earlycrop_lab.reporting.tables import Row


def charts(rows: Sequence[Row], narrow: Sequence[Row] = ()) -> list[Chart]:
    """All charts of rows that can be compared with each other; those without numbers are left out.

    Args:
        rows: The rows of one setting.
        narrow: Dense rows of the same network in smaller widths, shown in the charts of cost.
    """
    random = controls(rows)
    asked = [row for row in rows if all(row is not other for other in random)]
    costs = [against([*asked, *random], name, narrow) for name in COSTS]
    found = [by_sparsity(asked), *costs, *moments(asked), *widths(asked)]
    return [chart for chart in found if chart is not None]


def reading(rows: Iterable[Row]) -> str:
    """How to read the points and bars of the charts."""
    counts = sorted({len(row.results) for row in rows})
    bars = (
        "One run each (n = 1), so the spread is unknown."
        if counts == [1]
        else f"Bars: ± sample standard deviation over the seeds, n = {' or '.join(map(str, counts))}."
    )
    return f"Circles: channels are removed; diamonds and dashed lines: weights are masked; squares: dense. {bars}"
