"""The progress of a training below a notebook's cell."""

from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any

from earlycrop.logs.log import Figures, Log
from earlycrop.report import Check, Report

WIDTH, HEIGHT = 360, 90
"""Pixels of the detector's curve."""


class Notebook(Log):
    """Shows a bar, the last epochs as a table, the detector's curve and the report of the cut, and keeps them current.

    It is shown where the first event happens, and replaced there at every later one. Without IPython nothing is shown;
    `print(log)` gives it as text.

    Args:
        epochs: The epochs of the whole training, for the bar; None shows no bar.
        rows: The number of epochs in the table: the last ones.
    """

    def __init__(self, epochs: float | None = None, rows: int = 8) -> None:
        self.epochs, self.rows = epochs, rows
        self._table: list[dict[str, Any]] = []
        self._looks: list[Check] = []
        self._report: Report | None = None
        self._handle: Any = None

    def check(self, look: Check) -> None:
        """Draw one more point of the detector's curve."""
        self._looks.append(look)
        self._show()

    def cut(self, report: Report) -> None:
        """Show the report."""
        self._report = report
        self._show()

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Add a row to the table.

        Args:
            epoch: Epochs finished.
            figures: Its figures by name.
        """
        self._table.append({"epoch": epoch, **figures})
        self._show()

    def __str__(self) -> str:
        rows = ["  ".join(f"{name} {_text(value)}" for name, value in row.items()) for row in self._table[-self.rows :]]
        return "\n".join([*rows, *([] if self._report is None else [str(self._report)])]) or "nothing has happened yet"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        report = "" if self._report is None else f"<pre>{escape(str(self._report))}</pre>"
        return f"<div>{self._bar()}{_rows(self._table[-self.rows :])}{_curve(self._looks)}{report}</div>"

    def _bar(self) -> str:
        done = self._table[-1]["epoch"] if self._table else 0
        state = "dense" if self._report is None else f"cut at epoch {self._report.epoch:g}"
        if self.epochs is None:
            return f"<p>epoch {done:g}, {state}</p>"
        bar = f'<progress value="{done:g}" max="{self.epochs:g}" style="width: {WIDTH}px"></progress>'
        return f"<p>{bar} epoch {done:g} of {self.epochs:g}, {state}</p>"

    def _show(self) -> None:
        try:
            from IPython.core.getipython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        if get_ipython() is None:
            return
        if self._handle is None:
            self._handle = display(self, display_id=True)
        else:
            self._handle.update(self)


def _text(value: float | str | None) -> str:
    """A figure as it stands in the table.

    >>> _text(0.123456), _text(3), _text("dense"), _text(None)
    ('0.1235', '3', 'dense', '–')
    """
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"


def _rows(table: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in table for name in row))
    if not names:
        return ""
    cells = [[_text(row.get(name)) for name in names] for row in table]
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _curve(looks: Sequence[Check]) -> str:
    """The detector's signal as a line, and its threshold, dashed; empty before there are two points."""
    points = [(look.epoch, look.signal) for look in looks if isfinite(look.signal)]
    if len(points) < 2:
        return ""
    threshold = looks[-1].threshold
    highest = max(threshold, *(signal for _, signal in points)) or 1.0
    first, last = points[0][0], points[-1][0]

    def place(epoch: float, signal: float) -> str:
        return f"{(epoch - first) / (last - first) * WIDTH:.1f},{HEIGHT - signal / highest * (HEIGHT - 4) - 2:.1f}"

    line = " ".join(place(*point) for point in points)
    limit = f"{place(first, threshold)} {place(last, threshold)}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="the detector\'s signal and its threshold">'
        f'<polyline points="{line}" fill="none" stroke="teal" stroke-width="2"/>'
        f'<polyline points="{limit}" fill="none" stroke="gray" stroke-dasharray="4"/></svg>'
        f"<p>the detector's signal, and the threshold below which it prunes (dashed)</p>"
    )
