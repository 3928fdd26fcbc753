"""The option --log: what a run writes for TensorBoard and wandb, beside its results."""

import os
import subprocess
import sys

import pytest

from earlycrop_lab.cli import main
from tests.test_logs import events, scalars

QUICK = ["train", "--network=mlp", "--width=16", "--epochs=4", "--train-size=256", "--sparsity=0.5", "--method=snap"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")
def test_a_run_writes_its_epochs_and_its_cut_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    assert main([*QUICK, "--log", "tensorboard", f"--out={tmp_path}"]) == 0
    (folder,) = tmp_path.iterdir()
    found = events(folder / "tensorboard")
    assert [step for step, _ in scalars(found, "test")] == [1, 2, 3, 4]
    assert [step for step, _ in scalars(found, "earlycrop/sparsity")] == [0]
    assert {"loss", "learning_rate", "seconds"} <= set(found.Tags()["scalars"])


def test_a_run_of_wandb_is_kept_in_the_runs_folder(tmp_path):
    pytest.importorskip("wandb")
    command = [sys.executable, "-m", "earlycrop_lab", *QUICK, "--log", "wandb", f"--out={tmp_path}"]
    offline = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    assert list(folder.rglob("run-*.wandb"))


def test_a_missing_package_is_named_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("earlycrop_lab.verbs.logs.find_spec", lambda name: None)
    assert main([*QUICK, "--log", "tensorboard", f"--out={tmp_path}"]) != 0
    assert 'pip install "earlycrop[tensorboard]"' in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
