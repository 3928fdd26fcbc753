"""The tasks; each is one file that reads from top to bottom: description, data, model, optimizer, loop, evaluation.

A task is an entry of `TASKS`: the class that describes a run, the function that trains one, and the function that
prepares its setup. Everything else in the laboratory (runs, grids, tables, estimates, reports) uses the entry and knows
no particular task.
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
    """An entry of `TASKS`.

    Args:
        description: The class whose instances describe runs.
        train: Trains a run as described.
        prepare: Maps a description, the folder of the data sets and a device to the setup.
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
    """The task of that name.

    Raises:
        ValueError: There is no such task; the message suggests the nearest.
    """
    if name not in TASKS:
        near = nearest(name, TASKS)
        raise ValueError(f"No task is called {name!r}. Did you mean {near!r}? There are {', '.join(TASKS)}.")
    return TASKS[name]


def described(task: str, stored: dict[str, Any]) -> Description:
    """A description from its stored fields; fields that newer versions have added get their defaults."""
    return get_task(task).description(**stored)


def train(d: Description, **around: Any) -> Trained:
    """Train as described; see `train` of the task's file."""
    return TASKS[d.task].train(d, **around)


def prepare(d: Description, root: str | None = None, device: torch.device | str = "cpu") -> Setup:
    """The setup of a description, before anything is trained.

    Raises:
        ValueError: The data and the network do not fit together.
        OSError: The data cannot be read or downloaded.
    """
    return TASKS[d.task].prepare(d, root, torch.device(device))


def plan(d: Description, root: str | None = None, device: str = "cpu") -> earlycrop.Plan:
    """What would be removed if the network were cut at its initial weights; nothing is trained.

    Raises:
        ValueError: The data, the network and the method do not fit together, or the method removes nothing.
        OSError: The data cannot be read or downloaded.
    """
    torch.manual_seed(d.seed)
    return pruner_of(d, prepare(d, root, device)).dry_run()
