"""Many runs, one table."""

import argparse

from rich.console import Console

from earlycrop_lab.comparing.grids import AXES, PRESETS
from earlycrop_lab.comparing.kinds import KINDS
from earlycrop_lab.verbs.options import around, check_given, data_root, describe, surroundings

USUAL = (
    *("--preset", "--methods", "--sparsities", "--seeds", "--networks", "--data"),
    *("--task", "--target", "--prune-at", "--train-size", "--epochs"),
    *("--out", "--device", "--again", "--workers", "--estimate"),
)
"""What `--help` shows."""


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the axes of a grid, a description, and where and how the runs execute."""
    _lay_out(parser)
    describe(parser, task, without=tuple(AXES))
    group = around(parser)
    data_root(group)
    surroundings(group)
    _hand_out(parser)


def _lay_out(parser: argparse.ArgumentParser) -> None:
    """The axes of a grid."""
    group = parser.add_argument_group(
        "what to compare", "a preset, or axes of your own; axes given replace the preset's"
    )
    group.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}")
    for name, kind, metavar, text in (
        ("methods", str, "NAME", "see `earlycrop methods`"),
        ("sparsities", float, "X", "fractions to remove, between 0 and 1"),
        ("seeds", int, "N", "one number: how many seeds (3: the seeds 0, 1 and 2); several: the seeds themselves"),
        ("networks", str, "NAME", "networks (default: the data set's usual one)"),
        ("data", str, "NAME", "data sets (default: the task's usual one)"),
    ):
        group.add_argument(f"--{name}", type=kind, nargs="+", default=argparse.SUPPRESS, metavar=metavar, help=text)
    kinds = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    group.add_argument(
        "--beside",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="KIND",
        help=f"runs at equal cost for each method that removes channels, once its own runs have results. {kinds}",
    )


def _hand_out(parser: argparse.ArgumentParser) -> None:
    """Where the runs of a grid execute."""
    group = parser.add_argument_group("where the runs execute")
    group.add_argument("--engine", default="local", help="local, or ray for a cluster (default: local)")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="runs side by side (default: 1)")
    group.add_argument(
        "--cpus-per-run",
        type=int,
        metavar="N",
        help="threads of a run (default: this machine's CPUs divided by the workers; 1 on an existing cluster)",
    )
    group.add_argument("--gpus-per-run", type=float, default=0, metavar="X", help="ray: GPUs of a run (default: 0)")
    group.add_argument("--address", help="ray: an existing cluster (default: start one on this machine)")
    group.add_argument(
        "--estimate", action="store_true", help="print how long the runs would take on this machine, and start none"
    )


def act(options: argparse.Namespace, console: Console) -> int:
    """Run every run of a grid that has no result yet, and print the table of all."""
    check_given(options, AXES)
    from earlycrop_lab.verbs.comparison import carry_out

    return carry_out(options, console)
