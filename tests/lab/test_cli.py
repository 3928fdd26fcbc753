"""The command: what it prints, what it keeps, what it says when something is wrong."""

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest

import earlycrop
from earlycrop_lab import __main__ as entry
from earlycrop_lab import names
from earlycrop_lab.cli import VERBS, main
from earlycrop_lab.data import DATASETS
from earlycrop_lab.data.depths import DEPTHS
from earlycrop_lab.data.environments import ENVIRONMENTS
from earlycrop_lab.data.text import TEXTS
from earlycrop_lab.models import build
from earlycrop_lab.runs import read
from earlycrop_lab.tasks import TASKS, descriptions, get_task
from earlycrop_lab.verbs.questions import ANSWERS
from earlycrop_lab.verbs.why import QUESTIONS

QUICK = ["--network=mlp", "--width=64", "--epochs=8", "--learning-rate=0.01", "--train-size=640", "--sparsity=0.6"]
NAME = "digits-mlp-{}-train640-width64-epochs8-lr0.01-seed0"
PRUNED, DENSE = NAME.format("earlycrop-s-0.6"), NAME.format("dense")


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, str, int]:
    """`earlycrop train … --with-dense`, as a user runs it; its folder, what it printed, its exit code."""
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "earlycrop_lab", "train", *QUICK, "--with-dense", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    return out, done.stdout + done.stderr, done.returncode


def test_a_run_and_its_dense_twin_end_in_a_table_and_pictures(session):
    out, printed, code = session
    assert code == 0, printed
    assert sorted(path.name for path in out.iterdir()) == sorted([DENSE, PRUNED])  # and no litter of a tracker
    assert printed.index(f"\n{PRUNED}\n") < printed.index(f"\n{DENSE}\n")  # afterwards, never at the same time
    lines = [line.split()[0] for line in printed.splitlines() if "/8 " in line[:10]]
    assert lines == [f"{epoch}/8" for epoch in range(1, 9)] * 2
    for column in (
        *("test accuracy, last epoch", "weight sparsity", "node sparsity", "parameters", "FLOPs an example"),
        *("training time", "dense phase", "tracing, scoring, cutting", "sparse phase", "training step, dense phase"),
        *("training step, after the cut", "memory of a step, after the cut", "memory of the whole process"),
        *(
            "model on disk",
            "emissions",
            "energy",
            "optimizer steps",
            " threads on ",
            "load",
            "Emissions: mix of DEU, PUE 1",
        ),
    ):
        assert column in printed
    pictures = [line for line in printed.splitlines() if line.endswith(".png")]
    assert [Path(path).name for path in pictures] == ["progress.png", "regime.png", "channels.png"]
    for path in pictures:
        assert Path(path).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert max(map(len, printed.splitlines())) < 250


def test_the_results_hold_what_a_reader_needs(session):
    out, _, _ = session
    stored = json.loads((out / PRUNED / "result.json").read_text())
    assert eval(stored["repr"], {"Classification": dict}) == stored["description"]
    assert stored["environment"]["packages"]["torch"] == version("torch")
    assert {"cpu", "cpus", "threads", "load", "load_after", "started", "commit", "python"} <= set(stored["environment"])
    assert [e["epoch"] for e in stored["epochs"]] == list(range(1, 9))
    assert stored["report"]["reason"] in ("trigger", "cap")
    assert stored["report"]["curve"]
    pruned, dense = read(out / PRUNED), read(out / DENSE)
    for run, folder in ((pruned, PRUNED), (dense, DENSE)):
        assert run.columns.disk_bytes == (out / folder / "model.safetensors").stat().st_size
        assert run.columns.process_bytes > 100e6  # torch alone
        assert run.columns.kwh > 0
        assert run.columns.metrics["test_accuracy"] > 0.5  # chance is 0.1
    assert pruned.columns.disk_bytes < dense.columns.disk_bytes
    assert pruned.columns.sparse_memory_bytes < dense.columns.dense_memory_bytes


def test_the_kept_model_is_the_one_that_was_measured(session):
    out, _, _ = session
    model = build("mlp", classes=10, channels=1, size=8, width=64, seed=5)
    earlycrop.load(model, out / PRUNED / "model.safetensors")
    assert sum(p.numel() for p in model.parameters()) == read(out / PRUNED).columns.parameters_after


