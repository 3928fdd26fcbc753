"""Write a folder of runs as a page."""

import argparse
from pathlib import Path

from rich.console import Console

from earlycrop_lab.verbs.verb import folder_of_runs, say


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the folder and the file of the page."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; its tables and figures go beside it, in a folder of its name (default: RESULTS/report.html)",
    )


def act(options: argparse.Namespace, console: Console) -> int:
    """Write the page, and list what was written."""
    folder = folder_of_runs(options, "report")
    from earlycrop_lab import page

    for path in page.write(folder, options.out or folder / "report.html"):
        say(console, str(path))
    return 0
