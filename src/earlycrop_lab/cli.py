"""The verbs of the command: `train`, `compare`, `why`, `methods`, `show`, `report`, `demo`.

Options of `train` are the fields of a description; what is wrong with them, the description says itself.
"""

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from rich.console import Console

from earlycrop.distributed import Ranks
from earlycrop.errors import nearest
from earlycrop.files import replacing
from earlycrop_lab import estimate, page, report
from earlycrop_lab.apart import Apart, fail
from earlycrop_lab.beside import KINDS
from earlycrop_lab.compare import Outcome, brief, compare, keep, markdown, second_wave, todo
from earlycrop_lab.data.archive import data_root
from earlycrop_lab.display import Display
from earlycrop_lab.engines import Engine, Local, Ray
from earlycrop_lab.estimate import measured
from earlycrop_lab.figures import draw, draw_plan
from earlycrop_lab.grids import AXES, PRESETS, Grid, check_meaning, get_preset, runs_of, too_short
from earlycrop_lab.measure.emissions import COUNTRY, check_country
from earlycrop_lab.measure.hardware import cpus, find_device
from earlycrop_lab.runs import MODEL, RESULT, Result, begin_anew, find, folder_name, follow, read, run, twin
from earlycrop_lab.tasks import TASKS, get_task, plan
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.torchrun import joined, processes
from earlycrop_lab.why_verbs import Asking, ask, inquire

OVERVIEW = """\
earlycrop: make a network small before you pay for training it.

  earlycrop demo                   EarlyCroP-S against dense on handwritten digits, in minutes
  earlycrop train --method earlycrop-s --sparsity 0.95 --data cifar10 --with-dense
                                   one run: trained, pruned, measured, drawn, kept in runs/;
                                   if it is cut off, the same command goes on from its last checkpoint
  earlycrop train --dry-run ...    what would leave, layer by layer, before anything is trained
  torchrun --nproc-per-node 2 -m earlycrop_lab train ...
                                   one run on two processes, each with its part of every batch
  earlycrop compare --preset quick
                                   the poster's table on digits: every method, each run in a process of its own; also
                                   --methods ... --sparsities ... --seeds N; --estimate prints first how long it takes
  earlycrop compare --preset recipe-vgg16
                                   pruned networks beside narrow ones and random cuts of the same FLOPs; --beside with
                                   any other grid
  earlycrop why flow               what each score does to the gradient flow and to the neural tangent kernel
  earlycrop why moment             accuracy by the epoch at which one prunes, and when each detector would
  earlycrop why choice             what a score's choice is worth inside the widths of a method
  earlycrop why early              which share of which budget to train before the cut
  earlycrop methods                what can be asked for with --method
  earlycrop show RUN               a finished run: its table, its curve, its pictures
  earlycrop show FOLDER            all runs in a folder, as one Markdown table
  earlycrop report FOLDER          all runs in a folder, as one page with tables and pictures

`earlycrop train --help` lists every option, with `--task NAME` those of another task than image classification. Data
sets: digits (nothing to download), cifar10, cifar100, tiny-imagenet, folder:PATH. The library itself is
`import earlycrop`, for your own training loop."""


