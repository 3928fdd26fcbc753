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
        name: On the command line.
        help: In a line.
        arguments: Adds its options to a parser; those of a description depend on the task, by name.
        action: Does it; the exit code.
        shared: Whether processes that torchrun started do it together.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser, str], None]
    action: Callable[[argparse.Namespace, Console], int]
    shared: bool = False


def say(console: Console, text: str) -> None:
    """Print text as it is: paths stay whole, so that they can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
