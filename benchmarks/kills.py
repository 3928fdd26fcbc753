"""kill -9 at random moments of `earlycrop train`: is any run lost, any number changed, any file spoilt?

    python benchmarks/kills.py --kills 100

Each method is first trained without interruption. Then it is trained anew in an empty folder, again and again killed
and started again with the same command, until it has its result; then result, model and last checkpoint are compared
with those of the run that was never killed, bit for bit (times, energy and memory apart). After every kill each file in
the folder has to load. A third of the kills fall anywhere in the run's duration; the others wait for a phase to begin
(scoring, cutting, writing, …) and fall within it or just behind it.

This process has torch loaded and forks; each child runs the command's own `main`, and it is the child that is killed.
"""

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import codecarbon  # noqa: F401 - loaded once here and not in every child
import sklearn.datasets  # noqa: F401
import torch
from record import table, write

import earlycrop
from earlycrop import files, load_state
from earlycrop.units import ChannelUnits, WeightUnits
from earlycrop_lab import checkpoints, cli, runs
from earlycrop_lab.tasks import classification

METHODS = ("earlycrop-s", "earlycrop-u", "crop-s", "dense")
OPTIONS = ("--network=lenet", "--width=8", "--epochs=5", "--train-size=256", "--batch-size=64", "--learning-rate=0.01")
MOST = 8
"""Kills of one run; after them it may end."""

PHASES = (
    "setting up",
    "restoring",
    "watching",
    "scoring",
    "cutting",
    "training step",
    "evaluating",
    "saving a checkpoint",
    "writing its bytes",
    "waiting for the disk",
    "writing the model",
    "writing the result",
    "drawing",
)
phase = mmap.mmap(-1, 1)
"""The number of the child's phase, which the parent reads while it lives and after its death."""


def mark(name: str, where: Any, attribute: str) -> None:
    """From now on a call of that function or method is that phase."""
    function = getattr(where, attribute)

    @wraps(function)
    def marked(*args: Any, **options: Any) -> Any:
        before, phase[0] = phase[0], PHASES.index(name)
        try:
            return function(*args, **options)
        finally:
            phase[0] = before

    setattr(where, attribute, marked)


def mark_all() -> None:
    """In a child, which is alone with it."""
    for name, where, attribute in (
        ("restoring", checkpoints.Checkpoints, "restore"),
        ("watching", earlycrop.Pruner, "check"),
        ("scoring", earlycrop.Pruner, "_scores"),
        ("cutting", ChannelUnits, "keep_only"),
        ("cutting", WeightUnits, "keep_only"),
        ("training step", torch.Tensor, "backward"),
        ("training step", torch.optim.Adam, "step"),
        ("evaluating", classification, "evaluate"),
        ("saving a checkpoint", checkpoints.Checkpoints, "save"),
        ("writing its bytes", files, "_bytes"),
        ("waiting for the disk", os, "fsync"),
        ("writing the model", earlycrop, "save"),
        ("writing the result", runs, "write"),
        ("drawing", cli, "draw"),
    ):
        mark(name, where, attribute)


def start(method: str, out: Path) -> int:
    """A child that runs the command; its process number."""
    phase[0] = 0
    child = os.fork()
    if child:
        return child
    try:
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        mark_all()
        discard = checkpoints.Checkpoints.discard

        def keeping(self: checkpoints.Checkpoints) -> None:
            if (last := self.folder / checkpoints.CHECKPOINT).exists():
                shutil.copy(last, out.with_suffix(".last"))
            discard(self)

        checkpoints.Checkpoints.discard = keeping
        os._exit(cli.main(["train", f"--method={method}", *OPTIONS, f"--out={out}"]))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(70)


def ended(child: int) -> bool:
    """Whether it has ended by itself."""
    found, status = os.waitpid(child, os.WNOHANG)
    if found and (code := os.waitstatus_to_exitcode(status)) != 0:
        raise RuntimeError(f"the command ended with {code}")
    return bool(found)


def wait(child: int, until: Callable[[], bool]) -> bool:
    """Wait for a moment; whether it came before the child's end."""
    while not until():
        if ended(child):
            return False
        time.sleep(0.0005)
    return not ended(child)


