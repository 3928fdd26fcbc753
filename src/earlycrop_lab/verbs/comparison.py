"""Run a grid, or the runs of any other verb, each in its own process; one table of all."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console

from earlycrop_lab.comparing import estimate
from earlycrop_lab.comparing.compare import Entry, brief, compare, keep, markdown, second_wave, todo
from earlycrop_lab.comparing.engines import Engine, Local, Ray
from earlycrop_lab.comparing.estimate import measured
from earlycrop_lab.comparing.grids import AXES, PRESETS, Grid, check_meaning, get_preset, runs_of, too_short
from earlycrop_lab.comparing.isolation import Isolated, fail
from earlycrop_lab.data.archive import data_root as found_root
from earlycrop_lab.measure.hardware import cpus, find_device
from earlycrop_lab.runs import folder_name, start_over
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.verbs.options import check_surroundings, given
from earlycrop_lab.verbs.verb import Misuse, say


def carry_out(options: argparse.Namespace, console: Console) -> int:
    """Run every run of a grid that has no result yet, and print the table of all."""
    grids = _grids(options)
    runs, short = runs_of(grids), too_short(grids)
    if not runs:
        raise ValueError(next(iter(short.values())))
    check_surroundings(options)
    if options.workers < 1 or (options.cpus_per_run or 1) < 1:
        raise Misuse("--workers and --cpus-per-run have to be 1 or more")
    threads = options.cpus_per_run or (1 if options.address else max(cpus() // options.workers, 1))
    engine = _engine(options, threads)
    for each, reason in short.items():
        say(console, f"cannot be run: {folder_name(each)}: {reason}")
    if options.estimate:
        return _estimate(
            runs, [*dict.fromkeys(kind for grid in grids for kind in grid.beside)], options, threads, console
        )
    for each, reason in short.items():
        fail(options.out / folder_name(each), reason, "")  # recorded like any failed run, so that pages list it
    entries = compared(runs, options, engine, threads, console)
    entries += [*_beside(grids, entries, options, engine, threads, console), *short.items()]
    if console.is_terminal:
        for part in brief(entries):
            console.print(part, markup=False, highlight=False)
    else:
        say(console, "\n" + markdown(entries))
    for path in keep(entries, options.out):
        say(console, str(path))
    return 1 if any(isinstance(how, str) for _, how in entries) else 0


def _beside(
    grids: Sequence[Grid],
    entries: Sequence[Entry],
    options: argparse.Namespace,
    engine: Engine,
    threads: int,
    console: Console,
) -> list[Entry]:
    """Run those of equal cost beside the methods that have results."""
    wave = second_wave(grids, entries, options.data_root)
    for reason in wave.lacking:
        say(console, reason)
    done = {run for run, _ in entries}
    runs = [run for run in wave.runs if run not in done]
    return compared(runs, options, engine, threads, console) if runs else []


def compared(
    runs: Sequence[Description], options: argparse.Namespace, engine: Engine, threads: int, console: Console
) -> list[Entry]:
    """Run each description in its own process, with the surroundings that the options give."""
    if options.again:
        start_over(runs, options.out)
    isolated = Isolated(
        options.out.absolute(),
        root=str(found_root(options.data_root).absolute()),
        device=options.device,
        country=options.country,
        pue=options.pue,
        checkpoint_every=options.checkpoint_every,
        threads=threads,
    )
    return compare(runs, isolated, engine, console, getattr(options, "workers", 1))


def _grids(options: argparse.Namespace) -> list[Grid]:
    axes = {name: tuple(getattr(options, name)) for name in AXES.values() if hasattr(options, name)}
    if len(axes.get("seeds", ())) == 1:
        axes["seeds"] = tuple(range(axes["seeds"][0]))
    beside = {"beside": tuple(options.beside)} if hasattr(options, "beside") else {}
    fixed = {name: value for name, value in given(options).items() if name not in AXES}
    if options.preset is not None:
        preset = get_preset(options.preset)
        if options.task != preset[0].task:
            raise Misuse(f"the preset {options.preset} belongs to the task {preset[0].task}: leave out --task")
        grids = [replace(grid, **axes, **beside, fixed={**grid.fixed, **fixed}) for grid in preset]
    elif "methods" in axes:
        grids = [Grid(**axes, **beside, fixed=fixed, task=options.task)]
    else:
        raise Misuse(f"compare needs to know what: --methods, or --preset with one of {', '.join(PRESETS)}")
    check_meaning(fixed, grids)
    return grids


def _engine(options: argparse.Namespace, threads: int) -> Engine:
    if options.engine not in ("local", "ray"):
        raise Misuse(f"there is no engine {options.engine!r}: use local or ray")
    if options.engine == "ray":
        return Ray(options.address, cpus=threads, gpus=options.gpus_per_run, workers=options.workers)
    if options.address is not None or options.gpus_per_run:
        raise Misuse("--address and --gpus-per-run need --engine ray")
    find_device(options.device)
    return Local(options.workers)


def _estimate(
    runs: list[Description], beside: Sequence[str], options: argparse.Namespace, threads: int, console: Console
) -> int:
    """Print how long the runs without a result would take; runs beside them are known only from their results."""
    device = find_device(options.device)
    open_runs, before = runs if options.again else todo(runs, options.out), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        costs = list(measured(open_runs, options.data_root, device))
    finally:
        torch.set_num_threads(before)
    done = [run for run in runs if run not in open_runs]
    say(console, estimate.table(costs, done, options.workers))
    if beside:
        say(
            console,
            f"Not included: the runs beside each method that removes channels ({', '.join(beside)}), which follow "
            "from its results.",
        )
    return 0
