"""How long runs will take on this machine, before any is started: from a few steps of each network, dense and cut."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import earlycrop
from earlycrop.errors import EarlyCropError
from earlycrop.timing import AbstractDetector, AtEpoch, AtInit
from earlycrop.units import Channels
from earlycrop_lab.board import duration
from earlycrop_lab.tasks.classification import (
    Classification,
    evaluate,
    network,
    pruner_of,
    pruning_method,
    prunes,
    read,
)

STEPS = 3
"""Steps that are timed, after one to warm up."""
PASSES = 4
"""Gradient passes over the scoring set that a score with data costs at most; docs/speed.md has what they cost."""

HOW = f"""\
Estimated from the median of {STEPS} training steps of each network, dense and after a random cut of its channels to \
the same sparsity; masks are taken to save nothing, a detector to wait until its cap, a method that cuts more than \
once to train densely throughout, and a scoring to cost {PASSES} gradient passes. Evaluation, loading the data and \
starting each process are in it. Runs with a result count nothing; runs that were cut off count in full."""


@dataclass(frozen=True)
class Cost:
    """What a run is made of, in seconds.

    Args:
        start: Its process, the data, the network.
        dense_epoch: Training for an epoch, all channels.
        sparse_epoch: The same with the channels that stay; None where they cannot be cut so.
        cut: Tracing the network and taking channels out.
        scoring: A gradient pass over the scoring set.
        evaluation: Once over the test split.
    """

    start: float
    dense_epoch: float
    sparse_epoch: float | None
    cut: float
    scoring: float
    evaluation: float


def seconds(d: Classification, cost: Cost) -> float:
    """How long a run takes that is made of such parts; rather too much than too little."""
    method = pruning_method(d)
    total = cost.start + d.epochs * cost.evaluation
    if not prunes(method):
        return total + d.epochs * cost.dense_epoch
    dense = dense_epochs(d)
    after = cost.sparse_epoch if isinstance(method.units, Channels) and cost.sparse_epoch else cost.dense_epoch
    passes = PASSES * method.score.needs_data * len(list(method.steps.towards(d.sparsity)))
    return total + dense * cost.dense_epoch + (d.epochs - dense) * after + cost.cut + passes * cost.scoring


def dense_epochs(d: Classification) -> float:
    """Epochs before the cut, at most."""
    match pruning_method(d).timing:
        case AtInit():
            return 0
        case AtEpoch(epoch):
            return min(epoch, d.epochs)
        case AbstractDetector() as detector:
            return min(detector.cap(d.epochs), d.epochs)
    return d.epochs


def measured(runs: Iterable[Classification], root: str | None, device: str) -> Iterator[tuple[Classification, Cost]]:
    """Each run with its cost; networks, data and sparsities that several runs share are measured once.

    Raises:
        ValueError: If a run's data, network and method do not fit together.
        OSError: If data cannot be had.
    """
    known: dict[Classification, Cost] = {}
    process = timed(lambda: subprocess.run([sys.executable, "-c", "import earlycrop_lab.apart"], check=True))
    for run in runs:
        # of the same cost: seeds, and methods at the same sparsity
        pruned = {name: getattr(run, name) for name in ("sparsity", "target", "round_to", "min_channels")}
        like = replace(run, method="random-s", seed=0, reading=None, **pruned)
        if like not in known:
            known[like] = _measure(like, root, torch.device(device), process)
        yield run, known[like]


def _measure(d: Classification, root: str | None, device: torch.device, process: float) -> Cost:
    start = time.perf_counter()
    data, batches, scoring = read(d, root, device)
    model = network(d, data, device)
    begun = time.perf_counter() - start
    batch = next(batches.epoch(0))
    dense = _step(model, batch)
    gradient = dense * sum(len(y) for _, y in scoring) / len(batch[1])
    some = data.tested_on(d.batch_size)
    looked = timed(lambda: evaluate(model, some.test_batches()), device)
    evaluation = looked * len(data.test_labels) / len(some.test_labels)
    start = time.perf_counter()
    try:
        pruner_of(d, model, scoring).check(0)
        sparse = _step(model, batch)
    except EarlyCropError:  # too much of this network for random choice: taken as dense
        sparse = None
    cut = time.perf_counter() - start
    epoch = None if sparse is None else sparse * len(batches)
    return Cost(process + begun, dense * len(batches), epoch, cut, gradient, evaluation)


def _step(model: nn.Module, batch: Any) -> float:
    """Seconds of a training step."""
    images, labels = batch
    optimizer = torch.optim.Adam(model.parameters())
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return median([timed(step, images.device) for _ in range(STEPS + 1)][1:])


def timed(action: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def table(costs: Sequence[tuple[Classification, Cost]], done: Sequence[Classification], workers: int) -> str:
    """What each kind of run will take and all together, as text."""
    rows: dict[str, list[float]] = {}
    for run, cost in costs:
        rows.setdefault(_name(run), []).append(seconds(run, cost))
    finished: dict[str, int] = {}
    for run in done:
        rows.setdefault(_name(run), [])
        finished[_name(run)] = finished.get(_name(run), 0) + 1
    width = max(map(len, rows), default=0)
    lines = [f"{'':{width}}  {'to do':>6}  {'done':>4}  {'a run':>12}  {'together':>12}"]
    for name, each in rows.items():
        one, together = (duration(sum(each) / len(each)), duration(sum(each))) if each else ("–", "–")
        lines.append(f"{name:{width}}  {len(each):6}  {finished.get(name, 0):4}  {one:>12}  {together:>12}")
    total = sum(map(sum, rows.values()))
    beside = f", {workers} side by side: about {duration(total / workers)}" if workers > 1 else ""
    return "\n".join([*lines, "", f"In all about {duration(total)}{beside}.", HOW])


def _name(run: Classification) -> str:
    pruned = f" {run.sparsity:g}" if prunes(earlycrop.get_method(run.method)) else ""
    return f"{run.data} {run.network} {run.method}{pruned}, {run.epochs} epochs"
