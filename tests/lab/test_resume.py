"""`train` cut off between any two of its epochs, or in the middle of scoring, cutting or writing, ends as if it had not
been; and so does the command, killed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import earlycrop
from earlycrop import units
from earlycrop.scoring import Scorer
from earlycrop_lab import checkpoints as module
from earlycrop_lab import runs
from earlycrop_lab.checkpoints import CHECKPOINT, Checkpoints
from earlycrop_lab.reporting.conditions import comparable
from earlycrop_lab.runs import folder_name, run, start_over
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.tasks.progress import Silent
from earlycrop_lab.tasks.session import Trained
from tests import dense

SMALL = Classification(
    method="earlycrop-s", sparsity=0.8, network="resnet18", width=4, train_size=128, batch_size=64, epochs=5
)


@pytest.fixture(autouse=True)
def no_power_meter(monkeypatch):
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    def absent(**_):
        raise OSError("not here")

    monkeypatch.setattr(codecarbon, "OfflineEmissionsTracker", absent)


class Cut(BaseException):
    """In the place of the end of a process."""


def numbers(trained: Trained):
    """All that may not depend on having been cut off."""
    report, c = trained.report, trained.columns
    return {
        "epochs": [replace(epoch, seconds=0.0) for epoch in trained.epochs],
        "report": repr(report and replace(report, seconds=0.0)),
        "state": {name: dense.bits(tensor) for name, tensor in trained.model.state_dict().items()},
        "columns": (c.metrics, c.weight_sparsity, c.parameters_after, c.flops_after, c.optimizer_steps),
    }


def cut_off(folder: Path, description: Classification) -> None:
    with Checkpoints(folder, of="a test") as checkpoints, pytest.raises(Cut):
        train(description, checkpoints=checkpoints)


def to_the_end(folder: Path, description: Classification) -> tuple[Trained, Checkpoints]:
    with Checkpoints(folder, of="a test") as checkpoints:
        return train(description, checkpoints=checkpoints), checkpoints


def at_call(monkeypatch, where: object, name: str, number: int) -> None:
    """Cut off at the n-th call of a function from now on, once."""
    function, calls = getattr(where, name), []

    def counted(*args, **options):
        calls.append(name)
        if len(calls) == number:
            raise Cut
        return function(*args, **options)

    monkeypatch.setattr(where, name, counted)


MOMENTS = {
    "second epoch": (torch.Tensor, "backward", 3),
    "scoring": (Scorer, "scores", 1),
    "cutting": (units.ChannelUnits, "keep_only", 1),
    "masking": (units.WeightUnits, "keep_only", 1),
    "after the cut": (module.Checkpoints, "save", 3),
    "writing": (module, "save_state", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u", "crop-s", "dense", "earlycrop-s-score"])
def test_cut_off_after_each_epoch_it_ends_as_if_it_had_not_been(method, tmp_path, monkeypatch):
    description = SMALL.dense_twin() if method == "dense" else replace(SMALL, method=method)
    whole = train(description)
    save = Checkpoints.save
    attempts = 0
    while True:
        attempts += 1
        calls = []

        def saves(self, done, now=False, calls=calls):
            save(self, done, now)
            calls.append(done)
            if len(calls) == 1:
                raise Cut

        monkeypatch.setattr(Checkpoints, "save", saves)
        try:
            found, last = to_the_end(tmp_path, description)
        except Cut:
            continue
        break
    assert last.attempts == attempts == 6 + (method != "dense")
    assert numbers(found) == numbers(whole)


@pytest.mark.parametrize(
    ("method", "moment"),
    [
        *(("earlycrop-s", moment) for moment in ("second epoch", "cutting", "after the cut")),
        *(("earlycrop-u", moment) for moment in ("masking", "writing")),
        ("crop-s", "scoring"),
    ],
)
def test_cut_off_in_the_middle_it_ends_as_if_it_had_not_been(method, moment, tmp_path):
    description = replace(SMALL, method=method, network="lenet", width=8)
    whole = train(description)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, *MOMENTS[moment])
        cut_off(tmp_path, description)
    found, last = to_the_end(tmp_path, description)
    assert last.attempts == 2
    assert numbers(found) == numbers(whole)
    assert found.columns.seconds == pytest.approx(found.epochs[-1].seconds)


@pytest.mark.parametrize(
    ("method", "backward"),
    [
        ("ltr", 7),
        ("gate-decorators", 9),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("gate-decorators", 6), ("gate-decorators", 12))),
        pytest.param("earlybird", 9, marks=pytest.mark.slow),
    ],
)
def test_methods_of_several_trainings_go_on_in_the_middle_of_each(method, backward, tmp_path):
    """In the second round of two; in a Tock, in a Tick after a cut, while the end is tuned; before the fifth mask."""
    options = {"rounds": 3} if method != "earlybird" else {"epochs": 6}
    description = replace(SMALL, method=method, **{"epochs": 2} | options)
    whole = train(description)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, torch.Tensor, "backward", backward)
        cut_off(tmp_path, description)
    found, _ = to_the_end(tmp_path, description)
    assert numbers(found) == numbers(whole)


def test_the_command_tells_of_its_attempts_and_leaves_nothing_but_the_result(tmp_path):
    description = replace(SMALL, network="mlp", width=16)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, module.Checkpoints, "save", 3)
        with pytest.raises(Cut):
            run(description, tmp_path)
    folder = tmp_path / folder_name(description)
    assert (folder / CHECKPOINT).exists()
    result = run(description, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json"]
    assert result.columns.attempts == 2
    assert result.columns.lost_seconds > 0
    assert result.columns.saving_seconds > 0
    assert "changed_from" not in result.environment
    start_over([description], tmp_path)
    again = run(description, tmp_path)
    assert again.columns.attempts == 1
    assert [replace(epoch, seconds=0.0) for epoch in again.epochs] == [
        replace(epoch, seconds=0.0) for epoch in result.epochs
    ]


@pytest.mark.parametrize("unlinked", [1, 2])
def test_what_was_cut_off_after_its_result_is_tidied_up(unlinked, tmp_path):
    """Before the first or the second of its two files was removed."""
    description = replace(SMALL, network="mlp", width=16, epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, module.Path, "unlink", unlinked)
        with pytest.raises(Cut):
            run(description, tmp_path)
    folder = tmp_path / folder_name(description)
    assert (folder / "result.json").exists()
    assert (folder / CHECKPOINT).exists()
    run(description, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json"]


def test_cut_off_before_its_result_only_the_end_is_done_again(tmp_path, monkeypatch):
    """All epochs are done and kept, but the model could not be saved."""
    from earlycrop_lab.runs import run

    d = Classification(method="snap", sparsity=0.5, network="mlp", width=16, train_size=256, epochs=2)
    whole = run(d, tmp_path / "whole")

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(earlycrop, "save", full)
        with pytest.raises(OSError, match="no space"):
            run(d, tmp_path / "cut")
    again = run(d, tmp_path / "cut")
    assert again.columns.metrics == whole.columns.metrics
    assert again.columns.attempts == 2
    assert [e.test for e in again.epochs] == [e.test for e in whole.epochs]


@pytest.mark.parametrize(("epochs", "left"), [(0, "starts over next time"), (2, "goes on with epoch 3 of 5")])
def test_an_interrupted_run_says_where_it_goes_on(epochs, left, tmp_path, monkeypatch):
    class Impatient(Silent):
        def begin(self, epochs, steps, done):
            self.left = epochs_to_wait

        def step(self):
            if not self.left:
                raise KeyboardInterrupt

        def epoch(self, epoch, figures):
            self.left -= 1

    epochs_to_wait = epochs
    with pytest.raises(KeyboardInterrupt, match=left):
        run(replace(SMALL, network="mlp", width=16), tmp_path, progress=Impatient())


def test_a_run_that_began_elsewhere_says_so(tmp_path, monkeypatch):
    description, said = replace(SMALL, network="mlp", width=16), []
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, module.Checkpoints, "save", 2)
        with pytest.raises(Cut):
            run(description, tmp_path)
    environment = runs.environment
    monkeypatch.setattr(runs, "environment", lambda device: {**environment(device), "threads": 64})
    result = run(description, tmp_path, say=said.append)
    assert result.environment["changed_from"] == {"threads": torch.get_num_threads()}
    assert said == ["The run began with different threads: its numbers may differ in their last digits."]


def test_a_run_that_began_with_other_electricity_says_so(tmp_path):
    description, said = replace(SMALL, network="mlp", width=16), []
    with pytest.MonkeyPatch.context() as patch:
        at_call(patch, module.Checkpoints, "save", 2)
        with pytest.raises(Cut):
            run(description, tmp_path, country="DEU", pue=1.5)
    result = run(description, tmp_path, country="NOR", pue=1.5, say=said.append)
    assert result.environment["changed_from"] == {"country": "DEU"}
    assert said == ["The run began with different country: its energy or emissions mix both."]
    assert not comparable("grams_co2", [result])
    assert comparable("kwh", [result])


@pytest.mark.slow
def test_five_kills():
    """benchmarks/kills.py with few kills: it ends with 1 if anything was lost, changed or damaged."""
    script = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    command = [sys.executable, str(script), "--dry", "--kills=5", "--methods", "earlycrop-s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kills" in done.stdout
