"""Everything that only a GPU can answer, one command after another, each with a limit of time and a log of its own.

    python -m benchmarks.gpu [--out gpu] [--data-root data] [--only NAME ...] [--rehearse]

The figures go to results/benchmarks/NAME-gpu.json, the runs of Table A and all logs to --out. What is cut off by its
limit keeps what it has written. `--rehearse` runs the same commands with small numbers, on the CPU too.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROWS = "dense earlycrop-s crop-s snap random-s earlycrop-s-random earlybird earlycrop-u snip"
TABLE_A = (
    f"earlycrop_lab compare --networks vgg16-paper --data tiny-imagenet --methods {ROWS} --sparsities 0.98 "
    "--precision bfloat16 --channels-last --compiled"
)

COMMANDS = {  # name: (seconds, command, what it is given as well at full size, and in a rehearsal)
    "tests": (90, "pytest -m gpu tests -rA -q", "", ""),
    "scoring": (60, "benchmarks.scoring_cost", "--samples 512 --batch 128", "--samples 4 --batch 2 --repeats 1"),
    "steps": (180, "benchmarks.fast_steps", "--widths 64", "--widths 16 --batch 4 --rounds 1"),
    "large": (90, "benchmarks.large", "--group-width 48", "--group-width 16 --samples 2 --batch 2"),
    "table-a": (
        420,
        TABLE_A,
        "--seeds 2 --epochs 16 --batch-size 256 --workers 4",
        "--seeds 1 --epochs 2 --batch-size 4 --width 16 --max-steps 1",
    ),
}
"""In the order of what a reader misses most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    surroundings = {**os.environ, "EARLYCROP_DATA": asked.data_root, "PYTHONUNBUFFERED": "1"}
    for name in asked.only:
        limit, command, full, small = COMMANDS[name]
        words = [sys.executable, "-m", *command.split(), *(small if asked.rehearse else full).split()]
        if name == "table-a":
            words += ["--out", str(asked.out / name)]
        began = time.perf_counter()
        with (asked.out / f"{name}.log").open("w") as log:
            try:
                done = subprocess.run(
                    words, env=surroundings, stdout=log, stderr=log, timeout=None if asked.rehearse else limit
                )
                code = done.returncode
            except subprocess.TimeoutExpired:
                code = "cut off"
        print(f"{name}: {code} after {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
