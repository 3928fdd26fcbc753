"""A run on two processes is the run on one: same batches, same cut, one folder; and it goes on where it was."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from earlycrop.distributed import Ranks
from earlycrop_lab import cli
from earlycrop_lab.checkpoints import CHECKPOINT
from earlycrop_lab.data import DataError, load
from earlycrop_lab.reporting import conditions, summary
from earlycrop_lab.runs import MODEL, RESULT, folder_name, follow, read, run
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.tasks.progress import Silent
from tests.lab.results import result
from tests.ranks import Ensemble, Gone

PLAIN = Classification(method="snap", sparsity=0.5, network="mlp", width=32, train_size=256, batch_size=63, epochs=3)
NORMED = Classification(
    method="snap", sparsity=0.5, prune_at=2.0, network="resnet18", width=4, train_size=64, batch_size=32, epochs=4
)


def test_parts_of_batches_make_up_the_batches():
    data = load("digits").subset(100)
    whole = list(data.batches(15, seed=3).epoch(1))
    parts = [list(data.batches(15, seed=3, part=part, parts=2).epoch(1)) for part in range(2)]
    assert [len(y) for _, y in parts[0]] == [8] * 6
    for (x, y), (x0, y0), (x1, y1) in zip(whole, *parts, strict=True):
        assert torch.equal(x[0::2], x0)
        assert torch.equal(x[1::2], x1)
        assert torch.equal(torch.stack([y0[:7], y1], 1).flatten(), y[:14])
    with pytest.raises(DataError, match="A batch of 1 images cannot be divided between 2 processes"):
        data.batches(1, part=0, parts=2)


def without_power_meter() -> None:
    """CodeCarbon takes seconds to begin; it has tests of its own."""
    import codecarbon

    codecarbon.OfflineEmissionsTracker = None


def trained(rank: int, description: Classification) -> tuple:
    without_power_meter()
    trained = train(description, ranks=Ranks(dist.group.WORLD))
    return [replace(epoch, seconds=0.0) for epoch in trained.epochs], trained.report.widths, trained.model.state_dict()


def kept(rank: int, out: Path, description: Classification, dies: bool = False):
    without_power_meter()
    ranks = Ranks(dist.group.WORLD)

    class Dying(Silent):
        def epoch(self, epoch, figures):
            if dies and epoch == 4:
                os._exit(9)

    try:
        if rank > 0:
            return follow(description, ranks=ranks)
        return run(description, out, ranks=ranks, progress=Dying()).as_dict()
    finally:
        if not dies:
            dist.destroy_process_group()


def test_training_on_two_processes_is_training_on_one(tmp_path, monkeypatch):
    monkeypatch.setattr("codecarbon.OfflineEmissionsTracker", None)
    alone = train(PLAIN)
    with Ensemble(tmp_path) as ensemble:
        (epochs, widths, state), (other, same, twin) = ensemble(trained, PLAIN)
    assert widths == same == alone.report.widths
    assert all(torch.equal(tensor, twin[name]) for name, tensor in state.items())
    for found, expected in zip(epochs, alone.epochs, strict=True):  # in single precision
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert found.train == pytest.approx(expected.train, abs=1 / 250)
        assert found.test == pytest.approx(expected.test, abs=0.01)
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in other]
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_whose_process_dies_goes_on_as_if_it_had_not(tmp_path):
    results = []
    for attempts in ([False], [True, False]):
        out = tmp_path / str(len(attempts))
        for number, dies in enumerate(attempts):
            (store := tmp_path / f"{len(attempts)}-{number}").mkdir()
            with Ensemble(store) as ensemble:
                zero, one = ensemble.outcomes(kept, out, NORMED, dies)
            folder = out / folder_name(NORMED)
            if dies:
                assert isinstance(zero, Gone)
                assert isinstance(one, (RuntimeError, ValueError))
                assert (folder / CHECKPOINT).exists()
        assert one is None
        assert sorted(path.name for path in folder.iterdir()) == [MODEL, RESULT]
        results.append((zero, (folder / MODEL).read_bytes()))
    (whole, model), (resumed, same) = results
    assert model == same
    assert [{**epoch, "seconds": 0} for epoch in whole["epochs"]] == [{**e, "seconds": 0} for e in resumed["epochs"]]
    assert resumed["columns"]["attempts"] == 2
    assert resumed["environment"]["ranks"] == 2
    assert whole["report"]["epoch"] == 2


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path):
    said = ["--method=snap", "--sparsity=0.5", "--network=mlp", "--width=32", "--train-size=256", "--epochs=2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "earlycrop_lab", "train", f"--out={tmp_path}", "--device=cpu", *said]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for expected in ("test accuracy", "it is not run again"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(expected) == 1
    (folder,) = tmp_path.iterdir()
    assert read(folder).environment["ranks"] == 2
    assert len(read(folder).epochs) == 2


def test_figures_say_of_how_many_processes_they_are():
    one = result(PLAIN)
    one.environment["packages"]["earlycrop"] = "0"
    two = replace(one, environment={**one.environment, "ranks": 2})
    for told in (summary.conditions, conditions.condition):
        assert "processes" not in told(one)
        assert ", 2 processes of 1 thread" in told(two)


@pytest.mark.parametrize("option", ["--with-dense", "--dry-run"])
def test_several_processes_train_one_run(monkeypatch, capsys, option):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", option]) == 2
    assert "one run at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["compare --preset quick", "compare --preset quick --estimate", "why flow", "why moment", "demo", "methods"]
)
def test_several_processes_do_nothing_else(monkeypatch, capsys, tmp_path, line):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("earlycrop: torchrun started 2 processes, and only train can share them")
    assert told.err.endswith(f"start {line.split()[0]} without torchrun\n")
    assert not list(tmp_path.iterdir())
