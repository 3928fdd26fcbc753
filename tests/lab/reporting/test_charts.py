"""The pictures of a table hold the numbers of its rows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from earlycrop_lab.page.style import DARK, LIGHT
from earlycrop_lab.reporting.charts import charts
from earlycrop_lab.reporting.charts.canvas import DENSE, HUES, PAPER, WIDTH
from earlycrop_lab.reporting.charts.cost import against
from earlycrop_lab.reporting.charts.marks import colours
from earlycrop_lab.reporting.charts.moments import moments
from earlycrop_lab.reporting.charts.names import spaced
from earlycrop_lab.reporting.charts.sparsity import by_sparsity
from earlycrop_lab.reporting.charts.widths import widths
from earlycrop_lab.reporting.tables import table
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.language import Language
from tests.lab.results import report, result


def dense(seed: int = 0, **said) -> Result:
    return result(Classification(method="dense", seed=seed), **said)


def pruned(method: str, sparsity: float, seed: int = 0, cut: dict | None = None, **said) -> Result:
    columns = {"weight_sparsity": sparsity, "sparse_memory_bytes": 1_000_000, **said}
    return result(Classification(method=method, sparsity=sparsity, seed=seed), cut or report(), **columns)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def points(axes: Axes, marker: str) -> set[tuple[float, float]]:
    """Where a kind of marker stands, to the sixth digit."""
    lines = [line for line in axes.lines if line.get_marker() == marker]
    return {(round(float(x), 6), round(float(y), 6)) for line in lines for x, y in np.asarray(line.get_xydata())}


def bold(axes: Axes) -> list[str]:
    return sorted(text.get_text() for text in axes.texts if text.get_fontweight() == "bold")


ROWS = table(
    [
        dense(0, test_accuracy=0.9, dense_seconds=10.0, scoring_seconds=0.0, sparse_seconds=0.0),
        *(pruned("earlycrop-s", 0.9, seed, test_accuracy=0.7 + 0.1 * seed, dense_seconds=4.5) for seed in (0, 1)),
        pruned("earlycrop-s", 0.99, test_accuracy=0.6, dense_seconds=3.5),
        pruned("snip", 0.9, test_accuracy=0.65, dense_seconds=9.5),
    ]
)
"""Means: dense 90 % in 10 s; earlycrop-s 75 % in 7 s at 90 %, 60 % in 6 s at 99 %; snip 65 % in 12 s."""


def test_accuracy_stands_over_the_weights_that_left():
    chart = by_sparsity(ROWS)
    assert chart is not None
    (axes,) = chart.figure.axes
    lines = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_linewidth() == 1.4]
    channels, _ = lines
    assert channels == pytest.approx([0.75, 0.6])
    assert {y for _, y in points(axes, "D")} == {0.65}  # masks
    assert sorted(texts(axes)) == ["dense", "earlycrop-s", "snip"]
    assert "earlycrop-s 90 %, 75.0 %; earlycrop-s 99 %, 60.0 %" in chart.note
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert (ticks[0], ticks[-1]) == ("90 %", "99 %")


def test_a_floor_that_is_usual_at_each_sparsity_makes_one_line():
    runs = [
        result(Language(sparsity=sparsity), report(), metrics={"test_perplexity": perplexity}, weight_sparsity=sparsity)
        for sparsity, perplexity in ((0.8, 90.0), (0.9, 100.0))
    ]
    chart = by_sparsity(table(runs))
    assert chart is not None
    (axes,) = chart.figure.axes
    (line,) = [np.asarray(each.get_ydata()).tolist() for each in axes.lines if each.get_linewidth() == 1.4]
    assert line == [90.0, 100.0]
    assert texts(axes) == ["earlycrop-s (min part)"]
    assert "earlycrop-s (min part 0.1) 80 %, 90; earlycrop-s (min part 0.05) 90 %, 100." in chart.note


def test_a_deviation_is_a_bar_and_one_run_has_none():
    chart = by_sparsity(ROWS)
    assert chart is not None
    (axes,) = chart.figure.axes
    (bar,) = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_alpha() == 0.55]
    assert bar == pytest.approx([0.75 - 0.1 / 2**0.5, 0.75 + 0.1 / 2**0.5])


def test_with_one_sparsity_the_methods_stand_by_accuracy():
    chart = by_sparsity([row for row in ROWS if row.sparsity != 0.99])
    assert chart is not None
    (axes,) = chart.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dense", "earlycrop-s", "snip"]
    assert texts(axes) == ["90.0 %", "75.0 %", "65.0 %"]
    assert chart.title == "Test accuracy at 90 % sparsity"


def test_dense_alone_has_no_picture_of_sparsity():
    assert charts(ROWS[:1]) == []


def test_the_frontier_is_named_and_drawn():
    chart = against(ROWS, "time")
    assert chart is not None
    (axes,) = chart.figure.axes
    assert bold(axes) == ["dense", "earlycrop-s 90 %", "earlycrop-s 99 %"]
    assert points(axes, "o") == {(7.0, 0.75), (6.0, 0.6)}
    assert points(axes, "D") == {(12.0, 0.65)}
    stairs = next(line for line in axes.lines if line.get_color() == DENSE and line.get_linestyle() == "--")
    corners = [tuple(map(float, corner)) for corner in np.asarray(stairs.get_xydata())]
    assert corners[1:-1] == [
        pytest.approx(c)
        for c in ((6, corners[0][1]), (6, 0.6), (7, 0.6), (7, 0.75), (10, 0.75), (10, 0.9), (corners[-1][0], 0.9))
    ]
    assert "earlycrop-s 99 % (60.0 %, 6.00 s); earlycrop-s 90 % (75.0 %, 7.00 s); dense (90.0 %, 10.0 s)." in chart.note


def test_memory_is_the_largest_of_the_run_and_of_cuda_where_there_is_one():
    runs = [dense(), pruned("snap", 0.9, dense_memory_bytes=None), pruned("snip", 0.9, sparse_cuda_bytes=7_000_000)]
    chart = against(table(runs), "memory")
    assert chart is not None
    (axes,) = chart.figure.axes
    assert {x for x, _ in points(axes, "o")} == {1.0}  # megabytes: cut before training
    assert {x for x, _ in points(axes, "s")} == {4.0}
    assert {x for x, _ in points(axes, "D")} == {7.0}


def test_what_was_not_measured_has_no_picture():
    assert against(ROWS, "emissions") is None  # nobody had it
    assert [chart.name for chart in charts(ROWS)][:3] == ["sparsity", "time", "memory"]


def test_the_moments_stand_where_the_runs_were_cut():
    runs = [pruned("earlycrop-s", 0.95, 0), pruned("earlycrop-s", 0.95, 1, report("cap", epoch=2.5))]
    (chart,) = moments(table(runs))
    above, below = chart.figure.axes[::-1]
    assert [np.asarray(line.get_ydata())[0] for line in above.lines if line.get_color() != HUES[0]] == [0.05]
    assert points(below, ".") == {(1.0, 0.5), (2.0, 0.51)}
    faces = [line.get_markerfacecolor() for line in above.lines if line.get_marker() == "v"]
    assert faces == [HUES[0], PAPER]  # triggered, and not
    assert "Cut at epoch: earlycrop-s: 2, 2.5 (cap)." in chart.note


def test_a_detector_has_a_picture_of_its_own():
    runs = [pruned(method, 0.95) for method in ("earlycrop-s", "earlycrop-s-rate", "snap")]
    assert [chart.name for chart in moments(table(runs))] == ["moments-lazyregime", "moments-ratesettled"]


def test_bars_are_as_long_as_the_part_that_stays_on_average():
    other = report(widths=[{"layer": "conv", "before": 40, "after": 30}, {"layer": "fc", "before": 10, "after": 5}])
    (chart,) = widths(table([pruned("snap", 0.95, 0), pruned("snap", 0.95, 1, other)]))
    (axes,) = chart.figure.axes
    grey, hue = [np.asarray(patch.get_path().vertices).reshape(-1, 5, 2) for patch in axes.patches]
    lengths = [[float(np.ptp(bar[:, 0])) for bar in bars] for bars in (grey, hue)]
    parts = [of / full for of, full in zip(lengths[1], lengths[0], strict=True)]
    assert parts == pytest.approx([(0.25 + 0.75) / 2, (1 + 0.5) / 2])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv", "fc"]


def test_many_methods_share_pictures_of_widths():
    methods = (
        "random-s",
        "magnitude-s",
        "snap",
        "crop-s",
        "cropit-s",
        "random-u",
        "magnitude-u",
        "snip",
        "grasp",
        "crop-u",
    )
    names = [chart.name for chart in widths(table(pruned(method, 0.98) for method in methods))]
    assert names == ["widths-0.98-1", "widths-0.98-2"]


def test_a_method_has_one_colour_at_all_sparsities_and_dense_is_grey():
    assert colours(ROWS) == {"earlycrop-s": HUES[0], "snip": HUES[1], "dense": DENSE}


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20).map(sorted))
def test_names_stand_apart_in_their_order_and_within_bounds(wanted: Sequence[float]):
    places = spaced(wanted, 10.0, -20.0, 320.0)
    assert all(after - before >= 10 - 1e-6 for before, after in pairwise(places))
    assert places[0] >= -20 - 1e-6
    assert places[-1] <= 320 + 1e-6
    if all(after - before >= 10 for before, after in pairwise(wanted)):
        assert places == pytest.approx(wanted)


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_letter_can_be_read(scheme):
    for name in scheme.keys() - {"page", "card", "grid"}:
        for ground in ("page", "card"):
            low, high = sorted((luminance(scheme[name]), luminance(scheme[ground])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_no_picture_is_wider_than_a_phone():
    for chart in charts(ROWS):
        assert chart.figure.get_figwidth() * 72 == pytest.approx(WIDTH)


@pytest.mark.parametrize(
    "runs",
    [
        [pruned("snap", 0.9), pruned("snap", 0.95, weight_sparsity=0.9)],  # asked for two, had one
        [pruned("snap", 0.9, weight_sparsity=1.0), pruned("snap", 0.95)],  # everything left
        [dense(grams_co2=0.0), pruned("snap", 0.9, grams_co2=0.0, test_accuracy=0.5)],
        [
            pruned(
                "earlycrop-s", 0.9, cut=report(curve=[{"epoch": 1.0, "value": 0.0, "signal": None, "threshold": 0.0}])
            )
        ],
        [
            result(
                Classification(round_to=8, min_channels=4, target="node", reading="mixed"),
                report(),
                weight_sparsity=0.9,
            )
        ],
    ],
    ids=["equal", "everything", "free", "static", "long names"],
)
def test_odd_rows_are_drawn_too(runs):
    for chart in charts(table(runs)):
        chart.figure.canvas.draw()  # warnings are errors
        assert all(axes.get_window_extent().width > 60 for axes in chart.figure.axes)
