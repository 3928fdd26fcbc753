"""The pages of the documentation: links lead somewhere, examples run, paths exist, public names are in the reference.

An example of Python runs after those above it on its page, in a world that has a small network, its loop's objects and
all public names. An argument `...` stands for the rest of what the call needs. An example that cannot run here says
why, in a comment `<!-- not run: reason -->` above it.
"""

import importlib.util
import inspect
import json
import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import earlycrop
from earlycrop import allocation, evaluation, scores, steps, timing, units, widths

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
PYTHON = re.compile(r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code, and with what it includes."""
    text = page.read_text(encoding="utf-8")
    for included in re.findall(r'^--8<-- "(.+)"$', text, re.M):
        text += (ROOT / included).read_text(encoding="utf-8")
    return FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for found in LINK.findall(prose(page)):
        target, _, anchor = "".join(found).partition("#")
        if "://" in target:
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_kept_results_that_a_page_names_are_kept(page):
    if page.name == "CHANGELOG.md":
        return
    for path in re.findall(r"`(results/[^`\s]*)`", prose(page)):
        assert list(ROOT.glob(path.rstrip("/"))), path


def examples() -> list[Any]:
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        blocks = [(block["code"], block["why"]) for block in PYTHON.finditer(page.read_text(encoding="utf-8"))]
        if any(why is None for _, why in blocks):
            world = {} if page.name in ("start.md", "frameworks.md") else None  # what a newcomer has: nothing
            marks = (
                [pytest.mark.filterwarnings("ignore")] if page.name == "frameworks.md" else []
            )  # the frameworks' own
            code = [code for code, why in blocks if why is None]
            found.append(pytest.param(code, world, id=name_of(page), marks=marks))
    return found


class Loader(list):
    """Batches, in an order that may depend on the epoch."""

    def __call__(self, epoch: int) -> list[Any]:
        return [*self[epoch % len(self) :], *self[: epoch % len(self)]]


class Small(nn.Sequential):
    def __init__(self) -> None:
        widths, layers = (1, 32, 48, 64), []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))


def world() -> dict[str, Any]:
    """What a reader has when an example begins."""
    torch.manual_seed(0)
    model, images = Small(), torch.randn(64, 1, 8, 8)
    batches = list(zip(images.split(16), (torch.arange(64) % 4).split(16), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    rest = {"example_inputs": images[:2], "optimizer": optimizer, "epochs": 80}
    rest["scoring"] = earlycrop.Scoring(loss, batches)

    def pruner(model: nn.Module, method: Any, budget: earlycrop.Budget | float = 0.5, **given: Any) -> earlycrop.Pruner:
        return earlycrop.Pruner(model, method, budget, **{**rest, **given})

    modules = (earlycrop, allocation, evaluation, scores, steps, timing, units, widths)
    public = {name: value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    public |= {name: getattr(earlycrop, name) for name in earlycrop.__all__}  # which are imported when asked for
    libraries = {"torch": torch, "nn": nn, "earlycrop": earlycrop, "math": math, "json": json, "Path": Path}
    helpers = {"dataclass": dataclass, "replace": replace, "AveragedModel": AveragedModel, "Net": Small}
    loop = {"model": model, "optimizer": optimizer, "loss": loss, "loader": Loader(batches), "scoring": batches}
    return {
        **public,
        **libraries,
        **helpers,
        **loop,
        "get_ema_multi_avg_fn": get_ema_multi_avg_fn,
        "epochs": 8,
        "x": images[:2],
        "images": images,
        "example_inputs": images[:2],
        "Pruner": pruner,
        "pruner": pruner(model, "earlycrop-s"),
    }


@pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # the network here is smaller than a reader's
@pytest.mark.parametrize(("blocks", "scope"), examples())
def test_examples_run(blocks, scope, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = world() if scope is None else scope
    for block in blocks:
        exec(re.sub(r", \.\.\.(?=[,)])", "", block), scope)


def reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_module_is_in_the_reference():
    packages = [
        path.parent for path in (ROOT / "src" / "earlycrop").rglob("__init__.py") if "__all__" in path.read_text()
    ]
    dotted = {str(path.relative_to(ROOT / "src")).replace("/", ".") for path in packages}
    internal = {"earlycrop.structure.operators"}  # one operator each
    assert dotted - internal <= set(reference().modules())


@pytest.mark.parametrize("path", [path for module in reference().modules() for path in reference().names(module)])
def test_public_names_say_what_they_are(path):
    """A formula or a sentence, and the errors that are raised; types alone say nothing."""
    module, name = path.rsplit(".", 1)
    value = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    documented = inspect.getdoc(value) or ""
    assert len(documented.split()) > 2, path
