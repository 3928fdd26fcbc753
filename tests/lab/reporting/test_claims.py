"""The poster's claims, decided on made-up runs whose intervals are known."""

from dataclasses import replace
from math import exp, inf, log, sqrt
from statistics import fmean, stdev

import pytest
from scipy import stats

from earlycrop_lab.reporting.claims import better, findings, markdown, verdict
from earlycrop_lab.reporting.intervals import student, welch
from earlycrop_lab.reporting.tables import table
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.depth import Depth
from earlycrop_lab.tasks.description import Metric
from earlycrop_lab.tasks.language import Language
from tests.lab.results import report, result


def runs(method: str, accuracies, first: int = 0, **said) -> list[Result]:
    """Of those accuracies, a seed each."""
    cut = None if method == "dense" else report()
    asked = {} if method == "dense" else {"sparsity": 0.98}
    columns = {name: said.pop(name) for name in list(said) if name not in Classification.__dataclass_fields__}
    return [
        result(Classification(method=method, seed=first + seed, **asked, **said), cut, test_accuracy=value, **columns)
        for seed, value in enumerate(accuracies)
    ]


def told(found) -> dict[str, str]:
    (each,) = found.values()
    return {finding.claim: finding.verdict for finding in each}


def test_welch_is_scipys():
    a, b = [0.91, 0.93, 0.9, 0.95], [0.85, 0.88, 0.7]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert welch(a, b) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_student_by_hand():
    values = [0.2, 0.5, 0.9]
    half = 4.302652729911275 * stdev(values) / sqrt(3)
    assert student(values) == pytest.approx((fmean(values) - half, fmean(values) + half))


def test_one_run_tells_nothing():
    assert welch([0.9], [0.1, 0.2, 0.3]) == student([0.9]) == (-inf, inf)
    found = findings(table([*runs("earlycrop-s", [0.9]), *runs("random-s", [0.1]), *runs("dense", [0.91])]))
    assert set(told(found).values()) == {"inconclusive"}
    assert "(n = 1)" in markdown(found)


def test_a_tie_is_as_good_and_not_better():
    found = findings(table([r for m in ("dense", "earlycrop-s", "snap") for r in runs(m, [0.9, 0.9, 0.9])]))
    assert told(found) == {
        "earlycrop-s 98 % is as good as dense, within 1 point": "holds",
        "earlycrop-s 98 % is better than snap": "fails",
    }


def test_times_of_unlike_machines_are_not_compared():
    slow = runs("ltr", [0.9, 0.9], optimizer_steps=400, dense_seconds=100.0)
    rows = [*runs("earlycrop-u", [0.9, 0.9]), *slow]
    claim = "earlycrop-u 98 % takes a quarter of the training time of ltr at most"
    assert told(findings(table(rows)))[claim] == "holds"
    elsewhere = [replace(run, environment={**run.environment, "threads": 8}) for run in slow]
    found = told(findings(table([*rows[:2], *elsewhere])))
    assert found[claim] == "inconclusive"
    assert found["earlycrop-u 98 % takes a quarter of the steps of ltr at most"] == "holds"


def test_a_run_that_changed_its_machine_tells_nothing_of_costs():
    steps = {"dense_step_milliseconds": 100.0, "sparse_step_milliseconds": 40.0, "sparse_memory_bytes": 2_000_000}
    rows = [
        *runs("earlycrop-u", [0.9, 0.9]),
        *runs("earlycrop-s", [0.9, 0.9], **steps),
        *runs("ltr", [0.9, 0.9], optimizer_steps=400, dense_seconds=100.0),
    ]
    costs = {
        "earlycrop-u 98 % takes a quarter of the training time of ltr at most",
        "a step of earlycrop-s 98 % takes at most 0.6 of the time after the cut",
        "a step of earlycrop-s 98 % takes at most 0.95 of the memory after the cut",
    }
    there = told(findings(table(rows)))
    assert {there[claim] for claim in costs} == {"holds"}

    def changed(**was) -> dict[str, str]:
        return told(findings(table([replace(r, environment={**r.environment, "changed_from": was}) for r in rows])))

    moved = changed(threads=2)
    assert {claim for claim in there if moved[claim] != there[claim]} == costs
    assert {moved[claim] for claim in costs} == {"inconclusive"}
    assert changed(commit="0bd5cb1") == there


def test_a_smoke_run_is_no_evidence():
    rows = [r for m in ("dense", "earlycrop-s", "snap") for r in runs(m, [0.9, 0.9], max_steps=2)]
    assert findings(table(rows)) == {}


