"""Write the results of a folder of runs into one file."""

import argparse
from pathlib import Path

from rich.console import Console

from earlycrop_lab import runs
from earlycrop_lab.verbs.verb import Misuse, say


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the folder of runs and the one that receives the file."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs; it stays as it is")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="the folder that receives runs.jsonl (default: RESULTS)"
    )


def act(options: argparse.Namespace, console: Console) -> int:
    """Pack, and say how many results there are now."""
    if not options.results.is_dir():
        raise Misuse(f"there is no folder {options.results}: pack expects the folder that `train --out` named")
    into = options.to or options.results
    number = runs.pack(options.results, into)
    say(console, f"{into / runs.PACKED} holds {number} results")
    return 0
