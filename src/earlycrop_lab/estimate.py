"""How long runs will take on this machine, before any is started: from a few steps of each network, dense and cut."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

import earlycrop
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import ScoringSet
from earlycrop.timing import AbstractCourse, AbstractDetector, AtEpoch, AtInit
from earlycrop.units import Channels
from earlycrop_lab.board import duration
from earlycrop_lab.tasks import prepare
from earlycrop_lab.tasks.description import Description, prunes, pruning_method
from earlycrop_lab.tasks.session import Scene, pruner_of

STEPS = 3
"""Steps that are timed, after one to warm up."""
PASSES = 4
"""Gradient passes over the scoring set that a score with data costs at most; docs/speed.md has what they cost."""

HOW = f"""\
Estimated from the median of {STEPS} training steps of each network, dense and after a random cut of its channels to \
the same sparsity. Masks are taken to save nothing, a detector to wait until its cap, a method of several cuts to be \
dense until the last, a score with data to cost {PASSES} gradient passes. Evaluation, loading the data and starting \
each process are in it. Runs with a result count nothing; runs that were cut off count in full."""


@dataclass(frozen=True)
class Cost:
    """What a run is made of, in seconds.

    Args:
        start: Its process, the data, the network.
        dense: A training epoch with all channels.
        sparse: The same with the channels that stay.
        cut: Tracing the network and taking channels out.
        scoring: A gradient pass over the scoring set.
        evaluation: Once over the test split.
    """

    start: float
    dense: float
    sparse: float
    cut: float
    scoring: float
    evaluation: float


def seconds(d: Description, cost: Cost) -> float:
    """How long a run takes that is made of such parts; rather too much than too little."""
    dense = dense_epochs(d)
    passes = 0
    if prunes(method := pruning_method(d)) and method.score.needs_data:
        passes = PASSES * len(method.steps.towards(d.sparsity))
    training = dense * cost.dense + (d.total_epochs - dense) * cost.sparse
    return cost.start + training + cost.cut + passes * cost.scoring + d.total_epochs * cost.evaluation


def dense_epochs(d: Description) -> float:
    """Epochs before the last cut, at most."""
    method = pruning_method(d)
    match method.timing:
        case AtInit():
            return 0
        case AtEpoch(epoch):
            return epoch
        case AbstractDetector() as detector:
            return detector.cap(d.budget)
        case AbstractCourse() as course:
            return course.moments(d.budget, len(method.steps.towards(d.sparsity)))[-1]
    return d.total_epochs


def measured(runs: Iterable[Description], root: str | None, device: str) -> Iterator[tuple[Description, Cost]]:
    """Each run with its cost; a network on its data is measured once, and cut once for each sparsity.

    Raises:
        ValueError: If a run's data, network and method do not fit together.
        OSError: If data cannot be had.
    """
    process = timed(lambda: subprocess.run([sys.executable, "-c", "import earlycrop_lab.apart"], check=True))
    known: dict[Description, Cost] = {}
    cuts: dict[Description, tuple[float, float]] = {}
    for run in runs:
        dense = replace(run.dense_twin(), seed=0)
        if dense not in known:
            known[dense] = _dense(dense, root, torch.device(device), process)
        cost = known[dense]
        if isinstance(pruning_method(run).units, Channels):
            shape = ("sparsity", "target", "round_to", "min_channels", "min_part")
            asked = {name: getattr(run, name) for name in shape}
            like = replace(dense, method="random-s", **asked)
            if like not in cuts:
                cuts[like] = _cut(like, root, torch.device(device), cost)
            cut, sparse = cuts[like]
            cost = replace(cost, cut=cut, sparse=sparse)
        yield run, cost


def _dense(d: Description, root: str | None, device: torch.device, process: float) -> Cost:
    """What all runs with this training share; masks cost no cut and save nothing."""
    start = time.perf_counter()
    scene = prepare(d, root, device)
    process += time.perf_counter() - start
    epoch = _epoch(scene, device)
    asking = timed(scene.scoring_now, device)
    step, samples = epoch / len(scene.batches), ScoringSet(scene.scoring_now()).samples
    return Cost(
        start=process,
        dense=epoch,
        sparse=epoch,
        cut=0.0,
        scoring=asking + step * samples / scene.batches.batch_size,
        evaluation=timed(lambda: scene.evaluate(scene.model), device),
    )


def _cut(d: Description, root: str | None, device: torch.device, cost: Cost) -> tuple[float, float]:
    """Seconds of the cut, and of an epoch after it."""
    scene = prepare(d, root, device)
    try:
        cut = timed(lambda: pruner_of(d, scene).check(0), device)
    except EarlyCropError:  # it cannot be cut so far at random: perhaps by another score; taken as dense
        return 0.0, cost.dense
    return cut, _epoch(scene, device)


def _epoch(scene: Scene, device: torch.device) -> float:
    """Seconds of training for an epoch: its steps, and having batches where it is an environment that gives them."""
    making = timed(lambda: [None for _ in scene.batches.epoch(0)], device) if scene.parts else 0.0
    return making + len(scene.batches) * _step(scene, device)


def _step(scene: Scene, device: torch.device) -> float:
    """Seconds of a training step."""
    batch = next(scene.batches.epoch(0))
    optimizer = torch.optim.Adam(scene.model.parameters())
    scene.model.train()

    def step() -> None:
        optimizer.zero_grad()
        scene.loss(scene.model, batch).backward()
        optimizer.step()

    return median([timed(step, device) for _ in range(STEPS + 1)][1:])


def timed(action: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def table(costs: Sequence[tuple[Description, Cost]], done: Sequence[Description], workers: int) -> str:
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


def _name(run: Description) -> str:
    pruned = f" {run.sparsity:g}" if prunes(earlycrop.get_method(run.method)) else ""
    return f"{run.data} {run.network} {run.method}{pruned}, {run.epochs} epochs"