def test_equal_budgets_are_compared_and_named():
    rows = [
        *runs("earlycrop-u", [0.9, 0.9]),
        *runs("ltr", [0.9, 0.9], equal_budget=True),
        *runs("ltr", [0.8, 0.8], optimizer_steps=400),
    ]
    found = told(findings(table(rows)))
    assert found["earlycrop-u 98 % is as good as ltr (equal budget), within 1 point"] == "holds"
    assert found["earlycrop-u 98 % is as good as ltr, within 1 point"] == "holds"
    assert [claim for claim in found if "a quarter" in claim and "equal" in claim] == []  # it costs as much by design
    assert found["earlycrop-u 98 % takes a quarter of the steps of ltr at most"] == "holds"


def test_runs_that_agree_leave_no_doubt():
    assert welch([0.9, 0.9], [0.8, 0.8]) == pytest.approx((0.1, 0.1))
    assert verdict(welch([0.9, 0.9], [0.9, 0.9]), 0.0) == "holds"


def test_the_first_aim_has_a_margin_of_one_point_and_of_three():
    rows = [
        *runs("dense", [0.95, 0.951, 0.949]),
        *runs("earlycrop-s", [0.946, 0.947, 0.945]),  # 0.4 points behind
        *runs("crop-s", [0.926, 0.927, 0.925]),  # two points behind that
        *runs("random-s", [0.80, 0.81, 0.79]),
        *runs("snap", [0.95, 0.90, 0.99]),
    ]
    assert told(findings(table(rows))) == {
        "earlycrop-s 98 % is as good as dense, within 1 point": "holds",
        "earlycrop-s 98 % is better than crop-s by three points": "fails",
        "earlycrop-s 98 % is better than random-s": "holds",
        "earlycrop-s 98 % is better than snap": "inconclusive",
    }


def test_the_chain_of_masks_and_the_cost_of_rewinding():
    rows = [
        *runs("ltr", [0.90, 0.91, 0.89], optimizer_steps=400),
        *runs("earlycrop-u", [0.93, 0.94, 0.92], optimizer_steps=40),
        *runs("crop-u", [0.92, 0.90, 0.94]),
        *runs("snip", [0.88, 0.881, 0.879]),
        *runs("random-u", [0.87, 0.871, 0.869]),
    ]
    found = told(findings(table(rows)))
    assert found == {
        "earlycrop-u 98 % is as good as ltr, within 1 point": "holds",
        "earlycrop-u 98 % is better than crop-u": "inconclusive",
        "crop-u 98 % is better than snip": "inconclusive",
        "snip 98 % is better than random-u by three points": "fails",
        "earlycrop-u 98 % takes a quarter of the steps of ltr at most": "holds",
        "earlycrop-u 98 % takes a quarter of the training time of ltr at most": "fails",
    }


def test_a_step_is_compared_within_each_run_so_that_a_slow_machine_cancels():
    rows = [
        each
        for seed, slow in enumerate((1.0, 3.0, 10.0))
        for each in runs(
            "earlycrop-s",
            [0.9],
            seed,
            dense_step_milliseconds=100 * slow,
            sparse_step_milliseconds=(40 + seed) * slow,
            sparse_memory_bytes=5_000_000,
        )
    ]
    found = findings(table(rows))
    assert told(found) == {
        "a step of earlycrop-s 98 % takes at most 0.6 of the time after the cut": "holds",
        "a step of earlycrop-s 98 % takes at most 0.95 of the memory after the cut": "fails",
    }
    ratio = exp(fmean(map(log, (0.40, 0.41, 0.42))))
    assert f"×{ratio:.3f}" in markdown(found)


def test_rows_are_compared_with_those_that_were_asked_for_the_same():
    rows = [
        *runs("earlycrop-s", [0.9, 0.9]),
        *runs("earlycrop-s", [0.95, 0.95], min_part=0.1),
        *runs("snap", [0.93, 0.93], min_part=0.1),
    ]
    assert told(findings(table(rows))) == {
        "earlycrop-s (min part 0.1) 98 % is better than snap (min part 0.1)": "holds"
    }


def test_a_large_network_pruned_beside_a_small_one_dense():
    small = runs("dense", [0.90, 0.90], width=8, parameters_before=500, grams_co2=2.0)
    cut = {"sparse_memory_bytes": 1_000_000, "dense_seconds": 0.1, "sparse_seconds": 0.1, "grams_co2": 1.0}
    large = runs("crop-s", [0.92, 0.92], dense_memory_bytes=None, **cut)  # which is never dense
    assert told(findings(table([*small, *large]))) == {
        "crop-s 98 %, resnet18 of width 32, is as good as dense, resnet18 of width 8, within 1 point": "holds",
        "crop-s 98 %, resnet18 of width 32, takes less training time than dense, resnet18 of width 8": "holds",
        "crop-s 98 %, resnet18 of width 32, takes less emissions than dense, resnet18 of width 8": "holds",
        "crop-s 98 %, resnet18 of width 32, takes less memory at its peak than dense, resnet18 of width 8": "holds",
    }


