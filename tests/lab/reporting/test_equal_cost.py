"""Rows at equal cost: which is beside which, with costs, intervals and verdicts counted by hand."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from earlycrop_lab.comparing.compare import brief
from earlycrop_lab.comparing.compare import markdown as compared
from earlycrop_lab.page import write
from earlycrop_lab.reporting.charts.cost import against
from earlycrop_lab.reporting.charts.sparsity import by_sparsity
from earlycrop_lab.reporting.claims import findings
from earlycrop_lab.reporting.columns import column
from earlycrop_lab.reporting.differences import Difference
from earlycrop_lab.reporting.equal_cost import comparisons, controls, markdown, narrower, training_flops
from earlycrop_lab.reporting.intervals import within
from earlycrop_lab.reporting.tables import by_setting, table
from earlycrop_lab.runs import Result, folder_name
from earlycrop_lab.runs import write as write_result
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.control import Control
from earlycrop_lab.tasks.description import Metric
from earlycrop_lab.tasks.language import Language
from tests.lab.results import report, result


def dense(accuracies: Sequence[float], width: int = 32, flops: int = 4000, params: int = 2000, **said) -> list[Result]:
    """A seed each."""
    return [
        result(
            Classification(method="dense", width=width, seed=seed, **said),
            test_accuracy=value,
            flops_before=flops,
            flops_after=flops,
            parameters_after=params,
        )
        for seed, value in enumerate(accuracies)
    ]


def pruned(
    accuracies: Sequence[float],
    method: str = "earlycrop-s",
    flops: int = 800,
    params: int = 150,
    cut: dict | None = None,
    **said,
) -> list[Result]:
    asked = {"sparsity": 0.95, **said}
    return [
        result(
            Classification(method=method, seed=seed, **asked),
            cut or report(),
            test_accuracy=value,
            flops_after=flops,
            parameters_after=params,
            weight_sparsity=0.95,
        )
        for seed, value in enumerate(accuracies)
    ]


ACCURACIES = [0.60, 0.62, 0.64]
ROWS = [
    *dense([0.90, 0.91, 0.89]),
    *pruned(ACCURACIES),
    *dense([0.50, 0.52, 0.54], width=8, flops=856, params=300),
    *dense([0.70, 0.72, 0.74], width=6, flops=500, params=144),
    *pruned([0.61, 0.59, 0.66], "random-s", flops=840, params=140, target="flops", sparsity=0.8),
]


def told(results: Sequence[Result]) -> dict[tuple[str, ...], str]:
    """Of the pruned row: names and what is equal, and the trained."""
    return {
        (*one.names, *one.equal): one.difference.verdict
        for found in comparisons(table(results)).values()
        for one in found
    }


def test_a_row_is_beside_narrow_dense_and_a_random_cut():
    asked = "earlycrop-s 95 %"
    assert {names: how for names, how in told(ROWS).items() if names[0] == asked} == {
        (asked, "dense, width 8", "FLOPs"): "better",
        (asked, "dense, width 6", "parameters"): "worse",
        (asked, "random-s (target flops) 80 %", "FLOPs"): "inconclusive",
    }


def test_costs_and_the_interval_are_those_counted_by_hand():
    """Means 0.62 and 0.52, deviations 0.02: Welch's is Student's with df 4, 0.1 ± 2.776 · 0.02 · √(2/3)."""
    (found,) = comparisons(table(ROWS)).values()
    one = next(each for each in found if each.names == ("earlycrop-s 95 %", "dense, width 8"))
    half = 2.7764451051977987 * 0.02 * sqrt(2 / 3)
    assert one.difference.gain == pytest.approx(0.1)
    assert one.difference.interval == pytest.approx((0.1 - half, 0.1 + half))
    assert one.cells == (
        *("earlycrop-s 95 %", "dense, width 8", "FLOPs", "62.0 % (n = 3) and 52.0 % (n = 3)"),
        *("+10 points (+5.47 to +14.5)", "better"),
        *("×1.07", "×2.00", "×0.357", "×1.00"),  # 856/800, 300/150, 4·856/(2·4000 + 2·800), as long
    )
    assert str(one) == (
        "earlycrop-s 95 % is better than dense, width 8 at equal FLOPs: 62.0 % (n = 3) and 52.0 % (n = 3), difference "
        "+10 points (+5.47 to +14.5); the other has ×1.07 FLOPs, ×2.00 parameters, ×0.357 training FLOPs, "
        "×1.00 training time"
    )


def test_one_network_that_is_nearest_in_both_is_one_line():
    rows = [*pruned(ACCURACIES), *dense(ACCURACIES, width=8, flops=900, params=160)]
    assert told(rows) == {("earlycrop-s 95 %", "dense, width 8", "FLOPs", "parameters"): "inconclusive"}


def test_what_is_far_in_cost_is_not_at_equal_cost():
    """Of 800 FLOPs 1300 are ×1.625, of 150 parameters 90 are ×0.6; 1.5 is the most."""
    assert told([*pruned(ACCURACIES), *dense(ACCURACIES, width=8, flops=1300, params=90)]) == {}


def test_with_one_run_a_comparison_is_inconclusive():
    rows = [*pruned([0.9]), *dense([0.1, 0.2], width=8, flops=800, params=150)]
    assert set(told(rows).values()) == {"inconclusive"}
    assert "| +75 points | **inconclusive** |" in markdown(comparisons(table(rows)))


def test_training_flops_are_summed_epoch_by_epoch():
    (late,), (early,), (full,) = pruned([0.5]), pruned([0.5], cut=report(epoch=0.0)), dense([0.5])
    early = replace(early, epochs=[replace(each, phase="sparse") for each in early.epochs])
    assert training_flops(late) == 2 * 4000 + 2 * 800
    assert training_flops(early) == 4 * 800
    assert training_flops(full) == 4 * 4000
    (ticking,) = pruned([0.5], "gate-decorators")
    assert training_flops(ticking) is None  # trained between its cuts: those networks are in no result


def longer(accuracies: Sequence[float], epochs: int) -> list[Result]:
    """Cut before training, of which a hundred epochs cost what 20 of dense do."""
    runs = pruned(accuracies, "snap", cut=report("init", epoch=0.0, curve=[]), epochs=epochs)
    epoch = replace(runs[0].epochs[0], phase="sparse")
    return [replace(run, epochs=[epoch] * epochs) for run in runs]


def test_a_row_that_is_trained_longer_is_beside_dense_and_beside_later_cuts():
    full = [replace(run, epochs=[run.epochs[0]] * 20) for run in dense([0.90, 0.91, 0.89])]
    late = [replace(run, epochs=[*[run.epochs[0]] * 16, *[run.epochs[-1]] * 4]) for run in pruned(ACCURACIES)]
    rows = [*full, *late, *longer([0.70, 0.72, 0.74], 100), *longer([0.5, 0.5, 0.5], 20)]
    assert told(rows) == {
        ("snap 95 %, 100 epochs", "dense, 20 epochs", "training FLOPs"): "worse",
        ("snap 95 %, 100 epochs", "earlycrop-s 95 %, 20 epochs", "training FLOPs"): "better",
    }
    ((setting, (one, other)),) = comparisons(table(rows)).items()
    assert setting == one.other.setting  # of the 20 epochs
    assert one.ratio("training FLOPs") == pytest.approx(20 * 4000 / (100 * 800))
    assert other.ratio("training FLOPs") == pytest.approx((16 * 4000 + 4 * 800) / (100 * 800))


def test_times_of_unlike_machines_are_not_given():
    rows = [*pruned(ACCURACIES), *dense(ACCURACIES, width=8, flops=800, params=150)]
    rows[-1] = replace(rows[-1], environment={**rows[-1].environment, "threads": 8})
    ((one,),) = comparisons(table(rows)).values()
    assert one.ratio("training time") is None
    assert one.cells[-1] == "–"


def test_smoke_runs_and_masks_are_not_compared():
    slim = {"width": 8, "flops": 800, "params": 150}
    assert told([*pruned(ACCURACIES, max_steps=2), *dense(ACCURACIES, **slim, max_steps=2)]) == {}
    assert told([*pruned(ACCURACIES, "snip", cut=report(unit="weights")), *dense(ACCURACIES, **slim)]) == {}


def test_narrower_networks_are_those_trained_alike():
    rows = table([*ROWS, *dense([0.5], width=8, epochs=7), *dense([0.5], width=48)])
    of = next(row for row in rows if row.description.method == "earlycrop-s")
    assert [row.description.width for row in narrower(of, rows)] == [6, 8]


# Where it stands ------------------------------------------------------------------------------------------


def test_it_is_in_the_table_the_page_and_beside_the_claims(tmp_path):
    for each in ROWS:
        (tmp_path / folder_name(each.description)).mkdir()
        write_result(each, tmp_path / folder_name(each.description))
    write(tmp_path, tmp_path / "page.html")
    found = markdown(comparisons(table(ROWS)))
    line = "| earlycrop-s 95 % | dense, width 8 | FLOPs | 62.0 % (n = 3) and 52.0 % (n = 3) |"
    assert line in found
    for name in ("claims.md", "table.md"):
        assert (tmp_path / "page" / name).read_text().endswith("\n" + found)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h3>At equal cost</h3>") == 1
    cells = ("dense, width 8", "FLOPs", "62.0\u00a0% (n\u00a0=\u00a03) and 52.0\u00a0% (n\u00a0=\u00a03)")
    assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    entries = [(each.description, each) for each in ROWS]
    assert found.strip() in compared(entries)
    assert any(str(part).startswith("earlycrop-s 95 % is better than dense, width 8") for part in brief(entries))


def test_without_anything_at_equal_cost_nothing_is_said():
    rows = [*dense(ACCURACIES), *pruned(ACCURACIES)]
    assert markdown(comparisons(table(rows))) == ""
    assert "At equal cost" not in compared([(each.description, each) for each in rows])


def test_a_claim_about_rows_of_unlike_flops_says_so():
    rows = [*pruned(ACCURACIES, flops=1000), *pruned(ACCURACIES, "snap", flops=800)]
    (found,) = findings(table(rows)).values()
    assert [each.claim for each in found if "snap" in each.claim] == [
        "earlycrop-s 95 % is better than snap, with ×1.25 of its FLOPs"
    ]
    rows = [*pruned(ACCURACIES, flops=800), *pruned(ACCURACIES, "snap", flops=804)]  # within a hundredth
    (found,) = findings(table(rows)).values()
    assert [each.claim for each in found if "snap" in each.claim] == ["earlycrop-s 95 % is better than snap"]


def test_the_best_of_rows_of_unlike_flops_is_not_called_so_without_them(tmp_path):
    rows = [*dense(ACCURACIES), *pruned(ACCURACIES)]
    chart = by_sparsity(table(rows))
    assert chart is not None
    sentence = "The networks have 800 to 4 k FLOPs: this is no comparison at equal cost."
    assert chart.note.endswith(sentence)
    for each in rows:
        (tmp_path / folder_name(each.description)).mkdir()
        write_result(each, tmp_path / folder_name(each.description))
    write(tmp_path, tmp_path / "page.html")
    assert f"n\u00a0=\u00a03. {sentence}</li>" in (tmp_path / "page.html").read_text()
    equal = by_sparsity(table([*dense(ACCURACIES), *pruned(ACCURACIES, flops=4000)]))
    assert equal is not None
    assert "equal cost" not in equal.note


def test_the_dense_networks_widths_are_a_line_in_the_frontier():
    rows = table(ROWS)
    group = by_setting(rows)["resnet18 of width 32 on digits, 20 epochs"]
    chart = against(group, "flops", narrower(group[0], rows))
    assert chart is not None
    (axes,) = chart.figure.axes
    lines = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_linewidth() == 1.4]
    assert len(lines) == 1
    assert lines[0] == pytest.approx(np.array([(0.0005, 0.72), (0.000856, 0.52), (0.004, 0.9)]))
    names = {text.get_text() for text in axes.texts}
    assert {"dense, width 32", "dense, width 6"} <= names
    assert "The grey line joins the dense network's widths." in chart.note


def test_random_cuts_to_the_flops_of_others_are_no_sparsity_of_their_own():
    rows = table(ROWS)
    group = by_setting(rows)["resnet18 of width 32 on digits, 20 epochs"]
    assert [row.description.target for row in controls(group)] == ["flops"]
    asked_for_flops = table([*pruned(ACCURACIES, target="flops"), *pruned(ACCURACIES, "random-s", target="flops")])
    assert controls(asked_for_flops) == []


# Within what the figure can be ----------------------------------------------------------------------------


def test_an_interval_of_an_accuracy_ends_at_one_and_begins_at_zero():
    low, high = table([*pruned([0.98, 1.0]), *dense([0.0, 0.02])])
    assert high.figure.interval == pytest.approx((0.99 - 12.706204736432095 * 0.01, 1.0))  # t with df 1, of √(2·10⁻⁴/2)
    assert low.figure.interval[0] == 0.0
    assert "(86.3 to 100.0)" in high.text(column(high.metric))


def test_a_perplexity_is_never_negative_and_a_return_may_be():
    text = [
        result(Language(method="dense", seed=seed), metrics={"test_perplexity": value})
        for seed, value in enumerate((5.0, 90.0))
    ]
    pole = [
        result(Control(method="dense", seed=seed), metrics={"mean_return": value})
        for seed, value in enumerate((5.0, 90.0))
    ]
    (language,), (control,) = table(text), table(pole)
    assert language.figure.interval[0] == 0.0
    assert control.figure.interval[0] == pytest.approx(47.5 - 12.706204736432095 * 42.5)


def test_a_difference_is_one_that_can_be():
    accuracy = Metric("test_accuracy", "test accuracy", unit="%")
    assert Difference(accuracy, (0.9, 1.0), (0.0, 0.4)).interval[1] == 1.0
    assert Difference(accuracy, (0.9,), (0.1, 0.2)).interval == (-1.0, 1.0)
    perplexity = Metric("perplexity", "perplexity", "lower")
    worse = Difference(perplexity, (90.0, 91.0, 92.0), (80.0, 81.0, 82.0))
    assert (worse.gain, worse.verdict) == (-10.0, "worse")


def test_within_cuts_off_what_cannot_be():
    assert within((-0.2, 1.3), (0.0, 1.0)) == (0.0, 1.0)
    assert within((0.2, 0.3), (0.0, 1.0)) == (0.2, 0.3)


def test_a_cut_is_compared_with_a_random_one_of_the_same_scale():
    """One that is nearer in its FLOPs is passed over where only one of the two gets its scale back."""
    ours, published = pruned([0.8, 0.9]), pruned([0.6, 0.7], "earlycrop-s-poster")
    given = pruned([0.5, 0.6], "random-s", flops=900)
    left = pruned([0.4, 0.5], "random-s", flops=810, rescale="no")
    (found,) = comparisons(table([*ours, *published, *given, *left])).values()
    beside = {one.row.description.method: one.other.label for one in found}
    assert beside == {"earlycrop-s": "random-s 95 %", "earlycrop-s-poster": "random-s (rescale no) 95 %"}