def kill(child: int) -> str:
    """Kill it; in which phase it died."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return PHASES[phase[0]]


def outcome(out: Path) -> dict[str, Any]:
    """What may not depend on how often a run was killed."""
    (folder,) = out.iterdir()
    result = json.loads((folder / "result.json").read_text())
    times = ("seconds", "milliseconds", "timed", "bytes", "grams_co2", "kwh", "attempts")
    last = load_state(out.with_suffix(".last"))
    return {
        "epochs": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result["epochs"]],
        "report": {k: v for k, v in (result["report"] or {}).items() if k != "seconds"},
        "columns": {k: v for k, v in result["columns"].items() if not k.endswith(times)},
        "model": (folder / "model.safetensors").read_bytes(),
        "random": [each["torch"] for each in last["random"]],  # nobody draws from the others, which are not seeded
        **{name: last["parts"][name] for name in ("model", "optimizer", "schedule")},
        "pruner": {k: v for k, v in last["parts"]["pruner"].items() if k != "report"},
    }


def same(a: Any, b: Any) -> bool:
    """To the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def spoilt(out: Path) -> list[str]:
    """The files that do not load, those apart that are still being written."""
    found = []
    for path in out.glob("*/*"):
        try:
            match path.name:
                case _ if files.partial(path):
                    continue
                case checkpoints.CHECKPOINT:
                    load_state(path)
                case runs.MODEL:
                    files.read(path, "earlycrop-2")
                case runs.RESULT:
                    runs.read(path.parent)
                case checkpoints.ATTEMPTS:
                    json.loads(path.read_text() or "{}")
                case _:
                    whole = path.read_bytes()
                    assert whole.startswith(b"\x89PNG")
                    assert whole[-8:-4] == b"IEND"
        except (ValueError, OSError, AssertionError) as error:
            found.append(f"{path}: {error}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, as far as the machine repeats them")
    parser.add_argument("--dry", action="store_true", help="print, and keep no file under results/benchmarks")
    options = parser.parse_args()
    chance, began = random.Random(options.seed), time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))

    wholes, seconds = {}, {}
    for method in options.methods:
        out, start_ = folder / f"{method}-whole", time.perf_counter()
        child = start(method, out)
        while not ended(child):
            time.sleep(0.005)
        wholes[method], seconds[method] = outcome(out), time.perf_counter() - start_

    phases: Counter[str] = Counter()
    rows = {m: {"method": m, "seconds": seconds[m], "kills": 0, "runs": 0, "identical": 0} for m in options.methods}
    faults: list[str] = []
    litter = number = 0
    while sum(phases.values()) < options.kills:
        method, number = options.methods[number % len(options.methods)], number + 1
        out, killed = folder / f"{method}-{number}", 0
        while True:
            child, aim = start(method, out), chance.choice(PHASES[1:]) if chance.random() < 2 / 3 else None
            if killed >= MOST or sum(phases.values()) >= options.kills:
                alive = wait(child, lambda: False)
            elif aim is None:
                moment = time.perf_counter() + chance.uniform(0, seconds[method])
                alive = wait(child, lambda moment=moment: time.perf_counter() >= moment)
            else:
                alive = wait(child, lambda aim=aim: PHASES[phase[0]] == aim)
                time.sleep(chance.choice([0, chance.uniform(0, 0.004)]))
                alive = alive and not ended(child)
            if not alive:
                break
            phases[kill(child)] += 1
            killed += 1
            rows[method]["kills"] += 1
            litter += sum(map(files.partial, out.glob("*/*")))
            faults += spoilt(out)
        found = outcome(out)
        differing = [name for name in wholes[method] if not same(found[name], wholes[method][name])]
        faults += [f"{out}: {name} differs" for name in differing]
        left = sorted(path.name for path in next(out.iterdir()).iterdir())
        expected = sorted(path.name for path in next((folder / f"{method}-whole").iterdir()).iterdir())
        faults += [f"{out}: {left} are left instead of {expected}"] * (left != expected)
        rows[method]["runs"] += 1
        rows[method]["identical"] += not differing

    by_phase = [{"killed while": name, "kills": phases[name]} for name in PHASES]
    more = {
        "options": OPTIONS,
        "seed": options.seed,
        "kills": sum(phases.values()),
        "phases": by_phase,
        "half-written files found after a kill, all gone at the end": litter,
        "faults": faults,
        "seconds": time.perf_counter() - began,
    }
    if options.dry:
        table(list(rows.values()))
    else:
        write("kills", list(rows.values()), **more)
    table(by_phase)
    print(f"{sum(phases.values())} kills in {more['seconds']:.0f} s, {len(faults)} faults; {litter} half-written files")
    print(*faults, sep="\n")
    if not faults:
        shutil.rmtree(folder)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
