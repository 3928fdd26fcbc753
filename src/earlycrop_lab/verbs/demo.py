"""The demonstration: EarlyCroP-S against dense on digits."""

import argparse

from rich.console import Console

from earlycrop_lab.tasks.descriptions import Classification
from earlycrop_lab.verbs.logs import log_option
from earlycrop_lab.verbs.options import around, surroundings
from earlycrop_lab.verbs.train import bare


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add where and how it is run."""
    group = around(parser)
    surroundings(group)
    log_option(group)
    bare(group)
    parser.set_defaults(with_dense=True, dry_run=False, data_root=None)


def act(options: argparse.Namespace, console: Console) -> int:
    """Say what will happen, and train both."""
    from earlycrop_lab.verbs.training import train

    console.print(
        "EarlyCroP-S on scikit-learn's handwritten digits: a small ResNet18 is trained densely until its kernel is "
        "lazy, then 95 % of its weights are removed, in whole channels, and training goes on with what is left. "
        "Its dense twin is trained afterwards."
    )
    return train(Classification(method="earlycrop-s", data="digits"), options, console)
