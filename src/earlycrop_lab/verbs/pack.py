"""Write the results of a folder of runs into one file."""

import argparse
from pathlib import Path

from rich.console import Console

from earlycrop_lab.verbs.verb import folder_of_runs, say


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the folder of runs and the one that receives the file."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs; it stays as it is")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="the folder that receives runs.jsonl (default: RESULTS)"
    )


def act(options: argparse.Namespace, console: Console) -> int:
    """Pack, and say how many results there are now."""
    folder = folder_of_runs(options, "pack")
    from earlycrop_lab import runs

    into = options.to or folder
    number = runs.pack(folder, into)
    say(console, f"{into / runs.PACKED} holds {number} results")
    return 0
