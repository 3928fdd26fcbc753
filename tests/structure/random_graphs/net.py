"""The network of a description, an input for it, and descriptions drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.structure.random_graphs.operation import OPERATIONS, Maker

Step = tuple[str, int, int, int]
BATCH = 3


class Net(nn.Module):
    """The network of a description; `repr(net.source)` builds it again."""

    def __init__(self, kind: str, steps: Sequence[Step]):
        super().__init__()
        self.source = f"Net({kind!r}, {list(steps)!r})"
        values = [example(kind)]
        self.kind, self.plan, layers = kind, [], []
        read: set[int] = set()
        with torch.no_grad():
            for name, which, other, number in steps:
                accepts, make = OPERATIONS[name]
                found = [i for i in reversed(range(len(values))) if accepts(values[i])]
                if not found:
                    continue
                maker = Maker(values, layers, found[which % len(found)], other, number)
                layer = make(maker).double().eval()
                results = layer(*(values[i] for i in maker.reads))
                self.plan.append((layers.index(layer) if layer in layers else len(layers), tuple(maker.reads)))
                if layer not in layers:
                    layers.append(layer)
                values += results if isinstance(results, tuple) else [results]
                read |= set(maker.reads)
        self.layers = nn.ModuleList(layers)
        self.ends = [i for i in range(len(values)) if i not in read][-3:]
        self.heads = nn.ModuleList(head(values[i]) for i in self.ends)

    def forward(self, x):
        values = [x]
        for layer, reads in self.plan:
            results = self.layers[layer](*(values[i] for i in reads))
            values += results if isinstance(results, tuple) else [results]
        return tuple(head(values[i]) for head, i in zip(self.heads, self.ends, strict=True))


def example(kind: str) -> Tensor:
    shape = {"image": (3, 4, 4), "tokens": (4, 5), "vector": (5,)}[kind]
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def head(x: Tensor) -> nn.Module:
    if x.dim() == 4 and x[0, 0].numel() > 4:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(x.shape[1], 2))
    if x.dim() == 4:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2))
    return nn.Linear(x.shape[-1], 2)


CREATORS = ("layer", "conv", "functional", "attention", "recurrence", "add")
"""What makes channels: it is drawn more often than the rest."""


def random_steps(generator: random.Random) -> tuple[str, list[Step]]:
    """A description without hypothesis, for a benchmark."""
    names = [*CREATORS, *sorted(OPERATIONS)]
    chosen = ["layer", *generator.choices(names, k=generator.randint(4, 10))]
    steps = [(name, generator.randint(0, 3), generator.randint(0, 3), generator.randint(0, 199)) for name in chosen]
    return generator.choice(["image", "tokens", "vector"]), steps
