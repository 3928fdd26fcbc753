"""Train one run, optionally with its dense twin, or plan its cut."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, fields

from rich.console import Console

from earlycrop.distributed import Ranks
from earlycrop.files import replacing
from earlycrop_lab.measure.hardware import find_device
from earlycrop_lab.reporting.display import Display
from earlycrop_lab.reporting.figures import draw, draw_plan
from earlycrop_lab.runs import Result, folder_name, follow, run, start_over, twin
from earlycrop_lab.tasks import plan
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.torchrun import joined, processes
from earlycrop_lab.verbs.logs import check_logs, logged
from earlycrop_lab.verbs.options import check_surroundings
from earlycrop_lab.verbs.showing import present
from earlycrop_lab.verbs.verb import Misuse, say


def train(description: Description, options: argparse.Namespace, console: Console) -> int:
    """Train a run, and its dense twin if that is asked for, and show them; or only plan the cut.

    Args:
        description: The run.
        options: The options of the command.
        console: Where it is shown.
    """
    check_surroundings(options)
    check_logs(options)
    device = find_device(options.device)
    if processes() > 1 and (options.with_dense or options.dry_run):
        raise Misuse("torchrun trains one run at a time: leave out --with-dense and --dry-run")
    if processes() > 1 and not description.mergeable:
        raise Misuse(f"the task {description.task} is trained by one process: start it without torchrun")
    if processes() > 1 and description.target == "latency":
        raise Misuse("each process would measure another latency: start a run with --target latency without torchrun")
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
        _train_beside(dense, options, device)
        beside = twin(description, options.out)
    if not options.bare:
        present(result, folder, options.out, console)
    else:
        draw(result, folder)
    return 0 if beside or not options.with_dense or dense == description else 1


def _plan(description: Description, options: argparse.Namespace, device: str, console: Console) -> int:
    """Report what would be removed at the initial weights, as text, JSON and a figure."""
    found = plan(description, options.data_root, device)
    folder = options.out / f"plan-{folder_name(description)}"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "plan.json") as file:
        file.write(json.dumps(found.as_dict(), indent=1, allow_nan=False).encode())
    say(console, str(found))
    say(console, "")
    for path in (folder / "plan.json", draw_plan(found, folder / "widths.png")):
        say(console, str(path))
    return 0


def _one(description: Description, options: argparse.Namespace, device: str, console: Console, ranks: Ranks) -> Result:
    """Train in this process, with a live display."""
    if options.again:
        start_over([description], options.out)
    name = folder_name(description)
    display = Display(console, name, description.metric)
    with display.live(), logged(display, options.log, options.out / name, asdict(description)) as progress:
        return run(
            description,
            options.out,
            root=options.data_root,
            device=device,
            country=options.country,
            pue=options.pue,
            checkpoint_every=options.checkpoint_every,
            progress=progress,
            say=lambda text: say(console, text),
            ranks=ranks,
        )


def _train_beside(description: Description, options: argparse.Namespace, device: str) -> None:
    """Train in a fresh process, so that its memory is measured alone and no cache is warm from the run before it."""
    values = {each.name.replace("_", "-"): getattr(description, each.name) for each in fields(description)}
    said = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value is not None and value is not False
    ]
    task = [f"--task={description.task}"]
    where = [f"--out={options.out}", f"--device={device}", f"--country={options.country}", f"--pue={options.pue}"]
    where += [f"--checkpoint-every={options.checkpoint_every}", *(["--log", *options.log] if options.log else [])]
    where += [f"--data-root={options.data_root}"] * bool(options.data_root) + ["--again"] * options.again
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "earlycrop_lab", "train", "--bare", *task, *said, *where], check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise ValueError("the dense twin was not trained; see above.")
