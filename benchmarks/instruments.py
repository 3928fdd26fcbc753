"""What the laboratory's instruments cost: the process time (all threads) of a run with them over that of one without.

The runs are interleaved pairs of the same dense training, each in its own process, as in `earlycrop compare`: once as
it is, and once with meters, power tracker and timing of inference that do nothing. Time is counted from the beginning
of the run to its end, including evaluations and CodeCarbon's imports, but not the import of PyTorch.

    python -m benchmarks.instruments [--pairs 10] [--epochs 20]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import nan
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
    """Meters that count steps but measure nothing."""

    @contextmanager
    def step(self, phase: str, *batch: torch.Tensor) -> Iterator[None]:
        self.taken += 1
        yield


class Nobody:
    """A power tracker that does nothing."""

    emissions = Emissions(None, None, "DEU", 1.0, "not measured")

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "Nobody":
        return self

    def __exit__(self, *_: object) -> None: ...


def seconds(d: Classification, measured: bool) -> float:
    """The process time, in seconds, of a training in this process."""
    if not measured:
        session.Meters, session.Tracker = Blind, Nobody  # type: ignore[misc, assignment]
        session.inference = lambda *_: nan
    start = time.process_time()
    train(d)
    return time.process_time() - start


def alone(epochs: int, measured: bool) -> float:
    """The same, run in a new process."""
    how = ["--alone", "with" if measured else "without", "--epochs", str(epochs)]
    command = [sys.executable, "-m", "benchmarks.instruments", *how]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--alone", choices=("with", "without"), help="one run in this process; prints its seconds")
    arguments = parser.parse_args()
    d = Classification(method="dense", data="digits", epochs=arguments.epochs)
    if arguments.alone:
        print(seconds(d, arguments.alone == "with"))
        return
    rows, shares = [], []
    for pair in range(arguments.pairs):
        order = (True, False) if pair % 2 else (False, True)
        found = {measured: alone(arguments.epochs, measured) for measured in order}
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
    )


if __name__ == "__main__":
    main()
