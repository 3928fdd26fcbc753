"""What all benchmarks share: interleaved timing, a table, and a file with the numbers and their origin."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from earlycrop_lab.measure.hardware import environment, find_device, load

DEVICE = torch.device(find_device("auto"))
"""Where benchmarks run: a CUDA GPU if there is one."""

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round.

    All pieces run in every round, so that other load on the machine affects all alike. Ratios are taken within a round:
    see `ratio`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(warm + repeats):
        for name, work in works.items():
            began = clock()
            work()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= warm:
                seconds[name].append(clock() - began)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The median, least and greatest ratio of two pieces of work within a round, and the number of rounds."""
    ratios = [a / b for a, b in zip(seconds, base, strict=True)]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios), "n": len(ratios)}


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as a table."""
    heads = list(rows[0])
    cells = [heads, *([f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(heads))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Print the rows and write them to results/benchmarks/NAME.json, with command, hardware, threads and load.

    What was measured on a GPU goes to NAME-gpu.json.
    """
    table(rows)
    command = shlex.join(["python", *sys.orig_argv[1:]])
    record = {"command": command, **more, **environment(DEVICE), "load_after": load(), "rows": list(rows)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / (f"{name}.json" if DEVICE.type == "cpu" else f"{name}-gpu.json")
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
