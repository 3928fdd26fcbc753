"""What a verb of the command is."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console


class Misuse(ValueError):
    """The command line cannot be understood."""


@dataclass(frozen=True)
class Verb:
    """A row of the table of verbs.

    Args:
        name: Its name on the command line.
        help: One line for `--help`.
        arguments: Adds its options to a parser, given the name of the task: a description's options depend on it.
        action: Carries it out and returns the exit code.
        shared: Whether the processes that torchrun started can share it.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser, str], None]
    action: Callable[[argparse.Namespace, Console], int]
    shared: bool = False


def say(console: Console, text: str) -> None:
    """Print text as it is, without wrapping, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