def test_a_finished_run_is_shown_and_not_trained_again(session, capsys):
    out, _, _ = session
    assert main(["train", *QUICK, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "has its result already; it is not run again" in printed
    assert "  1/8 " not in printed
    assert "dense" in printed  # the twin beside it
    assert main(["show", PRUNED[:20], f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "Classification(method='earlycrop-s', sparsity=0.6" in printed
    assert "the detector until the cut" in printed
    assert str(out / PRUNED / "regime.png") in printed


def test_a_folder_of_runs_is_one_markdown_table(session, capsys):
    out, _, _ = session
    assert main(["show", str(out)]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header == "|  | `dense` | `earlycrop-s` |"
    assert rule == "| --- | ---: | ---: |"
    disk = next(row.split(" | ") for row in rows if row.startswith("| model on disk"))
    assert float(disk[1].split()[0]) == pytest.approx(read(out / DENSE).columns.disk_bytes / 1e6, rel=5e-3)
    assert float(disk[2].split()[0]) == pytest.approx(read(out / PRUNED).columns.disk_bytes / 1e6, rel=5e-3)


@pytest.mark.parametrize("where", [".", "../" + PRUNED])
def test_a_run_is_shown_from_within_its_folder_with_its_twin(where, session, monkeypatch, capsys):
    out, _, _ = session
    monkeypatch.chdir(out / PRUNED)
    assert main(["show", where]) == 0
    printed = capsys.readouterr().out
    assert "There is no dense twin" not in printed
    assert "ratio" in printed


def test_a_packed_run_lists_what_there_is(session, tmp_path, capsys):
    out, _, _ = session
    assert main(["pack", str(out), "--to", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["show", PRUNED, f"--out={tmp_path}"]) == 0
    paths = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(tmp_path))]
    assert all(Path(path).is_file() for path in paths)
    assert paths[-1] == str(tmp_path / "runs.jsonl")
    assert str(tmp_path / PRUNED / "progress.png") in paths


def test_only_parts_may_be_cut_and_the_rest_stays(tmp_path, capsys):
    line = ["train", "--network=mlp", "--method=snap", "--sparsity=0", "--part", "fc1=0.5", "--dry-run"]
    assert main([*line, f"--out={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == "plan-digits-mlp-snap-0.0-parts-fc1_0.5-seed0"


def test_a_run_that_is_not_there_is_named_nearly(session, capsys):
    out, _, _ = session
    assert main(["show", "digits-mlp-dance", f"--out={out}"]) == 2
    assert f"Did you mean '{DENSE}'" in capsys.readouterr().err


def test_the_table_of_methods(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert set(earlycrop.METHODS) <= set(rows)
    assert rows["earlycrop-s"][:5] == ["earlycrop-s", "PathNorm", "Channels", "LazyRegime", "Bounded,"]
    assert "widths by" in printed
    assert rows["earlycrop-s-poster"] == ["earlycrop-s-poster", "Crop", "Channels", "LazyRegime", "OneShot"]
    assert rows["random-s"][4] == "OneShot,"  # and Uniform, below it where the terminal is narrow


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("trian", "no command 'trian'. Did you mean 'train'"),
        ("train --sparsty 0.9", "no option '--sparsty'. Did you mean '--sparsity'"),
        ("train --sparsity much", "--sparsity: invalid float value: 'much'"),
        ("train --method earlycorp-s", "Did you mean 'earlycrop-s'"),
        ("train --network vgg61", "Did you mean 'vgg16'"),
        ("train --data cifar01", "Did you mean 'cifar10'"),
        ("train --data folder:nowhere", "There is no folder"),
        ("train --target wight", "target cannot be 'wight'. Did you mean 'weight'"),
        ("train --sparsity 95", "between 0 and 1; 95 is not"),
        ("train --method dense --sparsity 0.5", "dense removes nothing: leave out sparsity"),
        ("train --train-size 5", "Use a train size from 10 to 1,437"),
        ("train --method snap --network mlp --min-channels 100 --sparsity 0.99 --epochs 1", "reach"),
        ("train --device tpu", "no device 'tpu'"),
        ("train --country Mars", "No electricity mix is known for the country 'Mars'"),
        ("train --pue 0.2", "--pue has to be 1 or more"),
        ("train --checkpoint-every nan", "--checkpoint-every is a time in seconds, 0 or more, not nan"),
        ("compare --methods snap --checkpoint-every -1", "--checkpoint-every is a time in seconds, 0 or more, not -1"),
        ("why moment --checkpoint-every nan", "--checkpoint-every is a time in seconds"),
        ("why flow --country Mars", "No electricity mix is known for the country 'Mars'"),
        ("train --seed 9223372036854775808", "seed has to be below 2**63, not 9223372036854775808"),
        ("show", "RUN"),
        ("show anything", "There is no finished run in /"),
        ("train --method earlycrop", "Did you mean 'earlycrop-s' (channels) or 'earlycrop-u' (weights)?"),
        ("train --method snip-s", "Did you mean 'snap'?"),
        ("compare --methods crop-s grap --sparsities 0.9", "Did you mean 'grasp'?"),
        ("why flow --scores crop-structured --epochs 4", "Did you mean 'crop-s'?"),
        ("why flows", "no question 'flows', did you mean 'flow'?"),
        ("methods all", "does not know what to do with 'all'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_no_traceback(line, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("earlycrop: ")
    assert printed.err.count("\n") == 1
    assert error in printed.err
    assert not list(tmp_path.glob("runs/*"))  # nothing is left behind


def test_a_traceback_is_shown_when_asked_for(capsys):
    assert main(["train", "--sparsity", "2", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_verb_it_says_what_there_is(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for verb in ("demo", "train", "methods", "show"):
        assert f"earlycrop {verb}" in printed


def help_of(*arguments: str) -> str:
    """What the command prints for these arguments, in a terminal of 80 columns."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as left:
            main(arguments)
    assert left.value.code == 0
    return printed.getvalue()


HELPED = [[verb] for verb in VERBS] + [[verb, "--task", task] for verb in ("train", "compare", "why") for task in TASKS]


@pytest.mark.parametrize("arguments", HELPED, ids=" ".join)
def test_help_fits_two_screens(arguments):
    printed = help_of(*arguments, "--help")
    assert len(printed.splitlines()) <= 50
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("arguments", HELPED, ids=" ".join)
def test_the_whole_help_has_every_option(arguments):
    verb, task = VERBS[arguments[0]], arguments[-1] if len(arguments) > 1 else "classification"
    parser = argparse.ArgumentParser()
    verb.arguments(parser, task)
    options = {name for each in parser._actions if each.help != argparse.SUPPRESS for name in each.option_strings}
    brief = help_of(*arguments, "--help")
    if verb.usual is None:
        assert "--help-all" not in brief
        assert [name for name in options if name not in brief] == []
        return
    whole = help_of(*arguments, "--help-all")
    assert [name for name in options if name not in whole] == []
    assert set(verb.usual) <= {*options} or task != "classification"
    hidden = {name for name in options if not re.search(rf"^  (-h, )?{name}\b", brief, re.M)}
    assert f"{len(hidden) + 1} more options: `earlycrop {verb.name} --help-all`" in " ".join(brief.split())


def test_every_field_of_a_description_is_an_option():
    for task in TASKS:
        printed = help_of("train", "--task", task, "--help-all")
        for each in fields(get_task(task).description):
            assert f"--{each.name.replace('_', '-')}" in printed


def test_an_option_that_the_help_leaves_out_works(tmp_path, capsys):
    assert "--pue" not in help_of("train", "--help")
    assert main(["train", "--pue", "0.2", f"--out={tmp_path}"]) == 2
    assert "--pue has to be 1 or more" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(entry, "find_spec", lambda name: None if name in ("rich", "sklearn") else object())
    assert entry.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "The laboratory needs packages that are not installed: `pip install rich scikit-learn`." in printed.err


def test_the_entry_point_itself_needs_nothing_but_python():
    code = (
        "import sys, earlycrop_lab.__main__ as entry; "
        "assert not {'torch', 'numpy', 'earlycrop', 'matplotlib', *entry.NEEDED} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


VALUES = ["--method=crop-z", "--data=none", "--network=none", "--min-part=2", "--epochs=0", "--target=none"]
AXES = [["none"], ["--sparsities", "0.5", "2"], ["--data", "none"], ["--networks", "none"], ["--seeds", "-1"]]


@pytest.mark.parametrize("task", TASKS)
def test_the_options_of_a_task_are_known_without_pytorch(task):
    """A wrong option, a wrong value of an option and a call for help are answered at once."""
    code = (
        "import sys; from earlycrop_lab.cli import main; "
        f"refused = [main([*verb, '--task={task}', '--wrong']) for verb in (['train'], ['compare'], ['why', 'flow'])]; "
        f"refused += [main(['train', '--task={task}', '--sparsity=abc']), main(['train', '--task=foo'])]; "
        "refused += [main(['compare', '--preset=quick', '--wrong'])]; "
        "refused += [main([verb, 'here', '--wrong']) for verb in ('demo', 'methods', 'show', 'report', 'pack')]; "
        "assert refused == 11 * [2], refused; "
        f"refused = [main(['train', '--task={task}', one]) for one in {VALUES}]; "
        f"refused += [main(['why', 'choice', '--task={task}', one]) for one in {VALUES}]; "
        f"refused += [main(['compare', '--task={task}', '--methods', 'snip', *one]) for one in {AXES}]; "
        f"assert refused == {2 * len(VALUES) + len(AXES)} * [2], refused\n"
        f"try: main(['train', '--task={task}', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'scipy', 'codecarbon', 'numpy'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--task NAME" in done.stdout


@pytest.mark.parametrize(
    ("usual", "listed", "known"),
    [
        (descriptions.classification.USUAL, names.IMAGES, DATASETS),
        (descriptions.depth.USUAL, names.DEPTHS, DEPTHS),
        (descriptions.control.USUAL, names.ENVIRONMENTS, ENVIRONMENTS),
        (descriptions.language.USUAL, names.TEXTS, TEXTS),
    ],
)
def test_the_names_of_data_sets_are_those_of_their_tables(usual, listed, known):
    assert list(usual) == list(listed.listed) == list(known)


def test_every_question_has_an_answer():
    assert list(QUESTIONS) == list(ANSWERS)


def test_a_dry_run_tells_what_would_leave_and_trains_nothing(tmp_path, capsys):
    assert main(["train", "--dry-run", "--network=mlp", "--width=16", "--sparsity=0.5", f"--out={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"plan.json", "widths.png"}
    plan = json.loads((folder / "plan.json").read_text())
    assert abs(1 - plan["after"]["prunable"] / plan["before"]["prunable"] - 0.5) < 0.05
    told = capsys.readouterr().out
    assert all(row["layer"] in told for row in plan["rows"])