@pytest.mark.parametrize(
    ("unlike", "changed"),
    [({"country": "NOR"}, {}), ({"pue": 1.5}, {}), ({"power": "CPU measured"}, {}), ({}, {"country": "DEU"})],
)
def test_emissions_of_unlike_electricity_are_not_compared(unlike, changed):
    small = runs("dense", [0.90, 0.90], width=8, parameters_before=500, grams_co2=2.0)
    large = runs("crop-s", [0.92, 0.92], grams_co2=1.0)
    claim = "crop-s 98 %, resnet18 of width 32, takes less emissions than dense, resnet18 of width 8"
    there = told(findings(table([*small, *large])))
    assert there[claim] == "holds"
    began = {"changed_from": changed} if changed else {}
    elsewhere = [
        replace(r, emissions=replace(r.emissions, **unlike), environment={**r.environment, **began}) for r in large
    ]
    found = findings(table([*small, *elsewhere]))
    assert told(found) == {**there, claim: "inconclusive"}
    assert "on unlike electricity" in markdown(found)


def test_what_a_large_network_needs_before_its_cut_counts_too():
    small = runs("dense", [0.90, 0.90], width=8, parameters_before=500, dense_memory_bytes=2_000_000)
    cut = {"sparse_memory_bytes": 1_000_000}
    found = told(
        findings(
            table(
                [
                    *small,
                    *runs("earlycrop-s", [0.92, 0.92], dense_memory_bytes=4_000_000, **cut),
                    *runs("crop-s", [0.92, 0.92], dense_memory_bytes=None, **cut),  # never dense
                ]
            )
        )
    )
    claim = "{} 98 %, resnet18 of width 32, takes less memory at its peak than dense, resnet18 of width 8"
    assert found[claim.format("earlycrop-s")] == "fails"
    assert found[claim.format("crop-s")] == "holds"


def test_a_hundredth_less_is_no_saving_and_not_clearly_less():
    steps = {"dense_memory_bytes": 1_000_000, "sparse_memory_bytes": 990_000}
    found = told(findings(table([r for m in ("earlycrop-s", "earlycrop-u") for r in runs(m, [0.9, 0.9], **steps)])))
    assert found == {
        "a step of earlycrop-s 98 % takes at most 0.95 of the memory after the cut": "fails",
        "a step of earlycrop-u 98 % takes at least 0.95 of the memory after the cut": "holds",
    }


def test_each_aim_has_the_claims_about_its_own_method():
    rows = [r for m in ("dense", "earlycrop-s", "earlycrop-u") for r in runs(m, [0.9, 0.9])]
    (found,) = findings(table(rows)).values()
    assert {each.claim.split()[0]: each.aim for each in found} == {"earlycrop-s": 1, "earlycrop-u": 2}


def test_only_methods_that_have_readings_need_the_same():
    rows = [
        *runs("earlycrop-s", [0.9, 0.9], reading="mixed"),
        *runs("crop-s", [0.7, 0.7], reading="mixed"),
        *runs("crop-s", [0.8, 0.8]),  # another reading
        *(r for m in ("snap", "random-s", "earlybird") for r in runs(m, [0.85, 0.85])),
    ]
    asked = "earlycrop-s (reading mixed) 98 % is better than"
    assert told(findings(table(rows))) == {
        f"{asked} crop-s (reading mixed) by three points": "holds",
        **{f"{asked} {other}": "holds" for other in ("snap", "random-s", "earlybird")},
    }


def test_where_lower_is_better_the_gain_is_turned():
    class Loss(Classification):
        metrics = (Metric("test_accuracy", "test loss", "lower"),)

    def of(method: str, values) -> list[Result]:
        return [
            replace(one, description=Loss(method=method, sparsity=0.98, seed=one.description.seed))
            for one in runs(method, values)
        ]

    a, b = table([*of("snip", [1.0, 1.1, 0.9]), *of("snap", [2.0, 2.1, 1.9])])
    low, high = sorted((a, b), key=lambda row: row.figure.mean)
    assert better(1, "", low, high).verdict == "holds"
    assert better(1, "", high, low).verdict == "fails"
    assert "difference +1" in better(1, "", low, high).why


def test_runs_of_several_tasks_may_lie_in_one_folder():
    """Nothing is compared across them, and no network of one is asked of the other."""
    ours = [*runs("earlycrop-s", [0.9, 0.8]), *runs("dense", [0.91, 0.9])]
    other = result(Language(), None, metrics={"test_perplexity": 70.0})
    pruned = result(Depth(method="earlycrop-s", sparsity=0.98), report(), metrics={"rms_metres": 0.8})
    assert told(findings(table([*ours, other, pruned]))).items() == told(findings(table(ours))).items()
