"""A small network on random data, and its training in a plain loop, which every framework must repeat."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop import Pruner, Scoring, get_method
from earlycrop.timing import AtEpoch

MADE = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.randn(48, 6, generator=MADE), torch.randint(3, (48,), generator=MADE)
BATCHES = [*zip(IMAGES.split(8), LABELS.split(8), strict=True)]
EPOCHS, CUT = 3, 1


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def adam(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(BATCHES))


def pruner_of(model: nn.Module, method: str, **options: Any) -> Pruner:
    at_the_cut = replace(get_method(method), timing=AtEpoch(CUT))
    options = {"scoring": Scoring(loss, BATCHES), "example_inputs": IMAGES[:2], "epochs": EPOCHS} | options
    return Pruner(model, at_the_cut, 0.5, **options)


def plain(method: str, bf16: bool = False, accumulate: int = 1, held: bool = False, **options: Any) -> nn.Module:
    """The network after a plain loop; if held, the schedule begins at the cut."""
    model = net()
    optimizer, schedule = adam(model)
    pruner = pruner_of(model, method, optimizer=optimizer, **options)
    for epoch in range(EPOCHS):
        pruner.check(epoch)
        for number, batch in enumerate(BATCHES, start=1):
            with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
                value = loss(model, batch) / accumulate
            value.backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                if pruner.pruned or not held:
                    schedule.step()
                for copy in pruner.copies:
                    average(copy, model, 0.1 if epoch or number > accumulate else 1.0)
    return model


def average(copy: nn.Module, model: nn.Module, part: float) -> None:
    for mine, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        mine.data.lerp_(theirs.detach(), part)


def equal(a: nn.Module, b: nn.Module, tolerance: float = 1e-6) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, atol=tolerance) for x, y in pairs)


def widths(model: nn.Module) -> list[int]:
    return [one.out_features for one in model.modules() if isinstance(one, nn.Linear)]


class Stream(torch.utils.data.IterableDataset):
    """Data without a length; it ends or not."""

    def __init__(self, data, endless: bool) -> None:
        self.data, self.endless = data, endless

    def __iter__(self):
        while True:
            yield from self.data
            if not self.endless:
                return
