"""Rows over the seeds, counted by hand."""

import csv as csv_file
import io
from dataclasses import replace
from statistics import mean, stdev

import pytest

from earlycrop_lab.measure.emissions import Emissions
from earlycrop_lab.reporting.columns import COLUMNS, Spread, column
from earlycrop_lab.reporting.tables import Row, by_setting, csv, footnotes, frontier, markdown, shown_columns, table
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.language import Language
from tests.lab.results import report, result

COLUMN = {each.name: each for each in (column(Classification().metric), *COLUMNS)}


def dense(seed: int, **said) -> Result:
    return result(Classification(method="dense", seed=seed), **said)


def pruned(seed: int, method: str = "earlycrop-s", sparsity: float = 0.95, **said) -> Result:
    cut = {"weight_sparsity": sparsity, "node_sparsity": 0.75, "sparse_step_milliseconds": 8.0}
    return result(Classification(method=method, sparsity=sparsity, seed=seed), report(), **{**cut, **said})


def cells(text: str) -> dict[str, dict[str, str]]:
    """Of one Markdown table, by method and heading."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_seeds_are_one_row_with_mean_and_sample_deviation_counted_by_hand():
    rows = table([pruned(seed, test_accuracy=accuracy) for seed, accuracy in ((2, 0.64), (0, 0.60), (1, 0.62))])
    assert [row.name for row in rows] == ["earlycrop-s"]
    spread = rows[0].spread(COLUMN["test_accuracy"])
    assert spread is not None
    assert (spread.mean, spread.deviation, spread.n) == (pytest.approx(0.62), pytest.approx(0.02), 3)  # √(2·0.02²/2)
    assert [each.description.seed for each in rows[0].results] == [0, 1, 2]
    assert rows[0].text(COLUMN["test_accuracy"]) == "62.0 ± 2.0 (57.0 to 67.0)"  # 0.62 ± 4.303 · 0.02 / √3


def test_one_run_has_no_spread_and_says_that_it_is_one():
    (row,) = table([pruned(0, test_accuracy=0.6)])
    assert row.spread(COLUMN["test_accuracy"]) == Spread(0.6, None, 1, (0.0, 1.0))
    told = cells(markdown([row]))["`earlycrop-s`"]
    assert (told["n"], told["test accuracy [%]"], told["asked"]) == ("1", "60.0", "95 %")


def test_a_number_that_some_runs_lack_says_of_how_many_it_is():
    runs = [pruned(0, grams_co2=1.0), pruned(1, grams_co2=3.0), pruned(2)]
    (row,) = table(runs)
    assert row.text(COLUMN["grams_co2"]) == "2.00 ± 1.41 (n = 2)"
    assert row.text(COLUMN["inference_milliseconds"]) == "–"


def test_the_multiple_is_of_the_dense_mean():
    runs = [dense(0, optimizer_steps=40), dense(1, optimizer_steps=60), pruned(0, optimizer_steps=100), pruned(1)]
    first, second = table(runs)
    steps = COLUMN["optimizer_steps"]
    assert first.multiple(steps) is None
    assert second.multiple(steps) == pytest.approx((100 + 40) / 2 / 50)
    assert second.text(steps).endswith("(×1.40)")
    assert table(runs[2:])[0].multiple(steps) is None  # without a twin


def test_there_is_no_multiple_of_what_was_measured_under_unlike_conditions():
    twin, run = dense(0, grams_co2=2.0), pruned(0, grams_co2=1.0)

    def multiples(of: Result) -> list[float | None]:
        row = table([twin, of])[1]
        return [row.multiple(COLUMN[name]) for name in ("grams_co2", "seconds", "optimizer_steps")]

    assert multiples(run) == [0.5, pytest.approx(run.columns.seconds / twin.columns.seconds), 1.0]
    abroad = replace(run, emissions=replace(run.emissions, country="NOR"))
    assert multiples(abroad) == [None, *multiples(run)[1:]]
    assert multiples(replace(run, environment={**run.environment, "threads": 64})) == [None, None, 1.0]


def test_dense_comes_first_then_sparsities_channels_before_masks_in_the_order_of_the_methods():
    asked = [("snip", 0.9), ("earlycrop-s", 0.98), ("crop-s", 0.9), ("snap", 0.9), ("snip", 0.98), ("dense", 0.95)]
    rows = table(
        dense(0) if method == "dense" else pruned(0, method=method, sparsity=sparsity) for method, sparsity in asked
    )
    told = [(row.name, row.sparsity) for row in rows]
    assert told == [
        ("dense", None),
        ("snap", 0.9),
        ("crop-s", 0.9),
        ("snip", 0.9),
        ("earlycrop-s", 0.98),
        ("snip", 0.98),
    ]


def test_a_phase_that_a_dense_run_has_not_is_no_zero():
    first, second = table([dense(0, scoring_seconds=1e-4), pruned(0, dense_seconds=0.0)])
    assert first.text(COLUMN["scoring_seconds"]) == first.text(COLUMN["sparse_seconds"]) == "–"
    assert second.text(COLUMN["dense_seconds"]) == "0"


def test_only_what_can_be_compared_stands_together():
    longer = [replace(run, description=replace(run.description, epochs=40)) for run in (dense(0), pruned(0))]
    groups = by_setting(table([dense(0), pruned(0), *longer]))
    assert [len(rows) for rows in groups.values()] == [2, 2]
    assert list(groups) == ["resnet18 of width 32 on digits, 20 epochs", "resnet18 of width 32 on digits, 40 epochs"]


def test_what_is_asked_of_a_method_is_another_row_with_its_name():
    asked = (Classification(), Classification(target="node"), Classification(round_to=8))
    assert [row.name for row in table(result(each, report()) for each in asked)] == [
        "earlycrop-s",
        "earlycrop-s (round to 8)",
        "earlycrop-s (target node)",
    ]


def test_a_floor_is_in_the_name_where_it_is_the_tasks_usual_too():
    asked = (Language(), Language(sparsity=0.95), Language(min_part=0.3), Language(min_channels=8))
    (*rows, masks, dense_row) = (
        Row((result(each),), (), "") for each in (*asked, Language(method="snip"), Language(method="dense"))
    )
    assert [row.name for row in rows] == [
        "earlycrop-s (min part 0.1)",
        "earlycrop-s (min part 0.025)",
        "earlycrop-s (min part 0.3)",
        "earlycrop-s (min channels 8)",
    ]
    assert [row.line for row in rows[:3]] == ["earlycrop-s (min part)"] * 2 + ["earlycrop-s (min part 0.3)"]
    assert Row((result(Classification(method="ltr", rounds=1)),), (), "").line == "ltr (rounds 1)"
    assert (masks.name, dense_row.name, dense_row.line) == ("snip", "dense", "dense")


def test_runs_under_other_conditions_are_marked_and_the_commonest_are_not():
    runs = [dense(0), dense(1), pruned(0), pruned(1)]
    runs[3] = replace(runs[3], environment={**runs[3].environment, "cpu": "Another CPU", "load_after": 3.0})
    rows = table(runs)
    assert [row.marks for row in rows] == ["", "a"]
    (common, said), (letter, other) = footnotes(rows)
    assert (common, letter) == ("", "a")
    assert said.startswith(
        "3 runs, load 0.5 to 0.75: Some CPU, 1 thread on 2 CPUs; earlycrop of version unknown, torch 2"
    )
    assert other.startswith("1 run, load 0.5 to 3: Another CPU")
    assert "mix of DEU, PUE 1, whole machine; not measured: no sensor" in other
    assert "`earlycrop-s` [a]" in markdown(rows)


@pytest.mark.parametrize("changed", [{"threads": 2}, {"commit": "f" * 40}, {"device": "H100"}, {"cpus": 64}])
def test_hardware_threads_and_commit_are_conditions(changed):
    other = dense(1)
    other = replace(other, environment={**other.environment, **changed})
    assert len(footnotes(table([dense(0), other]))) == 2


def test_what_was_lost_to_a_cut_off_is_no_condition():
    emissions = Emissions(1.0, 0.002, "DEU", 1.0, "assumed", seconds=10.0)
    other = replace(dense(1), emissions=emissions.including(5.0))
    assert other.emissions.kwh == pytest.approx(0.003)
    assert len(footnotes(table([replace(dense(0), emissions=emissions), other]))) == 1


def test_the_data_are_told_once_above_their_table():
    told = "digits: 1,437 training and 360 test images (inside scikit-learn)"
    text = markdown(table([replace(run, data=told) for run in (dense(0), dense(1), pruned(0))] + [pruned(1)]))
    assert text.count(told) == 1
    assert text.index(told) < text.index("| method")


def test_markdown_leaves_out_what_no_run_has():
    text = markdown(table([dense(0), pruned(0)]))
    assert "CUDA" not in text
    assert "CO₂" not in text
    assert "training step, cut [ms]" in text


def test_every_number_of_the_csv_is_the_results_own_unrounded():
    runs = [dense(0), *(pruned(seed, test_accuracy=0.1 / (seed + 3), grams_co2=0.1 * seed) for seed in range(3))]
    rows = table(runs)
    lines = list(csv_file.DictReader(io.StringIO(csv(rows))))
    assert [(line["method"], line["sparsity"], line["seeds"]) for line in lines] == [
        ("dense", "", "0"),
        ("earlycrop-s", "0.95", "0 1 2"),
    ]
    for line, group in zip(lines, (runs[:1], runs[1:]), strict=True):
        for each in COLUMNS:
            values = [value for run in group if (value := each.read(run)) is not None]
            assert int(line[f"{each.name}_n"]) == len(values)
            said = [line[f"{each.name}_{part}"] for part in ("mean", "deviation")]
            if values:
                assert float(said[0]) == pytest.approx(mean(values), rel=1e-15)
            if len(values) > 1:
                assert float(said[1]) == pytest.approx(stdev(values), rel=1e-12)
            else:
                assert said[1] == ""
    multiple = runs[1].columns.seconds / runs[0].columns.seconds
    assert float(lines[1]["seconds_multiple"]) == pytest.approx(multiple)
    assert lines[0]["seconds_multiple"] == ""


def test_columns_that_no_row_has_are_not_shown():
    shown = {column.name for column in shown_columns(table([dense(0)]))}
    assert "sparse_step_milliseconds" not in shown
    assert {"test_accuracy", "seconds", "disk_bytes"} <= shown


def test_the_frontier_is_what_no_other_row_beats_in_both():
    asked = {  # accuracy, seconds beside the dense phase's
        "dense": (0.9, 10.0),
        "snap": (0.8, 5.0),  # on it
        "crop-s": (0.7, 6.0),  # less accurate than snap, and slower
        "earlycrop-s": (0.8, 6.0),  # as accurate as snap, and slower
        "snip": (0.9, 10.0),  # as good as dense in both
        "random-s": (0.5, 1.0),  # the cheapest
    }
    runs = [
        (dense if method == "dense" else lambda seed, m=method, **said: pruned(seed, method=m, **said))(
            0, test_accuracy=accuracy, dense_seconds=seconds, scoring_seconds=0.0, sparse_seconds=0.0
        )
        for method, (accuracy, seconds) in asked.items()
    ]
    assert [row.name for row in frontier(table(runs), COLUMN["seconds"])] == ["random-s", "snap", "dense", "snip"]
    assert frontier(table(runs), COLUMN["grams_co2"]) == []  # nobody had it


def test_the_same_seed_counts_once():
    (row,) = table([dense(0, test_accuracy=0.5), dense(0, test_accuracy=0.9), dense(1, test_accuracy=0.7)])
    assert [each.columns.metrics["test_accuracy"] for each in row.results] == [0.5, 0.7]


def test_what_is_nearly_a_thousand_has_no_exponent():
    seconds = COLUMN["seconds"]
    assert [seconds.show(value) for value in (999.4, 999.5, 999.97, 1000.0)] == ["999", "1,000", "1,000", "1,000"]
