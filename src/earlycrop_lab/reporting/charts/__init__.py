"""The pictures of a table of runs: what counts against sparsity and against what it cost, the moments, the widths.

Each is a matplotlib figure, drawn once for a paper, a picture file and the page. It is as wide as a phone, so that text
keeps its size there.

    sparsity | cost | moments | widths
    marks        rows: their colours, names and points
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
    """All pictures of rows that can be compared with each other; none of what they have no numbers for.

    Args:
        rows: Of one setting.
        narrow: Dense rows of the same network in smaller widths, which are on the pictures of cost.
    """
    random = controls(rows)
    asked = [row for row in rows if all(row is not other for other in random)]
    costs = [against([*asked, *random], name, narrow) for name in COSTS]
    found = [by_sparsity(asked), *costs, *moments(asked), *widths(asked)]
    return [chart for chart in found if chart is not None]


def reading(rows: Iterable[Row]) -> str:
    """How points and bars of the pictures are to be read."""
    counts = sorted({len(row.results) for row in rows})
    bars = (
        "One run each (n = 1), so the spread is unknown."
        if counts == [1]
        else f"Bars: ± sample standard deviation over the seeds, n = {' or '.join(map(str, counts))}."
    )
    return f"Circles: channels are removed; diamonds and broken lines: weights are masked; squares: dense. {bars}"
