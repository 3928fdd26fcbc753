"""Times trace, choice and cut beside torch-pruning's dependency graph and pruning step: `python -m benchmarks.cutting`.

Both run in one process, in turn, after a warm-up round; each round begins with fresh copies, and copying is not timed.
Where torch-pruning fails, its cells are empty. It scores by magnitude within its step; our scores are random numbers.
"""

import argparse
import copy
import importlib.metadata
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import ratio, write
from earlycrop.budget import Budget, choose_channels
from earlycrop.counting import Counter
from earlycrop.structure import cut, trace
from earlycrop_lab.models import build


class DenseNet(nn.Module):
    """DenseNet-121 (Huang et al., 2017) for images of 224 pixels."""

    class Layer(nn.Module):
        def __init__(self, channels: int, growth: int = 32):
            super().__init__()
            self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
            self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)

    def __init__(self):
        super().__init__()
        width, parts = 64, [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        for depth in (6, 12, 24, 16):
            if len(parts) > 4:
                parts += [
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                width //= 2
            parts += [self.Layer(width + 32 * k) for k in range(depth)]
            width += 32 * depth
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


PATIENCE = 60.0
"""Seconds after which torch-pruning is not run again on a network."""


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    shape = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    return ViTForImageClassification(ViTConfig(**shape, num_labels=1000))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(use_cache=False))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet50": (lambda: build("resnet50-imagenet", classes=1000, size=224), lambda: torch.randn(1, 3, 224, 224)),
    "densenet121": (DenseNet, lambda: torch.randn(1, 3, 224, 224)),
    "vit-s": (vit, lambda: torch.randn(1, 3, 224, 224)),
    "gpt2": (gpt2, lambda: torch.randint(50257, (1, 64))),
}


def ours(model: nn.Module, x: Tensor, sparsity: float, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Time trace, choice and cut; return the number of classes and the sparsity reached."""
    began = time.perf_counter()
    structure = trace(model, x)
    traced = time.perf_counter()
    counter = Counter(structure, model)
    dense, spaces = counter(), structure.spaces()
    scores = torch.rand(len(structure), generator=torch.Generator().manual_seed(0))
    keep = choose_channels(Budget(sparsity), scores, structure, counter, dense.prunable, spaces.bincount()[spaces])
    chosen = time.perf_counter()
    cut(structure, model, keep, None)
    ended = time.perf_counter()
    for name, value in zip(
        ("trace", "choose", "cut", "ours"),
        (traced - began, chosen - traced, ended - chosen, ended - began),
        strict=True,
    ):
        seconds[name].append(value)
    left = counter(keep)
    return {"classes": len(structure), "sparsity reached": 1 - left.prunable / dense.prunable}


def theirs(model: nn.Module, x: Tensor, sparsity: float, seconds: dict[str, list[float]]) -> float:
    """Time torch-pruning: the dependency graph (in the pruner's constructor) and a global magnitude step.

    Returns the fraction of parameters that left, since a step that removes nothing takes little time.
    """
    whole = sum(p.numel() for p in model.parameters())
    import torch_pruning as tp

    heads = [one for name, one in model.named_modules() if name in ("fc", "classifier", "lm_head")]
    began = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=sparsity,
        global_pruning=True,
        ignored_layers=heads,
    )
    built = time.perf_counter()
    pruner.step()
    ended = time.perf_counter()
    for name, value in (("build", built - began), ("step", ended - built), ("theirs", ended - began)):
        seconds[name].append(value)
    return 1 - sum(p.numel() for p in model.parameters()) / whole


def measure(name: str, rounds: int, sparsity: float) -> dict[str, Any]:
    """One row: a network cut by ours and by theirs in turn."""
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make(), inputs()
    seconds: dict[str, list[float]] = {k: [] for k in ("trace", "choose", "cut", "ours", "build", "step", "theirs")}
    facts, failure, removed = {}, None, None
    for number in range(rounds + 1):
        facts = ours(copy.deepcopy(model), x, sparsity, seconds)
        if failure is None and sum(seconds["theirs"]) < PATIENCE:
            try:
                removed = theirs(copy.deepcopy(model), x, sparsity, seconds)
            except Exception as error:  # the row reports it
                failure = f"{type(error).__name__}: {str(error)[:80]}"
        print(f"{name}, round {number} of {rounds}", file=sys.stderr)
        if number == 0:
            cold = seconds["ours"][0]
            for key in seconds:
                if key not in ("build", "step", "theirs") or sum(seconds["theirs"]) < PATIENCE:
                    seconds[key].clear()
    row: dict[str, Any] = {"network": name, "params": sum(p.numel() for p in model.parameters()), **facts}
    row |= {f"{key} s": median(values) if values else None for key, values in seconds.items()}
    row["first s"] = cold
    pairs = len(seconds["theirs"])
    row["ratio"] = ratio(seconds["ours"][:pairs], seconds["theirs"])["median"] if failure is None else None
    row |= {"n": rounds, "n theirs": pairs, "theirs removed": removed, "torch-pruning fails": failure or ""}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*NETWORKS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sparsity", type=float, default=0.7)
    options = parser.parse_args()
    rows = [measure(name, options.rounds, options.sparsity) for name in options.networks]
    write("cutting", rows, sparsity=options.sparsity, torch_pruning=importlib.metadata.version("torch-pruning"))


if __name__ == "__main__":
    main()
