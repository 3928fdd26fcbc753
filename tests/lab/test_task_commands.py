"""The commands on the other tasks than image classification, on the data that each has without a download."""

import functools
import json
import math
from pathlib import Path

import pytest

from earlycrop_lab.cli import main
from earlycrop_lab.data.depths import DEPTHS
from earlycrop_lab.runs import read
from earlycrop_lab.tasks import TASKS
from earlycrop_lab.why import inquiry

SMALL = {
    "depth": ["--width=4", "--image-width=24", "--train-size=16", "--batch-size=4"],
    "control": ["--width=16"],
    "language": ["--width=16", "--train-size=4000", "--batch-size=8"],
}
FIGURE = {"depth": "rms error", "control": "mean return", "language": "test perplexity"}
DATA = {"depth": "rendered on the spot", "control": "simulated on the spot", "language": "inside the package"}


def test_no_task_is_forgotten():
    assert {"classification", *SMALL} == set(TASKS)


@pytest.fixture(scope="module", autouse=True)
def rooms():
    """The default ones, rendered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEPTHS, "scenes", functools.cache(DEPTHS["scenes"]))
        yield


@pytest.fixture
def no_power_meter(monkeypatch):
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", absent)


def short(task: str, out: Path) -> list[str]:
    """Three epochs of one step."""
    return [f"--task={task}", *SMALL[task], "--epochs=3", "--max-steps=1", f"--out={out}"]


@pytest.mark.parametrize("task", SMALL)
def test_a_run_and_the_page_of_its_folder_say_what_was_trained_on_and_how_well(task, tmp_path, capsys, no_power_meter):
    assert main(["train", "--method=earlycrop-s", "--sparsity=0.5", *short(task, tmp_path)]) == 0
    (folder,), printed = tmp_path.iterdir(), capsys.readouterr().out
    result = read(folder)
    figure = result.columns.metrics[result.description.metric.name]
    assert math.isfinite(figure)
    assert [epoch.test for epoch in result.epochs][-1] == figure
    assert result.report["after"]["params"] < result.report["before"]["params"]
    for told in (f"{FIGURE[task]}, last epoch", "parameters", "A SMOKE RUN", DATA[task], str(folder / "result.json")):
        assert told in printed

    assert main(["report", str(tmp_path)]) == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for told in (FIGURE[task], DATA[task], "A SMOKE RUN, NO RESULT"):
        assert told in page


@pytest.mark.parametrize("task", ["control", "language", pytest.param("depth", marks=pytest.mark.slow)])
def test_an_estimate_counts_every_run_and_starts_none(task, tmp_path, capsys):
    grid = ["--methods", "dense", "snap", "snip", "--sparsities", "0.5", "--seeds", "2"]
    assert main(["compare", *grid, *short(task, tmp_path), "--estimate"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    rows = {name: told.split()[:2] for name, told in (line.rsplit(", 3 epochs", 1) for line in lines[:3])}
    assert head.split() == ["to", "do", "done", "a", "run", "together"]
    assert [name.split()[2] for name in rows] == ["dense", "snap", "snip"]
    assert all(told == ["2", "0"] for told in rows.values())
    assert "In all about" in "".join(lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", SMALL)
def test_what_scores_do_to_flow_and_kernel_is_asked_of_every_task(task, tmp_path, capsys):
    asked = ["--scores", "random-s", "snip", "--sparsities", "0.5", "--samples=1", "--after=1"]
    assert main(["why", "flow", *asked, *short(task, tmp_path)]) == 0
    (folder,) = tmp_path.glob("why-flow-*")
    assert str(folder / "flow.svg") in capsys.readouterr().out
    found = json.loads((folder / "records.json").read_text())["found"]
    assert [each["method"] for each in found] == ["random-s", "snip"]
    assert all(each["flow_before"] > 0 and math.isfinite(each["kernel_change"]) for each in found)
    shown = inquiry.of(folder)
    assert shown.setting.startswith("A SMOKE RUN, NO RESULT")
    assert [chart.name for chart in shown.charts] == [f"{folder.name}-flow"]


@pytest.mark.parametrize("task", SMALL)
@pytest.mark.parametrize("question", ["moment", "choice", "early"])
def test_what_is_answered_in_accuracy_names_the_task_that_has_none(question, task, tmp_path, capsys):
    line = ["why", question, f"--task={task}", *SMALL[task], f"--out={tmp_path}"]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert f"`why {question}` answers in points of test accuracy, and the task {task} is judged by its " in told
    assert FIGURE[task] in told
    assert f"for {task} there are `why flow` and `compare --task {task}`" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("task", SMALL)
def test_a_comparison_has_a_row_a_method_and_the_page_the_same_figures(task, tmp_path, capsys):
    out = tmp_path / "runs"
    grid = ["compare", "--methods", "dense", "snip", "--sparsities", "0.5", *short(task, out)]
    assert main(grid) == 0
    printed = capsys.readouterr().out
    results = [read(path.parent) for path in sorted(out.glob("*/result.json"))]
    assert {each.description.method for each in results} == {"dense", "snip"}
    assert all(each.data == results[0].data and DATA[task] in each.data for each in results)
    table = (out / "table.md").read_text()
    assert table.strip() in printed
    for each in results:
        assert f"`{each.description.method}`" in table
    assert FIGURE[task] in table

    assert main(["compare", *grid[1:], "--estimate"]) == 0
    assert "0     1" in capsys.readouterr().out  # nothing is left to do
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    for each in results:
        assert json.dumps(each.description.method)[1:-1] in page
    assert FIGURE[task] in page