class Misuse(ValueError):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    """argparse, but every error is one sentence and goes the way of all others."""

    def error(self, message: str):
        raise Misuse(f"{message}. `{self.prog} --help` lists the options.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    verbose = "--traceback" in arguments
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(OVERVIEW, flush=True)
            return 0
        options = _understood(arguments)
        return options.act(options, console)
    except BrokenPipeError:  # `earlycrop methods | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:  # the library's errors are ValueErrors
        if verbose:
            traceback.print_exc()
        print(f"earlycrop: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as left:
        print(f"earlycrop: interrupted{'; ' if left.args else ''}{left}.", file=sys.stderr)
        return 130


def _understood(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="earlycrop", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    parsers = {
        "train": verbs.add_parser("train", help="train one run", allow_abbrev=False),
        "compare": verbs.add_parser("compare", help="many runs, one table", allow_abbrev=False),
        "demo": verbs.add_parser("demo", help="EarlyCroP-S against dense on digits", allow_abbrev=False),
        "why": verbs.add_parser(
            "why", help="what scores do, what they are worth, and when the moment is", allow_abbrev=False
        ),
        "methods": verbs.add_parser("methods", help="the table of methods", allow_abbrev=False),
        "show": verbs.add_parser("show", help="a finished run", allow_abbrev=False),
        "report": verbs.add_parser("report", help="a folder of runs as a page", allow_abbrev=False),
    }
    if arguments[0] not in parsers:
        near = nearest(arguments[0], parsers)
        raise Misuse(f"there is no command {arguments[0]!r}. Did you mean {near!r}? `earlycrop` alone lists them.")

    task = _task(arguments)
    _describe(parsers["train"], task)
    _lay_out(parsers["compare"])
    _describe(parsers["compare"], task, without=tuple(AXES))
    inquire(parsers["why"])
    _describe(parsers["why"], "classification", without=("sparsity", "seed", "prune_at"))
    for name in ("train", "demo", "compare", "why"):
        _surroundings(parsers[name])
    _hand_out(parsers["compare"])
    parsers["train"].set_defaults(act=_train)
    parsers["compare"].set_defaults(act=_compare)
    parsers["why"].set_defaults(act=_why)
    parsers["demo"].set_defaults(act=_demo, with_dense=True, method="earlycrop-s", data="digits")
    parsers["methods"].set_defaults(act=_methods)
    parsers["show"].add_argument(
        "run", metavar="RUN", help="a run's folder, its name, or the beginning of it; or a folder of runs"
    )
    parsers["show"].add_argument("--out", type=Path, default=Path("runs"), help="where runs are (default: runs)")
    parsers["show"].set_defaults(act=_show)
    parsers["report"].add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs")
    parsers["report"].add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; tables and pictures lie beside it in a folder of its name (default: RESULTS/report.html)",
    )
    parsers["report"].set_defaults(act=_report)
    for each in parsers.values():
        each.add_argument("--traceback", action="store_true", help="show where an error came from")

    options, rest = parser.parse_known_args(arguments)
    if rest:
        known = [name for name in parsers[options.verb]._option_string_actions if name.startswith("--")]
        if not rest[0].startswith("-"):
            raise Misuse(f"{options.verb} does not know what to do with {rest[0]!r}.")
        near = nearest(rest[0].split("=")[0], known)
        raise Misuse(f"{options.verb} has no option {rest[0]!r}. Did you mean {near!r}?")
    if processes() > 1 and options.verb != "train":
        raise Misuse(
            f"torchrun started {processes()} processes, and it is only train that they share: start {options.verb} "
            "without torchrun"
        )
    return options


def _task(arguments: Sequence[str]) -> str:
    """The task that is asked for, by name or by a preset: what else can be said depends on it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--task", nargs="?")
    first.add_argument("--preset", nargs="?")
    said, _ = first.parse_known_args(arguments[1:])
    if said.task is not None:
        get_task(said.task)
        return said.task
    return get_preset(said.preset)[0].task if said.preset else "classification"


def _lay_out(parser: argparse.ArgumentParser) -> None:
    """The axes of a grid."""
    group = parser.add_argument_group("what to compare", "a preset, in which what else is said replaces its own")
    group.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}")
    for name, kind, metavar, text in (
        ("methods", str, "NAME", "see `earlycrop methods`"),
        ("sparsities", float, "X", "parts to remove, between 0 and 1"),
        ("seeds", int, "N", "how many (3: the seeds 0, 1 and 2), or which, if more than one is named"),
        ("networks", str, "NAME", "the data set's usual if not said"),
        ("data", str, "NAME", "data sets; the task's usual if not said"),
    ):
        group.add_argument(f"--{name}", type=kind, nargs="+", default=argparse.SUPPRESS, metavar=metavar, help=text)
    told = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    group.add_argument(
        "--beside",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="KIND",
        help=f"runs at equal cost beside each row that removes channels, once it has results. {told}",
    )


def _hand_out(parser: argparse.ArgumentParser) -> None:
    """Where a grid is run."""
    group = parser.add_argument_group("where the runs are run")
    group.add_argument("--engine", default="local", help="local, or ray for a cluster (default: local)")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    group.add_argument(
        "--cpus-per-run",
        type=int,
        metavar="N",
        help="threads of a run (default: the CPUs here over the workers; 1 on a cluster that is there)",
    )
    group.add_argument("--gpus-per-run", type=float, default=0, metavar="X", help="ray: of a run (default: 0)")
    group.add_argument("--address", help="ray: a cluster that is there (default: one is started on this machine)")
    group.add_argument(
        "--estimate", action="store_true", help="tell how long it would take on this machine, and start nothing"
    )


def _describe(parser: argparse.ArgumentParser, task: str, without: Sequence[str] = ()) -> None:
    """An option for each field of the task's description; what is not given is left to the description."""
    kind = get_task(task).description
    group = parser.add_argument_group("what to run; it names the folder")
    if not parser.prog.endswith("why"):
        group.add_argument(
            "--task", default=task, metavar="NAME", help=f"{', '.join(TASKS)}; what else can be said depends on it"
        )
    hints = get_type_hints(kind)
    for each in fields(kind):
        if each.name in without:
            continue
        name, usual = "--" + each.name.replace("_", "-"), "" if each.default is None else f" (default: {each.default})"
        if hints[each.name] is bool:
            group.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=each.metadata["help"])
            continue
        kind = next(
            (number for number in (int, float) if number in (hints[each.name], *get_args(hints[each.name]))), str
        )
        choices = each.metadata["choices"]
        among = f": {', '.join(choices)}" if choices else ""
        group.add_argument(
            name,
            type=kind,
            default=argparse.SUPPRESS,
            metavar={int: "N", float: "X", str: "NAME"}[kind],
            help=(each.metadata["help"] + among + usual).replace("%", "%%"),
        )


def _surroundings(parser: argparse.ArgumentParser) -> None:
    """What does not change what a run is: where, on what, beside what."""
    group = parser.add_argument_group("where and how; it changes no name")
    if parser.prog.endswith("train"):
        group.add_argument("--with-dense", action="store_true", help="train its dense twin afterwards, to compare with")
        group.add_argument(
            "--dry-run", action="store_true", help="tell what would leave at the initial weights, and train nothing"
        )
    else:
        group.set_defaults(dry_run=False)
    if parser.prog.endswith("demo"):
        group.set_defaults(data_root=None)
    else:
        group.add_argument("--data-root", help="where data sets lie (default: $EARLYCROP_DATA, or data)")
    group.add_argument("--out", type=Path, default=Path("runs"), help="where folders of runs are made (default: runs)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument("--country", default=COUNTRY, help=f"whose electricity, as an ISO code (default: {COUNTRY})")
    group.add_argument("--pue", type=float, default=1.0, help="power usage effectiveness of the site (default: 1.0)")
    group.add_argument(
        "--again", action="store_true", help="run it from its beginning, even if it has a result or was cut off"
    )
    group.add_argument(
        "--checkpoint-every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="at least so long between two checkpoints; a run that is cut off goes on from its last (default: 0, "
        "after every epoch and after the cut)",
    )
    if not parser.prog.endswith(("compare", "why")):  # a twin leaves the table to its caller
        group.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)


def _train(options: argparse.Namespace, console: Console) -> int:
    return _run(get_task(options.task).description(**_given(options, options.task)), options, console)


def _given(options: argparse.Namespace, task: str) -> dict[str, Any]:
    """The fields of a description that were said."""
    names = [each.name for each in fields(get_task(task).description)]
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _demo(options: argparse.Namespace, console: Console) -> int:
    console.print(
        "EarlyCroP-S on scikit-learn's handwritten digits: a small ResNet18 is trained densely until its kernel is "
        "lazy, then 95 % of its weights leave, in whole channels, and training goes on with what is left. "
        "Its dense twin is trained afterwards."
    )
    return _run(Classification(method="earlycrop-s", data="digits"), options, console)


def _run(description: Description, options: argparse.Namespace, console: Console) -> int:
    _check_electricity(options)
    device = find_device(options.device)
    if processes() > 1 and (options.with_dense or options.dry_run):
        raise Misuse("torchrun trains one run at a time: leave out --with-dense and --dry-run")
    if processes() > 1 and not description.mergeable:
        raise Misuse(f"the task {description.task} is trained by one process: start it without torchrun")
    if options.dry_run:
        return _plan(description, options, device, console)
    dense = description.dense_twin()
    folder = options.out / folder_name(description)

    with joined(device) as (ranks, device):
        if ranks.rank > 0:
            follow(description, ranks=ranks, root=options.data_root, device=device)
            return 0
        result = _one(description, options, device, console, ranks)
    beside = None
    if options.with_dense and dense != description:
        _apart(dense, options, device)
        beside = twin(description, options.out)
    if not options.bare:
        _tell(result, folder, options.out, console)
    else:
        draw(result, folder)
    return 0 if beside or not options.with_dense or dense == description else 1


def _plan(description: Description, options: argparse.Namespace, device: str, console: Console) -> int:
    """What would leave at the initial weights, as text, as records and as a picture."""
    found = plan(description, options.data_root, device)
    folder = options.out / f"plan-{folder_name(description)}"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "plan.json") as file:
        file.write(json.dumps(found.as_dict(), indent=1, allow_nan=False).encode())
    _print(console, str(found))
    _print(console, "")
    for path in (folder / "plan.json", draw_plan(found, folder / "widths.png")):
        _print(console, str(path))
    return 0


def _one(description: Description, options: argparse.Namespace, device: str, console: Console, ranks: Ranks) -> Result:
    """Train in this process, watched."""
    if options.again:
        begin_anew([description], options.out)
    display = Display(console, folder_name(description), description.metric)
    with display.live():
        return run(
            description,
            options.out,
            root=options.data_root,
            device=device,
            country=options.country,
            pue=options.pue,
            checkpoint_every=options.checkpoint_every,
            progress=display,
            say=lambda text: _print(console, text),
            ranks=ranks,
        )


def _apart(description: Description, options: argparse.Namespace, device: str) -> None:
    """Train in a fresh process, so that its memory is its own and nothing is warm from the run before it."""
    values = {each.name.replace("_", "-"): getattr(description, each.name) for each in fields(description)}
    said = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value is not None and value is not False
    ]
    task = [f"--task={description.task}"]
    where = [f"--out={options.out}", f"--device={device}", f"--country={options.country}", f"--pue={options.pue}"]
    where += [f"--checkpoint-every={options.checkpoint_every}"]
    where += [f"--data-root={options.data_root}"] * bool(options.data_root) + ["--again"] * options.again
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "earlycrop_lab", "train", "--bare", *task, *said, *where], check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise ValueError("the dense twin was not trained; see above.")


