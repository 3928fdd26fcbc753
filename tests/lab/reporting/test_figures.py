"""The pictures hold the numbers of the result."""

import pytest
from matplotlib.figure import Figure

from earlycrop_lab.reporting.charts.canvas import blank, entitle, headline, text_at
from earlycrop_lab.reporting.figures import _widths, channels, draw, draw_plan, progress, regime
from earlycrop_lab.tasks.classification import Classification
from tests import dense
from tests.lab.results import report, result
from tests.pruners import make_pruner

PRUNED = Classification(epochs=4)
DENSE = result(PRUNED.dense_twin())


def drawn(figure: Figure) -> str:
    """Every text of a figure."""
    figure.canvas.draw()
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    return "\n".join([*legends, *notes, *(axes.get_title(loc="left") for axes in figure.axes)])


def at(axes, colour: str = "#d1495b") -> list[float]:
    """Where the vertical lines of a colour stand."""
    return [
        line.get_xdata()[0] for line in axes.lines if line.get_color() == colour and len(set(line.get_xdata())) == 1
    ]


def test_accuracy_stands_over_the_seconds_of_both_runs_and_the_cut_at_the_end_of_its_epoch():
    run = result(PRUNED, report(), weight_sparsity=0.95)
    figure = progress(run, DENSE)
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in figure.axes[0].lines}
    for each in (run, DENSE):
        assert lines[tuple(e.seconds for e in each.epochs)] == tuple(e.test for e in each.epochs)
    assert at(figure.axes[0]) == [2.0]
    assert "earlycrop-s, 95.0% of weights removed: 80.0 %" in drawn(figure)
    assert "dense: 80.0 %" in drawn(figure)


def test_of_several_cuts_the_last_is_drawn():
    figure = progress(result(Classification(method="ltr", epochs=2), report("round", epoch=3.0), weight_sparsity=0.95))
    assert at(figure.axes[0]) == [3.0]
    assert "cut at epoch 3" in drawn(figure)


def test_a_dense_run_has_only_its_accuracy(tmp_path):
    assert [path.name for path in draw(DENSE, tmp_path)] == ["progress.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]


def test_the_regime_shows_threshold_moment_and_rate():
    figure = regime(result(PRUNED, report()))
    assert figure is not None
    signal, seen, rate = figure.axes
    assert all(at(axes) == [2.0] for axes in (signal, seen, rate))
    assert [tuple(line.get_ydata()) for line in signal.lines if line.get_linestyle() == "--"] == [(0.05, 0.05)]
    assert [tuple(line.get_ydata()) for line in seen.lines][-1] == (0.5, 0.51)
    assert tuple(rate.lines[-1].get_xdata()) == (0, 1, 1, 2, 2, 3, 3, 4)
    assert tuple(rate.lines[-1].get_ydata()) == (1e-3, 2e-3) * 4
    assert "cut at epoch 2: below the threshold" in drawn(figure)
    assert "|Δ(t) − Δ(t−1)| / |Δ(1)|" in drawn(figure)
    capped = regime(result(PRUNED, report("cap")))
    assert capped is not None
    assert "cut at epoch 2: the cap" in drawn(capped)


def test_there_is_no_regime_where_nothing_was_watched():
    assert regime(DENSE) is None
    assert regime(result(Classification(method="snap"), report("init", curve=[], epoch=0.0))) is None


@pytest.mark.parametrize(
    ("unit", "label", "bars"),
    [
        ("channels", "output channels", [40, 10, 10, 10]),
        ("weights", "fraction of each layer's weights", [1, 1, 0.25, 1]),
    ],
)
def test_channels_or_the_part_of_the_weights_of_each_layer(unit, label, bars):
    figure = channels(result(PRUNED, report(unit=unit)))
    assert figure is not None
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == bars  # of both layers before, then after
    assert label in axes.get_xlabel()
    assert "10 / 40" in drawn(figure)


@pytest.mark.parametrize("method", ["snap", "snip"])
def test_a_plan_has_a_picture_before_anything_is_cut(method, tmp_path):
    net, batch = dense.mlp(4, 10, 8, 3), dense.vectors(12)
    pruner = make_pruner(net, method, 0.5, example_inputs=batch[0], loss=dense.cross_entropy, batches=[batch])
    plan = pruner.dry_run()
    path = draw_plan(plan, tmp_path / "widths.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["widths.png"]
    (axes,) = _widths(plan.as_dict()["rows"], method == "snip", "").axes
    after = [row.after / row.before if method == "snip" else row.after for row in plan.rows]
    assert [bar.get_width() for bar in axes.patches][len(after) :] == pytest.approx(after)


PATH = "folder:a$b_{c/$d\\\\e^"


def test_a_path_with_dollar_signs_is_no_formula(tmp_path):
    run = Classification(epochs=4, data=PATH, part="0=0.5")
    figure = progress(result(run, report(), weight_sparsity=0.95), result(run.dense_twin()))
    assert PATH in drawn(figure)
    assert len(draw(result(run, report(), weight_sparsity=0.95), tmp_path)) == 3


def test_a_title_and_a_name_with_dollar_signs_are_no_formulas():
    figure = blank(200)
    axes = figure.subplots()
    entitle(figure, PATH)
    headline(axes, PATH)
    text_at(axes, (0, 0), (0, 0), PATH, "black")
    figure.canvas.draw()
