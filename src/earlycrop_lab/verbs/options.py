"""The options that several verbs share: the description of a run, and where and how it is run."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from earlycrop.names import METHODS, no_method
from earlycrop_lab.measure.emissions import COUNTRY, check_country
from earlycrop_lab.tasks import TASKS, get_task
from earlycrop_lab.verbs.verb import Misuse


def describe(parser: argparse.ArgumentParser, task: str, without: Sequence[str] = ()) -> None:
    """Add an option for each field of the task's description; fields not given keep the description's default."""
    kind = get_task(task).description
    group = parser.add_argument_group("what to run (these options name the folder)")
    group.add_argument(
        "--task", default=task, metavar="NAME", help=f"{', '.join(TASKS)}; the other options depend on it"
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
        if each.metadata["several"] is not None:
            more: dict[str, Any] = {"action": "append", "metavar": each.metadata["several"]}
            group.add_argument(name, default=argparse.SUPPRESS, help=each.metadata["help"], **more)
            continue
        choices = each.metadata["choices"]
        among = f": {', '.join(choices)}" if choices else ""
        group.add_argument(
            name,
            type=kind,
            default=argparse.SUPPRESS,
            metavar={int: "N", float: "X", str: "NAME"}[kind],
            help=(each.metadata["help"] + among + usual).replace("%", "%%"),
        )


def check_given(options: argparse.Namespace, axes: Mapping[str, str] | None = None) -> None:
    """Refuse names and numbers that are wrong by themselves, before PyTorch is imported.

    Args:
        options: The options of a verb that describes a run.
        axes: The fields of a description that have several values, and the options that give these.

    Raises:
        ValueError: One is wrong; the message suggests the nearest name.
    """
    kind, axes = get_task(options.task).description, axes or {}
    points = [{name: value for name, value in given(options).items() if name not in axes}]
    points += [{name: value} for name, values in axes.items() for value in getattr(options, values, ())]
    for point in points:
        method = point.get("method")
        if method is not None and method not in METHODS:
            raise no_method(method)
        kind.check_fields(point)


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a description that were given on the command line."""
    kind = get_task(options.task).description
    said = [(each, getattr(options, each.name)) for each in fields(kind) if hasattr(options, each.name)]
    return {each.name: ",".join(value) if each.metadata["several"] else value for each, value in said}


def around(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """A group for options that do not change what a run is: where it runs, on what, beside what."""
    return parser.add_argument_group("where and how (these options do not change that name)")


def data_root(group: argparse._ArgumentGroup) -> None:
    """Add the option for the folder of the data sets."""
    group.add_argument("--data-root", help="the folder of the data sets (default: $EARLYCROP_DATA, or data)")


def surroundings(group: argparse._ArgumentGroup) -> None:
    """Add the options for where results go, the device, the electricity that counts, and checkpoints."""
    group.add_argument("--out", type=Path, default=Path("runs"), help="where the runs' folders go (default: runs)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--country", default=COUNTRY, help=f"ISO code of the country whose electricity mix counts (default: {COUNTRY})"
    )
    group.add_argument("--pue", type=float, default=1.0, help="power usage effectiveness of the site (default: 1.0)")
    group.add_argument(
        "--again", action="store_true", help="start from the beginning, even if there is a result or a checkpoint"
    )
    group.add_argument(
        "--checkpoint-every",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="the least time between two checkpoints; an interrupted run resumes from its last (default: 0, a "
        "checkpoint after every epoch and after the cut)",
    )


def check_surroundings(options: argparse.Namespace) -> None:
    """Refuse an unknown country, a PUE below 1, and a time between checkpoints that is none.

    Raises:
        ValueError: The country is unknown, or a number is out of range.
    """
    if not options.checkpoint_every >= 0:
        raise Misuse(f"--checkpoint-every is a time in seconds, 0 or more, not {options.checkpoint_every:g}")
    check_country(options.country)
    if not options.pue >= 1:
        raise Misuse(f"a site uses at least the energy of its machines: --pue has to be 1 or more, not {options.pue:g}")
