"""The option --log: TensorBoard or Weights & Biases beside what the terminal shows."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlycrop_lab.verbs.verb import Misuse

if TYPE_CHECKING:
    from earlycrop.logs import Log
    from earlycrop_lab.tasks.progress import Progress

KINDS = ("tensorboard", "wandb")


def log_option(group: argparse._ArgumentGroup) -> None:
    """Add --log."""
    group.add_argument(
        "--log",
        nargs="+",
        default=[],
        choices=KINDS,
        metavar="NAME",
        help="also write what happens for tensorboard, into the run's folder, or as a run of wandb, in the mode that "
        "WANDB_MODE says",
    )


def check_logs(options: argparse.Namespace) -> None:
    """Refuse logs whose package is not installed, before anything is trained.

    Raises:
        Misuse: A package is missing; the message has the command that installs it.
    """
    for name in options.log:
        if find_spec(name) is None:
            raise Misuse(f'--log {name} needs the package {name}: pip install "earlycrop[{name}]"')


@contextmanager
def logged(progress: "Progress", kinds: list[str], folder: Path, description: dict[str, Any]) -> "Iterator[Progress]":
    """Within the block progress is also written to the logs, which are closed after it.

    Args:
        progress: Receives the progress of training too.
        kinds: Some of `KINDS`.
        folder: The run's folder.
        description: The fields of the run's description.
    """
    from earlycrop.logs import TensorBoard, Wandb
    from earlycrop_lab.tasks.progress import Watched

    with ExitStack() as opened:

        def tensorboard(done: int) -> "Log":
            log = TensorBoard(folder / "tensorboard", done=done or None)
            opened.callback(log.close)
            return log

        def wandb(done: int) -> "Log":
            import wandb

            run = wandb.init(project="earlycrop", name=folder.name, group=folder.name, dir=folder, config=description)
            opened.callback(run.finish)
            return Wandb(run)

        openers = {"tensorboard": tensorboard, "wandb": wandb}
        yield Watched(progress, lambda done: [openers[kind](done) for kind in dict.fromkeys(kinds)])