def _check_electricity(options: argparse.Namespace) -> None:
    check_country(options.country)
    if not options.pue >= 1:
        raise Misuse(f"a site's energy is at least its machines': --pue has to be 1 or more, not {options.pue:g}")


def _compare(options: argparse.Namespace, console: Console) -> int:
    """Every run of a grid that has no result yet, and the table of all."""
    grids = _grids(options)
    runs, short = runs_of(grids), too_short(grids)
    if not runs:
        raise ValueError(next(iter(short.values())))
    _check_electricity(options)
    if options.workers < 1 or (options.cpus_per_run or 1) < 1:
        raise Misuse("--workers and --cpus-per-run have to be 1 or more")
    threads = options.cpus_per_run or (1 if options.address else max(cpus() // options.workers, 1))
    engine = _engine(options, threads)
    for each, reason in short.items():
        _print(console, f"cannot be run: {folder_name(each)}: {reason}")
    if options.estimate:
        return _estimate(
            runs, [*dict.fromkeys(kind for grid in grids for kind in grid.beside)], options, threads, console
        )
    for each, reason in short.items():
        fail(options.out / folder_name(each), reason, "")  # where pages find it, as of other runs that failed
    outcomes = _compared(runs, options, engine, threads, console)
    outcomes += [*_beside(grids, outcomes, options, engine, threads, console), *short.items()]
    if console.is_terminal:
        for part in brief(outcomes):
            console.print(part, markup=False, highlight=False)
    else:
        _print(console, "\n" + markdown(outcomes))
    for path in keep(outcomes, options.out):
        _print(console, str(path))
    return 1 if any(isinstance(how, str) for _, how in outcomes) else 0


def _beside(
    grids: Sequence[Grid],
    outcomes: Sequence[Outcome],
    options: argparse.Namespace,
    engine: Engine,
    threads: int,
    console: Console,
) -> list[Outcome]:
    """The runs at equal cost beside the rows that have results."""
    wave = second_wave(grids, outcomes, options.data_root)
    for reason in wave.lacking:
        _print(console, reason)
    done = {run for run, _ in outcomes}
    runs = [run for run in wave.runs if run not in done]
    return _compared(runs, options, engine, threads, console) if runs else []


def _compared(
    runs: Sequence[Description], options: argparse.Namespace, engine: Engine, threads: int, console: Console
) -> list[Outcome]:
    """Every run in a process of its own, as the options say."""
    if options.again:
        begin_anew(runs, options.out)
    apart = Apart(
        options.out.absolute(),
        root=str(data_root(options.data_root).absolute()),
        device=options.device,
        country=options.country,
        pue=options.pue,
        checkpoint_every=options.checkpoint_every,
        threads=threads,
    )
    return compare(runs, apart, engine, console, getattr(options, "workers", 1))


def _why(options: argparse.Namespace, console: Console) -> int:
    """Ask, keep the records and draw them."""

    def compared(runs: Sequence[Description]) -> list[Outcome]:
        return _compared(runs, options, Local(1), torch.get_num_threads(), console)

    asking = Asking(options, lambda text: _print(console, text), compared)
    return ask(_given(options, "classification"), asking)


def _grids(options: argparse.Namespace) -> list[Grid]:
    axes = {name: tuple(getattr(options, name)) for name in AXES.values() if hasattr(options, name)}
    if len(axes.get("seeds", ())) == 1:
        axes["seeds"] = tuple(range(axes["seeds"][0]))
    beside = {"beside": tuple(options.beside)} if hasattr(options, "beside") else {}
    fixed = {name: value for name, value in _given(options, options.task).items() if name not in AXES}
    if options.preset is not None:
        preset = get_preset(options.preset)
        if options.task != preset[0].task:
            raise Misuse(f"the preset {options.preset} is of the task {preset[0].task}: leave out --task")
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
        raise Misuse("--address and --gpus-per-run are of --engine ray")
    find_device(options.device)
    return Local(options.workers)


def _estimate(
    runs: list[Description], beside: Sequence[str], options: argparse.Namespace, threads: int, console: Console
) -> int:
    """How long the runs would take that have no result; those beside them are known only when they have theirs."""
    device = find_device(options.device)
    open_runs, before = runs if options.again else todo(runs, options.out), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        costs = list(measured(open_runs, options.data_root, device))
    finally:
        torch.set_num_threads(before)
    done = [run for run in runs if run not in open_runs]
    _print(console, estimate.table(costs, done, options.workers))
    if beside:
        _print(
            console,
            f"Not in it: the runs beside each row that removes channels ({', '.join(beside)}), which follow from its "
            "results and come after them.",
        )
    return 0


def _methods(options: argparse.Namespace, console: Console) -> int:
    console.print(report.methods())
    _print(console, "A row is a choice of each; `-u` masks weights, `-s` removes channels. A new method is a new row.")
    return 0


def _show(options: argparse.Namespace, console: Console) -> int:
    if several := sorted(Path(options.run).glob(f"*/{RESULT}")):
        results = [read(path.parent) for path in several]
        print(report.markdown(results))
        print("\n" + "\n".join(dict.fromkeys(f"{report.title(each)}. {report.conditions(each)}" for each in results)))
        return 0
    folder = find(options.run, options.out)
    _tell(read(folder), folder, folder.parent, console, full=True)
    return 0


def _report(options: argparse.Namespace, console: Console) -> int:
    if not options.results.is_dir():
        raise Misuse(f"there is no folder {options.results}: report wants the folder that --out of `train` named")
    for path in page.write(options.results, options.out or options.results / "report.html"):
        _print(console, str(path))
    return 0


def _tell(result: Result, folder: Path, out: Path, console: Console, full: bool = False) -> None:
    """The table beside the dense twin's, what left, under what conditions, and where the pictures are."""
    pruned = result.report is not None
    dense = twin(result.description, out) if pruned else None
    pictures = draw(result, folder, dense)
    if full:
        _print(console, repr(result.description))
        if result.report is not None and result.report["curve"]:
            console.print(report.curve(result.report))
    _print(console, "\n" + report.title(result))
    console.print(report.comparison([result, dense] if dense else [result]))
    if result.report is not None:
        _print(console, report.what_left(result.report))
    _print(console, report.conditions(result))
    if pruned and dense is None:
        _print(console, "There is no dense twin to compare with; --with-dense trains it.")
    _print(console, "")
    for path in [*pictures, folder / RESULT, folder / MODEL]:
        _print(console, str(path))


def _print(console: Console, text: str) -> None:
    """Text as it is: paths stay whole, so that they can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
