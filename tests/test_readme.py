"""What the README promises on its first screen runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import earlycrop
from earlycrop_lab.report import markdown
from earlycrop_lab.runs import read

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # the network here is smaller than a reader's
def test_the_plain_loop_prunes_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    torch.manual_seed(0)
    images = torch.randn(256, 1, 8, 8)
    network = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 4),
    )
    model = network()
    scope = {"model": model, "loader": DataLoader(TensorDataset(images, torch.arange(256) % 4), 32), "epochs": 8}
    exec(code, scope)
    assert "earlycrop-s cut at epoch 2" in capsys.readouterr().out
    assert scope["pruner"].report.weight_sparsity == pytest.approx(0.95, abs=0.02)
    assert scope["scheduler"].last_epoch == 6 * 8
    again = network()
    earlycrop.load(again, "small.safetensors")
    model.eval(), again.eval()
    assert torch.equal(model(images), again(images))


def test_the_table_names_every_method():
    named = set(re.findall(r"`([a-z{},-]+)`", README.split("## Numbers")[0]))
    table = {"earlycrop-{s,u}-{rate,score,ntk}": [m for m in earlycrop.METHODS if m.count("-") == 2]}
    covered = {name for name in named if name in earlycrop.METHODS}.union(*(table[name] for name in named & set(table)))
    assert set(earlycrop.METHODS) - covered == {"dense", "grasp-inverted"}


def test_the_numbers_are_those_of_the_results():
    root = Path(__file__).parents[1] / "results" / "cifar10"
    table = markdown([read(path.parent) for path in sorted(root.glob("*/result.json"))]).splitlines()
    told = [line for line in README.split("## Numbers")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    assert len(told) > 10
    assert [line for line in told if line not in table] == []
