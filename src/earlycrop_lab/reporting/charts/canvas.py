"""The canvas of all charts: a figure as wide as a phone, few colours, muted axes, text of one size.

Colours are named here, so that the page can replace each by its counterpart for dark screens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from earlycrop_lab.reporting.texts import AS_IT_IS

WIDTH = 360.0
"""Width of a chart in points, the unit of all lengths here."""
SIZE, SMALL = 10.5, 9.5
INK, SOFT, GRID, PAPER, DENSE = "#1c2126", "#5d6673", "#e1e5ea", "#ffffff", "#5f6876"
HUES = ("#0b7a75", "#c2334a", "#3b5bdb", "#945800", "#8b3fb0", "#4c7d24", "#0c6fa3", "#a84a14", "#b8307f", "#6a6a15")
"""Colours of the methods, in the order of the rows; dense is grey."""
LETTER = 0.57
"""Width of a letter as a fraction of its size: text widths are estimated, so that no chart depends on fonts."""

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}
"""The style of every legend."""
STROKE: dict[str, Any] = {"linewidth": 1.4, "markersize": 3.6, "solid_capstyle": "round"}
"""The style of a line with marks."""

Place = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A figure with its title and caption.

    Args:
        name: The stem of its files' names.
        title: What it shows.
        note: The caption: how to read it, and what it shows.
        figure: The matplotlib figure.
    """

    name: str
    title: str
    note: str
    figure: Figure


def text_width(text: str, size: float = SMALL) -> float:
    """The approximate width of a text, in points."""
    return len(text) * LETTER * size


def shortened(name: str, end: bool = False) -> str:
    """A name cut to 26 characters, the first or, with `end`, the last ones, so that the data have room."""
    return name if len(name) <= 26 else f"…{name[-25:]}" if end else f"{name[:25]}…"


def figure_of(axes: Axes) -> Figure:
    """The figure that axes are on."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def framed(height: float, left: float, right: float, bottom: float = 40, top: float = 24) -> Axes:
    """Axes with margins in points, in a figure of 72 dpi, so that one pixel is one point."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER)
    return _framed_at(figure, (left, bottom, WIDTH - left - right, height - bottom - top))


def framed_twice(height: float, left: float, right: float, bottom: float) -> tuple[Axes, Axes]:
    """Two axes, one above the other, with a shared x-axis; the upper one first."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER)
    room = height - bottom - 22 - 30
    below = _framed_at(figure, (left, bottom, WIDTH - left - right, 0.38 * room))
    above = _framed_at(figure, (left, bottom + 0.38 * room + 30, WIDTH - left - right, 0.62 * room))
    above.sharex(below)
    above.tick_params(labelbottom=False)
    return above, below


def _framed_at(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    width, height = figure.get_size_inches() * 72
    x, y, w, h = place
    axes = figure.add_axes((x / width, y / height, w / width, h / height), facecolor="none")
    plain(axes)
    return axes


def plain(axes: Axes) -> None:
    """Style axes with two muted spines, a faint grid, and text in the charts' colours and sizes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(DENSE)
    axes.spines[["left", "bottom"]].set_linewidth(0.8)
    axes.tick_params(which="both", color=DENSE, labelcolor=SOFT, labelsize=SMALL, width=0.8, length=3)
    axes.tick_params(which="minor", length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def head(axes: Axes, title: str) -> None:
    """Write the y-axis's title above it, where it can be read without turning a phone."""
    axes.set_title(title, fontsize=SMALL, loc="left", color=INK, pad=6, x=0, **AS_IT_IS)


def text_at(
    axes: Axes, at: Place, aside: Place, text: str, colour: str, across: bool = False, above: bool = False, **said: Any
) -> None:
    """Write text `aside` points from a point; `across` and `above` take its x or y as a fraction of the axes."""
    frame = axes.get_yaxis_transform() if across else axes.get_xaxis_transform() if above else axes.transData
    style = {
        "ha": "left",
        "va": "bottom" if above else "center",
        "fontsize": SMALL,
        "color": colour,
        **AS_IT_IS,
        **said,
    }
    axes.annotate(
        text,
        at,
        aside,
        xycoords=frame,
        textcoords="offset points",
        annotation_clip=False,
        rotation_mode="anchor",
        **style,
    )


def blank(height: float) -> Figure:
    """An empty figure that lays out its own panels."""
    return Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor=PAPER, layout="constrained")


def entitle(figure: Figure, title: str) -> None:
    """Write a title above all panels of a figure, unless it is empty."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=SMALL, fontweight="bold", color=INK, **AS_IT_IS)


def headline(axes: Axes, text: str) -> None:
    """Write a title above one panel of a figure."""
    axes.set_title(text, loc="left", fontsize=SMALL, color=INK, **AS_IT_IS)


def explain_marks(figure: Figure, marks: Mapping[str, Mapping[str, Any]], **said: Any) -> None:
    """Add a legend of marks below all panels of a figure; `marks` maps each meaning to the mark's style."""
    handles = [Line2D([], [], linestyle="", **look) for look in marks.values()]
    style = LEGEND | {"ncols": 3, "columnspacing": 0.8, "handletextpad": 0.1, **said}
    figure.legend(handles, list(marks), loc="outside lower left", **style)
