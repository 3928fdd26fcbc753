"""When to prune.

    watched  train one dense network at a constant rate, observed by every detector: when would each have pruned?
    swept    prune at one epoch after another: which was the best, and how far from it is each detector's choice?

Both return records; `moment_figures` draws them.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median

import torch
from torch import Tensor

import earlycrop
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import MeanLoss
from earlycrop.kernel import empirical_ntk
from earlycrop.timing import (
    AbstractDetector,
    AtInit,
    EarlyBird,
    LazyRegime,
    Now,
    NtkSettled,
    RateSettled,
    ScoreSettled,
)
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.session import pruner_of
from earlycrop_lab.why.branches import grown

RULES: dict[str, tuple[AbstractDetector, str]] = {
    "lazy regime": (LazyRegime(), "earlycrop-s"),
    "lazy regime, unsquared": (LazyRegime(power=1), "earlycrop-s"),
    "authors' code": (LazyRegime(power=1, reference="epoch1", params="all"), "earlycrop-s"),
    "rate settled": (RateSettled(), "earlycrop-s"),
    "score settled": (ScoreSettled(), "earlycrop-s"),
    "kernel settled": (NtkSettled(), "earlycrop-s"),
    "early bird": (EarlyBird(penalty=0.0), "earlybird"),
}
"""Each rule, and the method whose pruner it observes."""


@dataclass(frozen=True)
class Watch:
    """What one rule observed in a dense training.

    Args:
        rule: Its name.
        epochs: The epochs at which its instrument gave a value.
        seen: The values of its instrument.
        signal: The signal that must become small; nan while it is undefined.
        threshold: The threshold below which the signal counts as small.
        chosen: The first epoch at which it would have pruned without its cap; None if it never would.
        seconds: Median seconds of an observation.
    """

    rule: str
    epochs: tuple[float, ...]
    seen: tuple[float, ...]
    signal: tuple[float, ...]
    threshold: float
    chosen: float | None
    seconds: float


@dataclass(frozen=True)
class Watched:
    """A dense training at a constant rate.

    Args:
        epochs: The epochs of the observations: 0 and the end of each epoch.
        norm: ‖θ‖ over the prunable weights.
        drift: ‖θ(t) − θ(0)‖ / ‖θ(0)‖.
        from_start: ‖K(t) − K(0)‖_F / ‖K(0)‖_F of the empirical neural tangent kernel.
        pace: ‖K(t) − K(t−1)‖_F / ‖K(t−1)‖_F; nan at 0.
        rules: What each rule observed.
    """

    epochs: tuple[int, ...]
    norm: tuple[float, ...]
    drift: tuple[float, ...]
    from_start: tuple[float, ...]
    pace: tuple[float, ...]
    rules: tuple[Watch, ...]


def watched(d: Classification, *, samples: int = 8, root: str | None = None, device: str = "cpu") -> Watched:
    """Train the dense network of a description, observed by every rule that applies to it; nothing is pruned.

    Args:
        d: The network, the data, the seed, the epochs, and the sparsity for which the rules decide.
        samples: Training samples in the kernel.
        root: The folder of the data sets.
        device: The device to train on.
    """
    pruners: dict[str, earlycrop.Pruner] = {}
    instruments = {}
    looks: dict[str, list[tuple[int, float]]] = {rule: [] for rule in RULES}
    seconds: dict[str, list[float]] = {rule: [] for rule in RULES}
    start: dict[str, Tensor] = {}
    norms, drifts, kernels = [], [], []
    for stem in grown(d, d.epochs, root, device):
        epoch, setup = stem.epoch, stem.setup
        if not pruners:
            for rule, (detector, name) in RULES.items():
                method = replace(earlycrop.get_method(name), timing=AtInit())
                if name not in pruners:
                    try:
                        pruners[name] = pruner_of(d, setup, method=method)
                    except EarlyCropError:
                        if method.score.needs_norms:
                            continue  # the network may have none
                        raise
                instruments[rule] = detector.instrument(pruners[name])
            for one in pruners.values():
                one.choose()  # widths are decided before training
            start = {name: p.detach().clone() for name, p in pruners["earlycrop-s"].parameters("prunable").items()}
        now = pruners["earlycrop-s"].parameters("prunable")
        norms.append(_norm([p.detach() for p in now.values()]))
        drifts.append(_norm([p.detach() - start[name] for name, p in now.items()]) / norms[0])
        kernels.append(
            empirical_ntk(
                MeanLoss(setup.model, setup.loss, setup.scoring_now()), list(setup.model.parameters()), samples
            )
        )
        for rule in instruments if epoch else ():
            began = time.perf_counter()
            value = instruments[rule].read(epoch)
            seconds[rule].append(time.perf_counter() - began)
            if value is not None:
                looks[rule].append((epoch, value))
    changes = [_relative(kernel, kernels[0]) for kernel in kernels]
    pace = [math.nan, *(_relative(b, a) for a, b in pairwise(kernels))]
    rules = tuple(_watch(rule, looks[rule], median(seconds[rule]), d.highest) for rule in instruments)
    epochs = tuple(range(len(norms)))
    return Watched(epochs, tuple(norms), tuple(drifts), tuple(changes), tuple(pace), rules)


def _watch(rule: str, looks: Sequence[tuple[int, float]], seconds: float, sparsity: float) -> Watch:
    detector, _ = RULES[rule]
    values = [value for _, value in looks]
    chosen = None
    for count, (epoch, _) in enumerate(looks, start=1):
        if detector.reason(Now(epoch, curve=values[:count], sparsity=sparsity)) is not None:
            chosen = float(epoch)
            break
    return Watch(
        rule=rule,
        epochs=tuple(float(epoch) for epoch, _ in looks),
        seen=tuple(values),
        signal=tuple(detector.signal(values)),
        threshold=detector.threshold(sparsity),
        chosen=chosen,
        seconds=seconds,
    )


@dataclass(frozen=True)
class Moment:
    """How good a rule's choice of the epoch was.

    Args:
        rule: Its name.
        epoch: The swept epoch nearest to its choice.
        reason: `trigger`, or `cap` if its cap came before its signal fired.
        accuracy: Test accuracy after pruning at that epoch, as the mean over the seeds.
        behind: How much lower that is than at the best swept epoch.
        seconds: Median seconds of an observation.
    """

    rule: str
    epoch: float
    reason: str
    accuracy: float
    behind: float
    seconds: float


def swept(results: Sequence[Result], seen: Watched) -> tuple[dict[float, list[float]], list[Moment]]:
    """Test accuracies by the epoch of pruning, and how good each rule's choice would have been.

    Args:
        results: Runs that differ only in `prune_at` and the seed.
        seen: The dense training of the same description.

    Raises:
        ValueError: There is no run, or they differ in something else.
    """
    kinds = {replace(result.description, prune_at=0.0, seed=0) for result in results}
    if len(kinds) != 1 or any(result.description.prune_at is None for result in results):
        raise ValueError("A sweep is made of runs that differ in prune_at and the seed alone.")
    accuracies: dict[float, list[float]] = {}
    for result in sorted(results, key=lambda r: (r.description.prune_at, r.description.seed)):
        assert result.description.prune_at is not None
        accuracies.setdefault(result.description.prune_at, []).append(result.figure)
    means = {epoch: fmean(values) for epoch, values in accuracies.items()}
    best = max(means.values())
    moments = []
    for watch in seen.rules:
        detector, _ = RULES[watch.rule]
        cap = math.ceil(detector.cap(results[0].description.epochs))
        wanted = cap if watch.chosen is None else min(watch.chosen, cap)
        reason = "trigger" if wanted == watch.chosen else "cap"
        epoch = min(means, key=lambda e: (abs(e - wanted), e))
        moments.append(Moment(watch.rule, epoch, reason, means[epoch], best - means[epoch], watch.seconds))
    return accuracies, moments


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _relative(after: Tensor, before: Tensor) -> float:
    return float(torch.linalg.norm((after - before).double()) / torch.linalg.norm(before.double()))
