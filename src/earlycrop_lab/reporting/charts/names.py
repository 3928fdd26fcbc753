"""Names beside lines and points: as near as possible to what they name, without covering anything else."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes

from earlycrop_lab.reporting.charts.canvas import SMALL, SOFT, WIDTH, Place, shortened, text_width
from earlycrop_lab.reporting.texts import AS_IT_IS

Box = tuple[float, float, float, float]


def names_beside(axes: Axes, ends: Mapping[str, tuple[float, float]], hues: Mapping[str, str]) -> None:
    """Write each line's name at the right, moved up or down as far as necessary, with a thin line to the line's end."""
    names = sorted(ends, key=lambda name: ends[name][1])
    box = axes.get_window_extent()
    wanted = [axes.transData.transform(ends[name])[1] for name in names]
    for name, y in zip(names, spaced(wanted, 1.25 * SMALL, box.y0 - 6, box.y1 + 6), strict=True):
        axes.annotate(
            shortened(name),
            ends[name],
            (box.x1 + 14, y),
            textcoords="figure points",
            ha="left",
            va="center",
            fontsize=SMALL,
            color=hues[name],
            **AS_IT_IS,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": hues[name],
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 4,
                "relpos": (0, 0.5),  # from the beginning of the name
            },
        )


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places in the order of `wanted`, with at least `gap` between them, nearest in least squares, within bounds.

    >>> spaced([0.0, 10.0, 11.0], 4.0, -5.0, 50.0)
    [0.0, 8.5, 12.5]
    """
    pools: list[list[float]] = []  # wanted places less the gaps before them: neighbours out of order are averaged
    for place, y in enumerate(wanted):
        pools.append([y - gap * place])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    places = [mean for pool in pools for mean in [fmean(pool)] * len(pool)]
    top = high - gap * (len(wanted) - 1)
    return [max(low, min(top, y)) + gap * place for place, y in enumerate(places)]


def names_at(
    axes: Axes,
    named: Sequence[tuple[str, str, Place, bool]],
    lines: Sequence[tuple[Place, Place]],
) -> None:
    """Write names beside points, in turn, where each covers no point, no name and, if possible, no line.

    Bold names are always written, others only if there is room.
    """
    frame = axes.get_window_extent()
    points = [axes.transData.transform(at) for _, _, at, _ in named]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    strokes: list[Box] = []
    for ends in lines:
        (ax, ay), (bx, by) = map(axes.transData.transform, ends)
        strokes.append((min(ax, bx) - 1, min(ay, by) - 1, max(ax, bx) + 1, max(ay, by) + 1))
    for (name, hue, at, bold), (x, y) in zip(named, points, strict=True):
        width, height = text_width(name) * (1.1 if bold else 1), 1.1 * SMALL
        places = [(dx, dy) for reach in (6, 12, 20, 30) for dx, dy in _around(reach, width, height)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        inside = [b for b in boxes if b[0] > frame.x0 and b[2] < WIDTH and b[1] > frame.y0 and b[3] < frame.y1 + 8]
        free = [box for box in inside if not any(_meet(box, other) for other in taken)]
        clear = [box for box in free if not any(_meet(box, other) for other in strokes)]
        choice = [*clear, *free, *(inside + boxes if bold else [])]
        if not choice:
            continue
        left, low, right, high = choice[0]
        taken.append(choice[0])
        far = max(left - x, x - right, low - y, y - high) > 8
        axes.annotate(
            name,
            at,
            (left, (low + high) / 2),
            textcoords="figure points",
            ha="left",
            va="center",
            fontsize=SMALL,
            fontweight="bold" if bold else "normal",
            color=hue if bold else SOFT,
            **AS_IT_IS,
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )


def _around(reach: float, width: float, height: float) -> list[tuple[float, float]]:
    """The possible offsets of a text's lower left corner from its point."""
    middle = (-width / 2, -height / 2)
    return [
        (reach, middle[1]),
        (-reach - width, middle[1]),
        (middle[0], reach - 1),
        (middle[0], 1 - reach - height),
        (0.7 * reach, 0.5 * reach),
        (0.7 * reach, -0.5 * reach - height),
        (-0.7 * reach - width, 0.5 * reach),
        (-0.7 * reach - width, -0.5 * reach - height),
    ]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
