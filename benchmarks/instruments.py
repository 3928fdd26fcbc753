"""What the laboratory's instruments cost: process time (all threads) of a run with them, over one without.

Interleaved pairs of the same dense training in one process: once as it is, once with meters and power tracker that do
nothing. The setting up of the tracker, once a run, is told apart from what they take while training goes on.

    python -m benchmarks.instruments [--pairs 10] [--epochs 6]
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import Any

import torch
from scipy import stats

from benchmarks.record import write
from earlycrop_lab.measure.emissions import Emissions
from earlycrop_lab.measure.meters import Meters
from earlycrop_lab.tasks import session
from earlycrop_lab.tasks.classification import Classification, train


class Blind(Meters):
    """Meters that count steps and measure nothing of them."""

    @contextmanager
    def step(self, phase: str, *batch: torch.Tensor) -> Iterator[None]:
        self.taken += 1
        yield


class Nobody:
    """A tracker that is not there."""

    emissions = Emissions(None, None, "DEU", 1.0, "not measured")

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Nobody":
        return self

    def __exit__(self, *_: object) -> None: ...


def seconds(d: Classification, measured: bool) -> float:
    """Process time of a training."""
    kept = session.Meters, session.Tracker
    if not measured:
        session.Meters, session.Tracker = Blind, Nobody  # type: ignore[misc, assignment]
    start = time.process_time()
    try:
        train(d)
    finally:
        session.Meters, session.Tracker = kept
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    d = Classification(method="dense", data="digits", epochs=arguments.epochs)
    seconds(d, True)  # everything is loaded
    start = time.process_time()
    with session.Tracker("DEU", 1.0):
        pass
    setting_up = time.process_time() - start
    rows, shares = [], []
    for pair in range(arguments.pairs):
        order = (True, False) if pair % 2 else (False, True)
        found = {measured: seconds(d, measured) for measured in order}
        shares.append(found[True] / found[False] - 1)
        rows.append({"with_seconds": found[True], "without_seconds": found[False], "share": shares[-1]})
    half = stats.t.ppf(0.975, len(shares) - 1) * stdev(shares) / len(shares) ** 0.5
    write(
        "instruments",
        rows,
        run=repr(d),
        n=len(shares),
        mean_share=fmean(shares),
        interval_95=[fmean(shares) - half, fmean(shares) + half],
        tracker_setting_up_seconds=setting_up,
    )


if __name__ == "__main__":
    main()
