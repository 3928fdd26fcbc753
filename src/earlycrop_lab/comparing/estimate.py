"""How long runs will take on this machine, estimated before any starts, from a few steps of each network."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

import earlycrop
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import MeanLoss
from earlycrop.scores import NtkSap, SynFlow
from earlycrop.timing import AbstractDetector, AbstractPruningSchedule, AtEpoch, AtInit
from earlycrop.units import Channels
from earlycrop.widths import WidthsOf
from earlycrop_lab.comparing.dashboard import duration
from earlycrop_lab.tasks import prepare
from earlycrop_lab.tasks.description import Description, prunes, pruning_method
from earlycrop_lab.tasks.session import Setup, pruner_of

BOUNDED = 7
"""Scorings assumed for steps of bounded size, an upper estimate: 4 to 7 on the networks that we tried."""
STEPS = 3
"""Training steps that are timed, after one to warm up."""
PASSES = 4
"""Gradient passes over the scoring set that a score with data costs at most; docs/speed.md has the measurements."""
NETWORKS = 3
"""Gradient passes per draw of NTK-SAP: two networks at once, and before them one pass for its norms' statistics."""

HOW = f"""\
Estimated from the median of {STEPS} training steps of each network after a random cut of its channels to the same \
sparsity, and dense, if a run has a dense phase or masks. The estimate assumes that masks save nothing, that a \
detector waits until its cap, and that a method of several cuts is dense until the last; that at each cut a score with \
data costs {PASSES} gradient passes, SynFlow {PASSES} of one sample, NTK-SAP {NETWORKS} over each of its draws. It \
includes evaluation, loading the data and starting each process. Runs with a result count nothing; interrupted runs \
count in full."""


@dataclass(frozen=True)
class Cost:
    """The parts of a run's time, in seconds.

    Args:
        start: Starting the process, loading the data, making the network.
        scoring: A gradient pass over the scoring set.
        sample: The share of one sample in that pass.
        evaluation: One evaluation on the test split.
        dense: A training epoch with all channels; 0 where no run has one.
        sparse: A training epoch with the channels that stay.
        cut: Tracing the network and removing channels.
    """

    start: float
    scoring: float
    sample: float
    evaluation: float
    dense: float = 0.0
    sparse: float = 0.0
    cut: float = 0.0


def seconds(d: Description, cost: Cost) -> float:
    """How long a run of this cost takes, in seconds; an upper estimate."""
    dense, method = dense_epochs(d), pruning_method(d)
    cuts = scorings(method, d.highest) if prunes(method) else 0
    training = dense * cost.dense + (d.total_epochs - dense) * cost.sparse
    return cost.start + training + cost.cut + cuts * _scored(method, cost) + d.total_epochs * cost.evaluation


def scorings(method: earlycrop.Method, sparsity: float) -> int:
    """How often a method scores: before each of its steps, or each of the steps that decide its widths."""
    steps = method.allocation.steps if isinstance(method.allocation, WidthsOf) else method.steps
    times = len(steps.towards(sparsity)) if steps.most is None else BOUNDED
    spread = isinstance(method.allocation, WidthsOf) and method.allocation.taken == "cut"
    return times * len(method.steps.towards(sparsity)) if spread else times


def _scored(method: earlycrop.Method, cost: Cost) -> float:
    """Seconds to score all units once."""
    match method.score:
        case NtkSap(resamplings=draws, batch_size=samples):
            return NETWORKS * draws * samples * cost.sample
        case SynFlow():
            return PASSES * cost.sample
    return PASSES * cost.scoring if any(score.needs_data for score in method.scores) else 0.0


def dense_epochs(d: Description) -> float:
    """The greatest number of epochs before the last cut."""
    method = pruning_method(d)
    match method.timing:
        case AtInit():
            return 0
        case AtEpoch(epoch):
            return epoch
        case AbstractDetector() as detector:
            return detector.cap(d.budget)
        case AbstractPruningSchedule() as course:
            return course.moments(d.budget, len(method.steps.towards(d.highest)))[-1]
    return d.total_epochs


def measured(runs: Iterable[Description], root: str | None, device: str) -> Iterator[tuple[Description, Cost | str]]:
    """Each run with its cost, or the reason why it cannot be measured here, most often too little memory.

    A network on its data is measured once, with all channels only if a run trains so, and cut once for each sparsity.

    Raises:
        ValueError: A run's data, network and method do not fit together.
        OSError: The data cannot be read or downloaded.
    """
    bench = _Bench(root, torch.device(device))
    for run in runs:
        yield run, bench.cost(run)


Parts = dict[str, float]
"""Some of the fields of a `Cost`."""


