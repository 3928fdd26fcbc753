"""List the methods."""

import argparse

from rich.console import Console

from earlycrop_lab.verbs.verb import say


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add no option."""


def act(options: argparse.Namespace, console: Console) -> int:
    """Print the table of methods."""
    from earlycrop_lab.reporting import summary

    console.print(summary.methods())
    say(console, "Each row is one method: `-u` masks weights, `-s` removes channels. A new method is a new row.")
    return 0
