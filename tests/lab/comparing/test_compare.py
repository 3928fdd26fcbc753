"""`earlycrop compare`: what is run, what is not run again, what fails, what is told."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import earlycrop
from earlycrop_lab.checkpoints import CHECKPOINT, Checkpoints
from earlycrop_lab.cli import main
from earlycrop_lab.comparing.compare import brief, comma_separated, markdown, result_of
from earlycrop_lab.comparing.grids import PRESETS, TABLE_A
from earlycrop_lab.comparing.isolation import FAILURE, PROGRESS
from earlycrop_lab.page import finished
from earlycrop_lab.runs import folder_name, read, write
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.tasks.control import Control
from earlycrop_lab.verbs import comparison as verb
from tests.lab.results import result

SMALL = ["--networks", "mlp", "--width=16", "--epochs=2", "--train-size=640"]
GRID = ["--methods", "dense", "snap", "--sparsities", "0.5", "0.999", *SMALL]  # 0.999: more than there is to remove
NAME = "digits-mlp-{}-train640-width16-epochs2-seed0"
DENSE, HALF, TOO_MUCH = (NAME.format(method) for method in ("dense", "snap-0.5", "snap-0.999"))


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "earlycrop_lab", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A grid of three runs, of which one cannot be done, as a user runs it."""
    out = tmp_path_factory.mktemp("runs")
    return out, compare(*GRID, f"--out={out}")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_run_has_its_folder_and_what_fails_does_not_stop_the_others(session):
    out, done = session
    assert done.returncode == 1, done.stdout + done.stderr
    assert {path.name for path in out.iterdir()} == {DENSE, HALF, TOO_MUCH, "table.md", "table.csv"}
    assert {path.name for path in (out / TOO_MUCH).iterdir()} == {FAILURE}
    for name in (DENSE, HALF):
        assert {path.name for path in (out / name).iterdir()} == {"result.json", "model.safetensors"}


def test_it_tells_of_every_run_as_it_ends_and_prints_the_table(session):
    out, done = session
    told = done.stdout.splitlines()
    ends = [line.split(":")[0] for line in told if line.startswith(("done", "FAILED"))]
    assert ends == [f"done {DENSE}", f"done {HALF}", f"FAILED {TOO_MUCH}"]
    assert (out / "table.md").read_text().strip() in done.stdout
    assert told[-2:] == [str(out / "table.md"), str(out / "table.csv")]
    assert done.stderr == ""


def test_a_failed_run_is_a_row_that_says_why(session):
    out, _ = session
    why = json.loads((out / TOO_MUCH / FAILURE).read_text())["error"]
    assert "reach" in why
    assert f"| `{TOO_MUCH}` | {why} |" in (out / "table.md").read_text()
    dense, half, failed = rows(out)
    assert (failed["method"], failed["sparsity"], failed["failure"]) == ("snap", "0.999", why)
    assert failed["test_accuracy_mean"] == ""
    assert dense["failure"] == half["failure"] == ""
    assert float(dense["test_accuracy_mean"]) == read(out / DENSE).columns.metrics["test_accuracy"]
    assert float(half["optimizer_steps_multiple"]) == 1.0


def test_finished_runs_are_not_run_again_and_failed_ones_are(session, capsys):
    out, _ = session
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}
    table = (out / "table.md").read_text()
    assert main(["compare", *GRID, f"--out={out}"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told if line.startswith(("began", "done", "FAILED"))] == [
        f"FAILED {TOO_MUCH}"
    ]
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}
    assert {path.parent.name for path in before if before[path] != after[path]} == {TOO_MUCH}
    assert (out / "table.md").read_text() == table


SHORT = ["--methods", "dense", "earlycrop-s", "--networks", "mlp", "--width=16", "--epochs=1", "--train-size=640"]
NO_EPOCHS = "digits-mlp-earlycrop-s-0.95-train640-width16-epochs1-seed0"


def test_a_run_with_too_few_epochs_is_a_row_that_says_why_too(tmp_path, capsys):
    assert main(["compare", *SHORT, f"--out={tmp_path}"]) == 1
    why = "earlycrop-s may watch until epoch 1 and then needs epochs to train what is left"
    told = capsys.readouterr().out
    assert told.startswith(f"cannot be run: {NO_EPOCHS}: {why}")
    assert "done digits-mlp-dense-train640-width16-epochs1-seed0" in told
    assert f"| `{NO_EPOCHS}` | {why}" in (tmp_path / "table.md").read_text()
    dense, short = rows(tmp_path)
    assert (dense["method"], dense["failure"]) == ("dense", "")
    assert (short["method"], short["epochs"]) == ("earlycrop-s", "1")
    assert short["failure"].startswith(why)
    assert finished(tmp_path)[1][NO_EPOCHS].startswith(f"failed: {why}")