class _Bench:
    """Measures the parts of runs, each part once."""

    def __init__(self, root: str | None, device: torch.device):
        self.root, self.device = root, device
        self.process = timed(
            lambda: subprocess.run([sys.executable, "-c", "import earlycrop_lab.comparing.isolation"], check=True)
        )
        self._known: dict[tuple[Any, Description], Parts | str] = {}

    def cost(self, run: Description) -> Cost | str:
        """The cost of a run, or the reason why it cannot be measured."""
        dense, channels = replace(run.dense_twin(), seed=0), isinstance(pruning_method(run).units, Channels)
        found = [self._once(_around, dense)]
        if dense_epochs(run) or not channels:
            found.append(self._once(_dense, dense))
        if channels:
            shape = ("sparsity", "part", "target", "round_to", "min_channels", "min_part")
            found.append(self._once(_cut, replace(dense, method="random-s", **{n: getattr(run, n) for n in shape})))
        parts = {"start": 0.0}
        for each in found:
            if isinstance(each, str):
                return each
            parts |= each
        return Cost(**{**parts, "start": parts["start"] + self.process})

    def _once(self, measure: Callable[[Description, str | None, torch.device], Parts], d: Description) -> Parts | str:
        if (measure, d) not in self._known:
            try:
                self._known[measure, d] = measure(d, self.root, self.device)
            except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError, on a CPU a plain RuntimeError
                self._known[measure, d] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return self._known[measure, d]


def _around(d: Description, root: str | None, device: torch.device) -> Parts:
    """The parts that are the same for all runs with this training, whatever the method."""
    start = time.perf_counter()
    setup = prepare(d, root, device)
    start = time.perf_counter() - start
    asking = timed(setup.scoring_now, device)
    loss = MeanLoss(setup.model, setup.loss, setup.scoring_now(), micro_batch=setup.micro_batch)
    sample = _gradient(setup, *next(loss.batches()), device)
    evaluation = timed(lambda: setup.evaluate(setup.model), device)
    return {
        "start": start,
        "scoring": asking + loss.samples * sample,
        "sample": sample,
        "evaluation": evaluation,
    }


def _dense(d: Description, root: str | None, device: torch.device) -> Parts:
    """Seconds of an epoch with all channels; masks cost no cut and save nothing."""
    epoch = _epoch(prepare(d, root, device), device)
    return {"dense": epoch, "sparse": epoch}


def _cut(d: Description, root: str | None, device: torch.device) -> Parts:
    """Seconds of the cut, and of an epoch after it."""
    setup, cut = prepare(d, root, device), 0.0
    with suppress(EarlyCropError):  # a random cut this deep fails, though another score's may not: timed as dense
        cut = timed(lambda: pruner_of(d, setup).check(0), device)
    return {"cut": cut, "sparse": _epoch(setup, device)}


def _gradient(setup: Setup, batch: Any, samples: int, device: torch.device) -> float:
    """Seconds per sample of a gradient pass over one scoring batch, before there is an optimizer."""
    leaves = [parameter for parameter in setup.model.parameters() if parameter.requires_grad]
    with MeanLoss(setup.model, setup.loss, [batch], bn_mode="running").scoring(leaves):
        return (
            _median(lambda: torch.autograd.grad(setup.loss(setup.model, batch), leaves, allow_unused=True), device)
            / samples
        )


def _epoch(setup: Setup, device: torch.device) -> float:
    """Seconds of one training epoch: its steps, and collecting its batches where they come from an environment."""
    making = timed(lambda: [None for _ in setup.batches.epoch(0)], device) if setup.parts else 0.0
    return making + len(setup.batches) * _step(setup, device)


def _step(setup: Setup, device: torch.device) -> float:
    """Seconds of one training step."""
    batch = next(setup.batches.epoch(0))
    optimizer = torch.optim.Adam(setup.model.parameters())
    setup.model.train()

    def step() -> None:
        optimizer.zero_grad()
        setup.loss(setup.model, batch).backward()
        optimizer.step()

    return _median(step, device)


def _median(action: Callable[[], Any], device: torch.device) -> float:
    return median([timed(action, device) for _ in range(STEPS + 1)][1:])


def timed(action: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def table(costs: Sequence[tuple[Description, Cost | str]], done: Sequence[Description], workers: int) -> str:
    """The time of each kind of run and of all together, as text; below it, what could not be measured and why."""
    kinds = dict.fromkeys(_name(run) for run in [*(run for run, _ in costs), *done])
    stated = {
        kind: [seconds(d, cost) for d, cost in costs if isinstance(cost, Cost) and _name(d) == kind] for kind in kinds
    }
    untold = {_name(run): why for run, why in costs if isinstance(why, str)}
    width = max(map(len, kinds), default=0)
    lines = [f"{'':{width}}  {'to do':>6}  {'done':>4}  {'a run':>12}  {'together':>12}"]
    for kind, each in stated.items():
        todo, finished = (sum(_name(run) == kind for run in runs) for runs in ([run for run, _ in costs], done))
        one, together = (duration(sum(each) / len(each)), duration(sum(each))) if each else ("–", "–")
        lines.append(f"{kind:{width}}  {todo:6}  {finished:4}  {one:>12}  {together:>12}")
    total = sum(map(sum, stated.values()))
    beside = f", {workers} side by side: about {duration(total / workers)}" if workers > 1 else ""
    without = ", without those that could not be measured here" if untold else ""
    lacking = [f"{kind} could not be measured here: {why}" for kind, why in untold.items()]
    return "\n".join([*lines, "", f"In all about {duration(total)}{beside}{without}.", *lacking, HOW])


def _name(run: Description) -> str:
    pruned = f" {run.sparsity:g}" if prunes(earlycrop.get_method(run.method)) else ""
    return f"{run.data} {run.network} {run.method}{pruned}, {run.epochs} epochs"
