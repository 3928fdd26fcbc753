"""A finished run, or a folder of runs as one table."""

import argparse
from pathlib import Path

from rich.console import Console


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the run and the folder where runs are."""
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, its name or the beginning of its name; or a folder of runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where runs are (default: runs)")


def act(options: argparse.Namespace, console: Console) -> int:
    """Show the run, or all runs of the folder."""
    from earlycrop_lab.verbs.showing import show

    return show(options, console)
