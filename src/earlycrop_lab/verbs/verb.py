"""What a verb of the command is."""

import argparse
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console


class Misuse(ValueError):
    """The command line cannot be understood."""


@dataclass(frozen=True)
class Verb:
    """A row of the table of verbs. What carries it out is imported when it is asked for.

    Args:
        name: Its name on the command line, and that of its module here, which has `arguments` and `act`, and where it
            has many options also `USUAL`, the names of those that most users need.
        help: One line for `--help`.
        shared: Whether the processes that torchrun started can share it.
    """

    name: str
    help: str
    shared: bool = False

    def arguments(self, parser: argparse.ArgumentParser, task: str) -> None:
        """Add its options to a parser, given the name of the task: a description's options depend on it."""
        self._module.arguments(parser, task)

    def act(self, options: argparse.Namespace, console: Console) -> int:
        """Carry it out and return the exit code."""
        return self._module.act(options, console)

    @property
    def usual(self) -> tuple[str, ...] | None:
        """The options that `--help` shows, the rest being left to `--help-all`; None if it shows all."""
        return getattr(self._module, "USUAL", None)

    @property
    def _module(self):
        return import_module(f"earlycrop_lab.verbs.{self.name}")


def folder_of_runs(options: argparse.Namespace, verb: str) -> Path:
    """The folder that a verb was given as `results`.

    Raises:
        Misuse: There is none.
    """
    if not options.results.is_dir():
        raise Misuse(f"there is no folder {options.results}: {verb} expects the folder that `train --out` named")
    return options.results


def say(console: Console, text: str) -> None:
    """Print text as it is, without wrapping, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
