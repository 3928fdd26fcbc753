"""The tasks; each is one file that reads from top to bottom: description, data, model, optimizer, loop, evaluation.

A task is a row of `TASKS`: what describes a run of it, what trains one, and the setup in which that happens. Everything
else of the laboratory (runs, grids, tables, estimates, reports) goes by the row and knows no task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import earlycrop
from earlycrop.errors import nearest
from earlycrop_lab.tasks import classification, control, depth, language
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.session import Setup, Trained, pruner_of


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Args:
        description: Describes a run.
        train: Trains one as described.
        prepare: Maps a description, the root of the data and a device to the setup.
    """

    description: type[Description]
    train: Callable[..., Trained]
    prepare: Callable[..., Setup]


TASKS = {
    "classification": Task(classification.Classification, classification.train, classification.prepare),
    "depth": Task(depth.Depth, depth.train, depth.prepare),
    "control": Task(control.Control, control.train, control.prepare),
    "language": Task(language.Language, language.train, language.prepare),
}


def get_task(name: str) -> Task:
    """The row of that name.

    Raises:
        ValueError: If there is none; it names the nearest.
    """
    if name not in TASKS:
        near = nearest(name, TASKS)
        raise ValueError(f"No task is called {name!r}. Did you mean {near!r}? There are {', '.join(TASKS)}.")
    return TASKS[name]


def described(task: str, stored: dict[str, Any]) -> Description:
    """A description from its fields; those that a newer version has added are at their defaults."""
    return get_task(task).description(**stored)


def train(d: Description, **around: Any) -> Trained:
    """Train as described; see the task's own."""
    return TASKS[d.task].train(d, **around)


def prepare(d: Description, root: str | None = None, device: torch.device | str = "cpu") -> Setup:
    """What a description stands for, before anything is trained.

    Raises:
        ValueError: If the data and the network do not fit together.
        OSError: If the data cannot be had.
    """
    return TASKS[d.task].prepare(d, root, torch.device(device))


def plan(d: Description, root: str | None = None, device: str = "cpu") -> earlycrop.Plan:
    """What would leave if the network were cut at its initial weights; nothing is trained.

    Raises:
        ValueError: If the data, the network and the method do not fit together, or the method removes nothing.
        OSError: If the data cannot be had.
    """
    torch.manual_seed(d.seed)
    return pruner_of(d, prepare(d, root, device)).dry_run()
