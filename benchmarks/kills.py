"""kill -9 at random moments of `earlycrop train`: is any run lost, any number changed, any file damaged?

    python benchmarks/kills.py --kills 100

Each method is first trained without interruption. Then it is trained again in an empty folder, killed and restarted
with the same command again and again, until it has its result; then result, model and last checkpoint are compared bit
for bit with those of the run that was never killed (except for times, energy and memory). After every kill each file in
the folder must load. A third of the kills fall anywhere in the run's duration; the others wait for a phase to begin
(scoring, cutting, writing, …) and fall within it or just after it.

This process loads torch and forks; each child runs the command's own `main`, and only children are killed.
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
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import codecarbon  # noqa: F401 - loaded once here, rather than in every child
import sklearn.datasets  # noqa: F401
import torch
from record import table, write

import earlycrop
from earlycrop import files, load_state
from earlycrop.scoring import Scorer
from earlycrop.units import ChannelUnits, WeightUnits
from earlycrop_lab import checkpoints, cli, runs
from earlycrop_lab.tasks import classification
from earlycrop_lab.verbs import showing as verb

METHODS = ("earlycrop-s", "earlycrop-u", "crop-s", "dense")
OPTIONS = ("--network=lenet", "--width=8", "--epochs=5", "--train-size=256", "--batch-size=64", "--learning-rate=0.01")
MOST = 8
"""The most kills of one run; after them it may finish."""

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
"""The number of the child's phase, in shared memory: the parent reads it while the child lives and after its death."""


def mark(name: str, where: Any, attribute: str) -> None:
    """Make every call of a function or method, from now on, the phase of that name."""
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
    """Mark all phases; called in a child, since it replaces the library's functions."""
    for name, where, attribute in (
        ("restoring", checkpoints.Checkpoints, "restore"),
        ("watching", earlycrop.Pruner, "check"),
        ("scoring", Scorer, "scores"),
        ("cutting", ChannelUnits, "keep_only"),
        ("cutting", WeightUnits, "keep_only"),
        ("training step", torch.Tensor, "backward"),
        ("training step", torch.optim.Adam, "step"),
        ("evaluating", classification, "accuracy"),
        ("saving a checkpoint", checkpoints.Checkpoints, "save"),
        ("writing its bytes", files, "_bytes"),
        ("waiting for the disk", os, "fsync"),
        ("writing the model", earlycrop, "save"),
        ("writing the result", runs, "write"),
        ("drawing", verb, "draw"),
    ):
        mark(name, where, attribute)


def start(method: str, out: Path) -> int:
    """Fork a child that runs the command; return its process number."""
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
    """Whether a child has ended by itself.

    Raises:
        RuntimeError: it ended with an error.
    """
    found, status = os.waitpid(child, os.WNOHANG)
    if found and (code := os.waitstatus_to_exitcode(status)) != 0:
        raise RuntimeError(f"the command ended with exit code {code}")
    return bool(found)


def wait(child: int, until: Callable[[], bool]) -> bool:
    """Wait until a condition holds; whether it did before the child ended."""
    while not until():
        if ended(child):
            return False
        time.sleep(0.0005)
    return not ended(child)


def kill(child: int) -> str:
    """Kill a child; return the phase in which it died."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return PHASES[phase[0]]


def repeatable(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was killed."""
    (folder,) = out.iterdir()
    result = json.loads((folder / "result.json").read_text())
    times = ("seconds", "milliseconds", "timed", "bytes", "grams_co2", "kwh", "attempts")
    last = load_state(out.with_suffix(".last"))
    return {
        "epochs": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in result["epochs"]],
        "report": {k: v for k, v in (result["report"] or {}).items() if k != "seconds"},
        "columns": {k: v for k, v in result["columns"].items() if not k.endswith(times)},
        "model": (folder / "model.safetensors").read_bytes(),
        "random": [each["torch"] for each in last["random"]],  # the other generators are neither seeded nor used
        **{name: last["parts"][name] for name in ("model", "optimizer", "schedule")},
        "pruner": {k: v for k, v in last["parts"]["pruner"].items() if k != "report"},
    }


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def spoilt(out: Path) -> list[str]:
    """The files that do not load, except those that are still being written."""
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


