"""What the README promises on its first screen runs as it stands there."""

import re
from collections import defaultdict
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop_lab.runs import finished, read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_block_prunes_and_saves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.splitlines()) <= 20
    torch.manual_seed(0)
    scope: dict = {}
    exec(code, scope)
    assert "earlycrop-s cut at epoch 2" in capsys.readouterr().out
    assert scope["pruner"].report.weight_sparsity == pytest.approx(0.8, abs=0.02)
    model, images = scope["model"].eval(), scope["images"]
    assert float((model(images).argmax(1) == scope["labels"]).double().mean()) > 0.5  # it learned something
    dense = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU()]
    again = nn.Sequential(*dense, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    earlycrop.load(again, "small.safetensors")
    assert torch.equal(model(images), again.eval()(images))


def test_readme_and_cards_name_every_method():
    pages = [README, *(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "methods").glob("*.md"))]
    named = {name for page in pages for name in re.findall(r"`([a-z0-9-]+)`", page)}
    detectors = {f"earlycrop-{unit}-{rule}" for unit in "us" for rule in ("rate", "score", "ntk")}  # `-rate`, …
    assert {"-rate", "-score", "-ntk"} <= named
    assert set(earlycrop.METHODS) - named - detectors == set()


COLUMNS = {
    "CNN, 80 %": ("recipe-cnn", 0.8),
    "CNN, 95 %": ("recipe-cnn", 0.95),
    "VGG16, 98 %": ("recipe-vgg16", 0.98),
}
NARROW = {"narrow dense, as many FLOPs": "flops_after", "narrow dense, as many parameters": "parameters_after"}


def cell(label: str, folder: str, sparsity: float) -> str:
    """`mean ± deviation (n)` of the accuracy in percent; narrow dense networks are those nearest to `earlycrop-s`."""
    groups = defaultdict(list)
    for run in finished(ROOT / "results" / folder):
        result = read(run)
        d = result.description
        plainly = d == replace(d.usual(), **{name: getattr(d, name) for name in TRAINING}, sparsity=d.sparsity)
        if plainly and (d.method == "dense" or d.sparsity == sparsity):
            groups[d.method, d.width].append(result)
    ours = groups["earlycrop-s", 16]
    if label in NARROW:
        cost = lambda results: fmean(getattr(one.columns, NARROW[label]) for one in results)  # noqa: E731
        dense = [results for (method, width), results in groups.items() if method == "dense" and width != 16]
        chosen = min(dense, key=lambda results: abs(log(cost(results) / cost(ours))), default=[])
    else:
        chosen = groups[label, 16]
    figures = [100 * one.figure for one in chosen]
    spread = f" ± {stdev(figures):.1f}" if len(figures) > 1 else ""
    return f"{fmean(figures):.1f}{spread} ({len(figures)})" if figures else "–"


TRAINING = ("network", "width", "epochs", "batch_size", "train_size", "seed")


def test_the_numbers_are_those_of_the_results():
    section = README.split("## Numbers")[1].split("\n## ")[0].splitlines()
    rows = [[each.strip() for each in line.strip("|").split("|")] for line in section if line.startswith("|")]
    assert rows[0][1:] == list(COLUMNS)
    assert len(rows) > 8
    for label, *cells in rows[2:]:
        assert cells == [cell(label.strip("`"), *where) for where in COLUMNS.values()], label
