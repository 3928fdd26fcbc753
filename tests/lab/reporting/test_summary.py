"""Tables and sentences."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from earlycrop_lab.reporting.summary import comparison, conditions, curve, markdown, title, what_left
from earlycrop_lab.tasks.classification import Classification
from tests.lab.results import report, result

DENSE = result(Classification(method="dense"))
PRUNED = result(
    Classification(train_size=1000),
    report(),
    weight_sparsity=0.95,
    node_sparsity=0.75,
    parameters_after=150,
    sparse_step_milliseconds=8.0,
    sparse_steps_timed=60,
    disk_bytes=1_000,
)


def printed(table, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def row(text: str, label: str) -> list[str]:
    return next(line for line in text.splitlines() if line.strip().startswith(label))[32:].split()


def test_a_pruned_run_stands_beside_its_twin_with_the_ratio():
    text = printed(comparison([PRUNED, DENSE]))
    assert text.splitlines()[1].split() == ["earlycrop-s", "dense", "ratio"]
    assert row(text, "weight sparsity") == ["95.0", "%", "–"]
    assert row(text, "parameters") == ["150", "2", "k", "×0.075"]
    assert row(text, "training step, after the cut") == [
        "8",
        "ms",
        "(n=60)",
        "–",
        "×0.4",
    ]  # over the dense step of 20 ms
    assert row(text, "model on disk") == ["0.001", "MB", "0.008", "MB", "×0.125"]
    assert "CUDA" not in text  # nothing was had
    assert "emissions" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_ratio_stands_beside_its_own_line():
    cut = {"sparse_step_cpu_milliseconds": 6.0, "weight_sparsity": 0.95}
    text = printed(comparison([result(Classification(), report(), **cut), DENSE]))
    times = [line.split()[3:] for line in text.splitlines() if "its CPU time" in line]
    assert times == [["30", "ms", "30", "ms"], ["6", "ms", "–", "×0.2"]]  # over the dense step's 30 ms


def test_there_is_no_ratio_of_emissions_of_two_countries():
    here = result(Classification(), report(), grams_co2=1.0, kwh=0.001)
    dense = result(Classification(method="dense"), grams_co2=2.0, kwh=0.002)
    assert row(printed(comparison([here, dense])), "emissions")[-1] == "×0.5"
    abroad = replace(here, emissions=replace(here.emissions, country="NOR"))
    text = printed(comparison([abroad, dense]))
    assert row(text, "emissions") == ["1", "g", "2", "g"]
    assert row(text, "energy") == ["1", "Wh", "2", "Wh", "×0.5"]


def test_a_smoke_run_says_so():
    run = result(Classification(method="dense", max_steps=2))
    assert title(run).startswith("A SMOKE RUN, NO RESULT")
    assert title(run).endswith("resnet18 of width 32 on digits, 20 epochs, seed 0 (n = 1)")
    assert markdown([run, DENSE]).startswith("|  | `dense` (smoke run) | `dense` |")


def test_one_run_stands_alone():
    text = printed(comparison([DENSE]))
    assert text.splitlines()[1].split() == ["dense"]
    assert "sparsity" not in text
    assert row(text, "optimizer steps") == ["40"]


def test_the_title_says_what_was_trained_and_that_it_is_one_run():
    said = "resnet18 of width 32 on digits, 1,000 training images, 20 epochs, seed 0 (n = 1)"
    assert title(PRUNED) == said


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("init", "Cut before training."),
        ("epoch", "Cut at epoch 2, as asked."),
        ("trigger", "Cut at epoch 2: the detector fired."),
        ("cap", "Cut at epoch 2: the cap came before the detector fired."),
        ("static", "Cut at epoch 2: the weights do not move."),
    ],
)
def test_a_cut_is_told_with_its_reason(reason, why):
    told = what_left(report(reason))
    assert told == f"{why} 90 of 1,800 weights stay, 10 of 40 channels; scored on 512 training samples, 0.25 s."


def test_what_could_not_leave_and_what_collapsed_is_named():
    frozen = [{"where": f"layer{n}", "reason": "tied"} for n in range(6)]
    told = what_left(report(frozen=frozen, collapsed=["conv"], samples=0))
    assert "scored without data" in told
    assert "COLLAPSED: conv" in told
    assert "Could not be removed: layer0, layer1, layer2, layer3 and 2 more" in told


def test_the_curve_is_told():
    text = printed(curve(report()))
    assert text.split()[-10:] == ["1", "0.5", "–", "0.05", "0.002", "2", "0.51", "0.04", "0.05", "0.002"]


def test_threads_load_and_assumed_power_stand_beside_the_figures():
    said = conditions(DENSE)
    assert "Some CPU, 1 threads on 2 CPUs, load 0.5 → 0.75; torch 2." in said
    assert "mix of DEU, PUE 1, whole machine; not measured: no sensor." in said
