"""Latency as a target, on this CPU: `python -m benchmarks.latency`.

First the prediction: a table is measured for each network and batch, the network is cut by several methods, and what
the table predicts of the cut networks stands beside what they take. Then the gain (`--accuracy`): `crop-s` cuts to a
part of the latency, and to that part of the weights at which it is measured to be as fast; both are trained on a part
of CIFAR-10.

Times are CPU time of the process on one thread, which leaves out other programs, in a process whose allocator keeps its
memory: given back to the system and asked for again, it costs more than most operators (docs/speed.md).
"""

import argparse
import copy
import os
import sys
import time
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from tempfile import TemporaryDirectory
from typing import Any

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
if __name__ == "__main__" and any(key not in os.environ for key in KEEPS_MEMORY):
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", **KEEPS_MEMORY}  # before the process begins
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cross_entropy  # noqa: E402

from benchmarks.record import interleaved, ratio, write  # noqa: E402
from earlycrop import Budget, Pruner, Scoring  # noqa: E402
from earlycrop.counting import Counter, Latency  # noqa: E402
from earlycrop.errors import BudgetError  # noqa: E402
from earlycrop_lab.data import Dataset, load  # noqa: E402
from earlycrop_lab.models import build  # noqa: E402


class MobileNet(nn.Module):
    """MobileNetV2 (Sandler et al., 2018) for images of 32 pixels, of 0.6 M parameters."""

    STAGES = ((16, 1, 1), (24, 2, 1), (32, 2, 2), (64, 2, 2), (96, 1, 1))

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels: int, stride: int, expansion: int = 4):
            super().__init__()
            inner = expansion * channels_in
            self.expand, self.norm1 = nn.Conv2d(channels_in, inner, 1, bias=False), nn.BatchNorm2d(inner)
            self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
            self.norm2, self.norm3 = nn.BatchNorm2d(inner), nn.BatchNorm2d(channels)
            self.project, self.joins = (
                nn.Conv2d(inner, channels, 1, bias=False),
                stride == 1 and channels_in == channels,
            )

        def forward(self, x: Tensor) -> Tensor:
            out = nn.functional.relu6(self.norm1(self.expand(x)))
            out = nn.functional.relu6(self.norm2(self.depthwise(out)))
            out = self.norm3(self.project(out))
            return x + out if self.joins else out

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        blocks, width = [], 16
        for channels, count, stride in self.STAGES:
            for number in range(count):
                blocks.append(self.Block(width, channels, stride if number == 0 else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.last, self.last_norm = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(nn.functional.relu6(self.norm(self.stem(x))))
        return self.fc(nn.functional.relu6(self.last_norm(self.last(x))).mean((2, 3)))


def network(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MobileNet() if name == "mobilenet" else build(name, classes=10, width=16)


def loss(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def cut(model: nn.Module, method: str, budget: Budget, data: Dataset, seed: int) -> Pruner:
    """The pruner of a network that it has cut before training."""
    scoring = Scoring(loss, data.scoring_batches(128, seed))
    options: dict[str, Any] = {"example_inputs": data.scoring_batches(2)[0][0], "verify": False, "seed": seed}
    pruner = Pruner(model, method, budget, scoring=scoring, epochs=10, **options)
    pruner.check(0)
    return pruner


def timed(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a forward pass of each network; all take turns."""
    works, counts = {}, {}
    for name, model in models.items():
        calls = max(1, round(0.02 / max(_once(model, x), 1e-5)))
        works[name], counts[name] = partial(_calls, model.eval(), x, calls), calls
    with torch.inference_mode():
        seconds = interleaved(works, rounds, warm=2, clock=time.process_time)
    return {name: [one / counts[name] for one in times] for name, times in seconds.items()}


def _calls(model: nn.Module, x: Tensor, calls: int) -> None:
    for _ in range(calls):
        model(x)


def _once(model: nn.Module, x: Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        model(x)
        began = time.process_time()
        model(x)
        return time.process_time() - began


def predictions(name: str, batch: int, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predicted beside measured milliseconds of the dense network and of cuts of it."""
    x, dense = data.plain(data.train_images[:batch]), network(name, 0)
    began = time.perf_counter()
    cost = Latency.measured(dense.eval(), x, options.table, seconds=options.seconds, clock=time.process_time)
    took = time.perf_counter() - began
    print(f"{name}, batch {batch}: {cost}, {took:.0f} s, error {cost.error:.3f}, spread {cost.spread:.3f}", flush=True)
    models, predicted = {"dense": dense}, {}
    for method in ("random-s", "magnitude-s", "crop-s"):
        for sparsity in (0.3, 0.6, 0.9):
            for target in ("weight", cost) if method == "crop-s" else ("weight",):
                model = network(name, 0)
                label = f"{method} {sparsity:g} of {target if isinstance(target, str) else cost.name}"
                try:
                    pruner = cut(model, method, Budget(sparsity, target=target), data, 0)
                except BudgetError as error:
                    print(f"{label}: {error}", file=sys.stderr)
                    continue
                counter = Counter(pruner.units.structure, model)
                predicted.setdefault("dense", Counter(pruner.units.dense, network(name, 0)).price(cost))
                models[label], predicted[label] = model, counter.price(cost)
    seconds, rows = timed(models, x, options.rounds), []
    for label in models:
        found = 1e3 * median(seconds[label])
        rows.append(
            {
                "network": name,
                "batch": batch,
                "cut": label,
                "predicted ms": predicted[label],
                "measured ms": found,
                "predicted / measured": predicted[label] / found,
                "of dense": ratio(seconds[label], seconds["dense"])["median"],
                "n": options.rounds,
                "table s": took,
            }
        )
    return rows


def at_equal_latency(
    name: str, seed: int, x: Tensor, data: Dataset, cost: Latency, sparsity: float
) -> dict[str, nn.Module]:
    """The network cut to a part of its latency, and to that part of its weights at which it is as fast."""
    fast = network(name, seed)
    cut(fast, "crop-s", Budget(sparsity, target=cost), data, seed)
    low, high, best = 0.0, 0.995, (float("inf"), fast)
    for _ in range(6):
        middle, model = 1 - ((1 - low) * (1 - high)) ** 0.5, network(name, seed)  # halves on a logarithmic scale
        cut(model, "crop-s", Budget(middle), data, seed)
        seconds = timed({"latency": fast, "weight": model}, x, 7)
        slower = ratio(seconds["weight"], seconds["latency"])["median"]
        best = min(best, (abs(slower - 1), model), key=lambda one: one[0])
        low, high = (middle, high) if slower > 1 else (low, middle)
        if best[0] < 0.03:
            break
    return {"latency": fast, "weight": best[1]}


def trained(model: nn.Module, data: Dataset, epochs: int, seed: int) -> float:
    """Test accuracy after training by Adam under One-Cycle."""
    batches = data.batches(64, seed)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * len(batches))
    model.train()
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        right = [(model(images).argmax(1) == labels).sum() for images, labels in data.test_batches()]
    return float(sum(right)) / len(data.test_labels)


def accuracies(name: str, batch: int, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Accuracy and measured latency of both cuts, of each seed."""
    x, rows = data.plain(data.train_images[:batch]), []
    dense = network(name, 0).eval()
    cost = Latency.measured(dense, x, options.table, seconds=options.seconds, clock=time.process_time)
    for seed in range(options.seeds):
        models = at_equal_latency(name, seed, x, data, cost, options.sparsity)
        seconds = timed({"dense": copy.deepcopy(dense), **models}, x, options.rounds)
        for target, model in models.items():
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "target": target,
                    "seed": seed,
                    "measured ms": 1e3 * median(seconds[target]),
                    "of dense": ratio(seconds[target], seconds["dense"])["median"],
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "accuracy": trained(model, data, options.epochs, seed),
                }
            )
            print(rows[-1], flush=True)
    return rows


def summed_up(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, and the difference of each seed's two accuracies."""
    found = []
    for name, batch in dict.fromkeys((row["network"], row["batch"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["batch"]) == (name, batch)]
        fast, small = ([row for row in mine if row["target"] == target] for target in ("latency", "weight"))
        gains = [a["accuracy"] - b["accuracy"] for a, b in zip(fast, small, strict=True)]
        found.append(
            {
                "network": name,
                "batch": batch,
                "n": len(gains),
                "latency budget": fmean(row["accuracy"] for row in fast),
                "weight budget": fmean(row["accuracy"] for row in small),
                "difference": fmean(gains),
                "its deviation": stdev(gains) if len(gains) > 1 else float("nan"),
                "latency of the first / the second": fmean(
                    a["measured ms"] / b["measured ms"] for a, b in zip(fast, small, strict=True)
                ),
                "of dense": fmean(row["of dense"] for row in fast),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["resnet18", "mobilenet"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=60, help="about how long to measure a table")
    parser.add_argument("--accuracy", action="store_true", help="also train networks of equal latency")
    parser.add_argument("--sparsity", type=float, default=0.5, help="the part of the latency that leaves")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--test-size", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load("cifar10").subset(options.train_size).tested_on(options.test_size)
    points = [(name, batch) for name in options.networks for batch in options.batches]
    with TemporaryDirectory() as folder:
        options.table = Path(folder) / "latency.json"
        rows = [row for point in points for row in predictions(*point, data, options)]
        more: dict[str, Any] = {"accuracy": [], "runs": []}
        write("latency", rows, **more)
        if options.accuracy:
            for point in points:
                more["runs"] += accuracies(*point, data, options)
                more["accuracy"] = summed_up(more["runs"])
                write(
                    "latency",
                    rows,
                    sparsity=options.sparsity,
                    epochs=options.epochs,
                    train_size=data.train_size,
                    **more,
                )


if __name__ == "__main__":
    main()