def test_where_no_run_can_be_the_command_is_refused(tmp_path, capsys):
    assert main(["compare", "--methods", "earlycrop-s", "earlybird", *SHORT[3:], f"--out={tmp_path}"]) == 2
    assert "earlycrop-s may watch until epoch 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_table_of_finished_runs_is_there_at_once(session, capsys):
    out, _ = session
    assert main(["compare", *GRID[:4], "0.5", *SMALL, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "| `snap` |" in printed
    assert "began" not in printed
    assert "without a result" not in printed


@pytest.mark.slow
def test_interrupted_it_stops_its_processes_and_goes_on_next_time(tmp_path):
    long = Classification(method="dense", network="mlp", width=16, train_size=640, epochs=120)
    arguments = ["--methods", "dense", "--networks", "mlp", "--width=16", "--train-size=640", "--epochs=120"]
    command = [sys.executable, "-m", "earlycrop_lab", "compare", *arguments, f"--out={tmp_path}"]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    folder = tmp_path / folder_name(long)
    while not (folder / CHECKPOINT).exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert running.returncode == 130
    assert said == "earlycrop: interrupted; 0 of 1 runs are done, the same command goes on.\n"
    assert not (folder / FAILURE).exists()
    with Checkpoints(folder, of=repr(long)) as kept:  # nobody works there any more
        assert 1 <= kept.done < 120
        done = kept.done
    again = compare(*arguments, f"--out={tmp_path}")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"from epoch {done + 1} of 120" in again.stdout
    assert read(folder).columns.attempts == 2
    assert not (folder / PROGRESS).exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", earlycrop.METHODS)
@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # after one step an epoch, half may be a whole layer
def test_a_smoke_run_takes_every_method_through_its_whole_course(method):
    """A step an epoch: all of its trainings, its moments, its cuts."""
    pruned = {} if method == "dense" else {"sparsity": 0.5}
    small = {"network": "resnet18", "width": 4, "batch_size": 16, "epochs": 8}
    run = Classification(method=method, max_steps=1, **small, **pruned)
    found = train(run)
    assert len(found.epochs) == run.total_epochs
    assert found.columns.optimizer_steps == run.total_epochs
    if method == "dense":
        assert found.report is None
    else:
        assert found.report.weight_sparsity == pytest.approx(0.5, abs=0.1)
        assert found.epochs[-1].phase == "sparse"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_row_of_table_a_is_one_command(tmp_path):
    done = compare("--preset=quick", "--max-steps=1", "--width=8", f"--out={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "**A SMOKE RUN, NO RESULT (1 batch an epoch): resnet18 of width 8 on digits, 20 epochs**" in done.stdout
    assert sorted(row["method"] for row in rows(tmp_path)) == sorted(TABLE_A)
    assert all("-smoke1-" in path.parent.name for path in tmp_path.glob("*/result.json"))


def test_an_estimate_starts_nothing_and_counts_finished_runs_as_nothing(session, capsys):
    out, _ = session
    before = sorted(out.rglob("*"))
    assert main(["compare", *GRID, f"--out={out}", "--estimate"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sorted(out.rglob("*")) == before
    counts = {line.split(",")[0]: line.split() for line in told if line.startswith("digits")}
    assert list(counts) == ["digits mlp snap 0.999", "digits mlp dense", "digits mlp snap 0.5"]
    assert [each[each.index("epochs") + 1 :][:2] for each in counts.values()] == [["1", "0"], ["0", "1"], ["0", "1"]]
    assert any(line.startswith("In all about ") for line in told)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", "compare needs to know what: --methods, or --preset with one of quick, table-a"),
        ("--preset quik", "Did you mean 'quick'"),
        ("--methods dense snpi", "Did you mean 'snip'"),
        ("--methods dense --data cifar01", "Did you mean 'cifar10'"),
        ("--methods dense --networks vgg61", "Did you mean 'vgg16'"),
        ("--methods snip --sparsities 95", "between 0 and 1; 95 is not"),
        ("--methods snip --sparsity 0.9", "no option '--sparsity'. Did you mean '--sparsities'"),
        ("--methods snip --seeds 0", "A grid without seeds has no runs"),
        ("--methods snip --engine rya", "there is no engine 'rya': use local or ray"),
        ("--methods snip --workers 0", "--workers and --cpus-per-run have to be 1 or more"),
        ("--methods snip --address auto", "--address and --gpus-per-run need --engine ray"),
        ("--methods snip --engine rya --estimate", "there is no engine 'rya': use local or ray"),
        ("--methods snip --address auto --estimate", "--address and --gpus-per-run need --engine ray"),
        ("--methods snip --device tpu", "no device 'tpu'"),
        ("--methods snip --country Mars", "No electricity mix is known for the country 'Mars'"),
        ("--methods snip --max-steps 0", "max_steps has to be 1 or more"),
        ("--methods snip dense --reading mixed", "reading means nothing to snip, dense: leave it out"),
        ("--methods snip snap --rounds 3", "rounds means nothing to snip, snap: leave it out"),
        ("--methods ltr --prune-at 2", "prune_at means nothing to ltr: leave it out"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_no_traceback(line, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *line.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("earlycrop: ")
    assert printed.err.count("\n") == 1
    assert error in printed.err
    assert not list(tmp_path.iterdir())


def test_a_preset_is_changed_by_what_is_said(monkeypatch):
    asked = []
    monkeypatch.setattr(verb, "compare", lambda runs, *_: asked.extend(runs) or [])
    monkeypatch.setattr(verb, "keep", lambda *_: [])
    assert main(["compare", "--preset=quick", "--methods", "dense", "snip", "--seeds", "2", "--epochs=3"]) == 0
    assert [(run.method, run.seed, run.epochs, run.width) for run in asked] == [
        ("dense", 0, 3, 16),
        ("snip", 0, 3, 16),
        ("dense", 1, 3, 16),
        ("snip", 1, 3, 16),
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_other_methods_take_the_place_of_any_presets(preset, monkeypatch):
    asked = []
    monkeypatch.setattr(verb, "compare", lambda runs, *_: asked.extend(runs) or [])
    monkeypatch.setattr(verb, "keep", lambda *_: [])
    assert main(["compare", f"--preset={preset}", "--methods", "dense", "snip", "ltr", "snap"]) == 0
    assert {run.method for run in asked} == {"dense", "snip", "ltr", "snap"}
    assert {run.rounds for run in asked} == {None}
    assert all(run.target == "weight" and run.min_part is None for run in asked if run.method != "snap")


def test_which_seeds_may_be_said(monkeypatch):
    asked = []
    monkeypatch.setattr(verb, "compare", lambda runs, *_: asked.extend(runs) or [])
    monkeypatch.setattr(verb, "keep", lambda *_: [])
    assert main(["compare", "--methods", "dense", "--seeds", "7", "3"]) == 0
    assert [run.seed for run in asked] == [7, 3]


def test_a_result_of_another_description_is_no_result_of_this_run(tmp_path):
    run = Classification(network="mlp")
    folder = tmp_path / folder_name(run)
    assert result_of(run, tmp_path) == "it was not run"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    assert "no result of this laboratory" in result_of(run, tmp_path)
    write(result(replace(run, epochs=5)), folder)
    assert "holds the result of another run" in result_of(run, tmp_path)
    write(result(run), folder)
    assert result_of(run, tmp_path) == result(run)


def test_a_reason_does_not_break_the_table():
    run = Classification(network="mlp")
    (line,) = [line for line in markdown([(run, "a | b")]).splitlines() if "a " in line and line.startswith("| `")]
    assert line == f"| `{folder_name(run)}` | a \\| b |"


def test_where_all_have_failed_each_row_still_says_what_it_was():
    runs = [Classification(method="snap", sparsity=0.9), Control(sparsity=0.98, seed=3)]
    lines = list(csv.DictReader(io.StringIO(comma_separated([(run, "no luck") for run in runs]))))
    assert [(line["task"], line["method"], line["sparsity"], line["seeds"]) for line in lines] == [
        ("classification", "snap", "0.9", "0"),
        ("control", "earlycrop-s", "0.98", "3"),
    ]
    assert [line["failure"] for line in lines] == ["no luck"] * 2
    assert (lines[0]["discount"], lines[1]["discount"]) == ("", "0.99")


def test_a_smoke_run_is_called_one_wherever_its_table_is():
    entries = [(run, result(run)) for run in [Classification(method="dense", network="mlp", max_steps=2)]]
    (table,) = brief(entries)
    assert str(table.title).startswith("A SMOKE RUN, NO RESULT (2 batches an epoch): mlp")
    assert "A SMOKE RUN, NO RESULT" in markdown(entries)


def test_a_terminal_is_told_the_same_in_short():
    good, bad = Classification(method="dense", network="mlp"), Classification(network="mlp")
    table, failed = brief([(good, result(good)), (bad, "no disk")])
    assert [column.header for column in table.columns][:4] == ["method", "asked", "n", "test accuracy [%]"]
    assert failed == f"{folder_name(bad)} has no result: no disk"
    (row,) = csv.DictReader(comma_separated([(good, result(good))]).splitlines())
    assert row["test_accuracy_mean"] == "0.5"


def test_a_terminal_is_told_what_the_data_are():
    told = "digits: 1,437 training and 360 test images (inside scikit-learn)"
    run = Classification(method="dense", network="mlp")
    console = Console(width=200, file=io.StringIO())
    with console.capture() as printed:
        for part in brief([(run, replace(result(run), data=told))]):
            console.print(part, markup=False, highlight=False)
    assert " ".join(printed.get().split()).endswith(told)
