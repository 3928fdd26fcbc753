"""One run, optionally with its dense twin; the demonstration."""

import argparse

from rich.console import Console

from earlycrop_lab.tasks import get_task
from earlycrop_lab.verbs.logs import log_option
from earlycrop_lab.verbs.options import around, check_given, data_root, describe, given, surroundings

USUAL = (
    *("--task", "--method", "--sparsity", "--target", "--prune-at"),
    *("--data", "--train-size", "--network", "--epochs", "--seed"),
    *("--with-dense", "--dry-run", "--data-root", "--out", "--device", "--again", "--log"),
)
"""What `--help` shows."""


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the fields of a description, and where and how it is run."""
    describe(parser, task)
    group = around(parser)
    group.add_argument(
        "--with-dense", action="store_true", help="afterwards train the same network unpruned, for comparison"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="list what would be removed at the initial weights, without training"
    )
    data_root(group)
    surroundings(group)
    log_option(group)
    bare(group)


def bare(group: argparse._ArgumentGroup) -> None:
    """Add --bare: a twin leaves the table to its caller."""
    group.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)


def act(options: argparse.Namespace, console: Console) -> int:
    """Train one run, or plan it."""
    check_given(options)
    from earlycrop_lab.verbs.training import train

    return train(get_task(options.task).description(**given(options)), options, console)
