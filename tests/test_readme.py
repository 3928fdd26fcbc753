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

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_readme_and_cards_name_every_method():
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "methods").glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`([a-z0-9-]+)`", page)}
    detectors = {f"earlycrop-{unit}-{rule}" for unit in "us" for rule in ("rate", "score", "ntk")}  # `-rate`, …
    assert {"-rate", "-score", "-ntk"} <= named
    assert set(earlycrop.METHODS) - named - detectors == set()


def test_the_numbers_are_those_of_the_results():
    root = Path(__file__).parents[1] / "results" / "cifar10"
    table = markdown([read(path.parent) for path in sorted(root.glob("*/result.json"))]).splitlines()
    told = [line for line in README.split("## Numbers")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    assert len(told) > 10
    assert [line for line in told if line not in table] == []