def whole(methods: Sequence[str], folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """For each method, what a run that is never killed leaves, and how many seconds it takes."""
    found, seconds = {}, {}
    for method in methods:
        out, began = folder / f"{method}-whole", time.perf_counter()
        child = start(method, out)
        while not ended(child):
            time.sleep(0.005)
        found[method], seconds[method] = repeatable(out), time.perf_counter() - began
    return found, seconds


class Killing:
    """Runs that are killed again and again, and the faults found in them.

    Args:
        kills: The number of kills in all.
        seconds: How long a run takes, by method.
        chance: The random generator that draws the moments.
    """

    def __init__(self, kills: int, seconds: dict[str, float], chance: random.Random):
        self.most, self.seconds, self.chance = kills, seconds, chance
        self.phases: Counter[str] = Counter()
        self.faults: list[str] = []
        self.half_written = 0

    @property
    def kills(self) -> int:
        return sum(self.phases.values())

    def run(self, method: str, out: Path) -> int:
        """Start a run again and again until it has its result; return how often it was killed."""
        killed = 0
        while self.struck(start(method, out), method, killed) is not None:
            killed += 1
            self.half_written += sum(map(files.partial, out.glob("*/*")))
            self.faults += spoilt(out)
        return killed

    def struck(self, child: int, method: str, killed: int) -> str | None:
        """Wait for a moment and kill the child; return the phase in which it died, or None if it ended before."""
        aim = self.chance.choice(PHASES[1:]) if self.chance.random() < 2 / 3 else None
        if killed >= MOST or self.kills >= self.most:
            alive = wait(child, lambda: False)
        elif aim is None:
            moment = time.perf_counter() + self.chance.uniform(0, self.seconds[method])
            alive = wait(child, lambda: time.perf_counter() >= moment)
        else:
            alive = wait(child, lambda: PHASES[phase[0]] == aim)
            time.sleep(self.chance.choice([0, self.chance.uniform(0, 0.004)]))
            alive = alive and not ended(child)
        if not alive:
            return None
        died = kill(child)
        self.phases[died] += 1
        return died

    def compare(self, out: Path, expected: dict[str, Any], files_of: Path) -> bool:
        """Whether a killed run left the same as one that was never killed; records the differences as faults."""
        found = repeatable(out)
        differing = [name for name in expected if not same(found[name], expected[name])]
        self.faults += [f"{out}: {name} differs" for name in differing]
        left, due = (sorted(path.name for path in next(each.iterdir()).iterdir()) for each in (out, files_of))
        self.faults += [f"{out}: {left} are left instead of {due}"] * (left != due)
        return not differing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments, as far as the machine repeats them")
    parser.add_argument("--dry", action="store_true", help="only print: write no file under results/benchmarks")
    options = parser.parse_args()
    began, folder = time.perf_counter(), Path(tempfile.mkdtemp(prefix="kills-"))
    wholes, seconds = whole(options.methods, folder)
    killing = Killing(options.kills, seconds, random.Random(options.seed))
    rows = {m: {"method": m, "seconds": seconds[m], "kills": 0, "runs": 0, "identical": 0} for m in options.methods}
    number = 0
    while killing.kills < options.kills:
        method, number = options.methods[number % len(options.methods)], number + 1
        out = folder / f"{method}-{number}"
        rows[method]["kills"] += killing.run(method, out)
        rows[method]["runs"] += 1
        rows[method]["identical"] += killing.compare(out, wholes[method], folder / f"{method}-whole")

    by_phase = [{"killed while": name, "kills": killing.phases[name]} for name in PHASES]
    more = {
        "options": OPTIONS,
        "seed": options.seed,
        "kills": killing.kills,
        "phases": by_phase,
        "half-written files found after a kill, all gone at the end": killing.half_written,
        "faults": killing.faults,
        "seconds": time.perf_counter() - began,
    }
    if options.dry:
        table(list(rows.values()))
    else:
        write("kills", list(rows.values()), **more)
    table(by_phase)
    summary = f"{killing.kills} kills in {more['seconds']:.0f} s, {len(killing.faults)} faults"
    print(f"{summary}; {killing.half_written} half-written files")
    print(*killing.faults, sep="\n")
    if not killing.faults:
        shutil.rmtree(folder)
    return bool(killing.faults)


if __name__ == "__main__":
    sys.exit(main())
