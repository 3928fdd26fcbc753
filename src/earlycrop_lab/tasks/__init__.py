"""The tasks; each is one file that reads from top to bottom: data, model, optimizer, loop, evaluation.

A task is an entry of `TASKS`: the class that describes a run, which is in `descriptions` and needs no PyTorch, and the
functions that prepare its setup and train it. Everything else in the laboratory (runs, grids, tables, estimates,
reports) uses the entry and knows no particular task.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import earlycrop
from earlycrop.errors import nearest
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.descriptions import Classification, Control, Depth, Language

if TYPE_CHECKING:
    import torch

    from earlycrop_lab.tasks.session import Setup, Trained


@dataclass(frozen=True)
class Task:
    """An entry of `TASKS`. Its file, of the same name, is imported when a run is prepared or trained.

    Args:
        description: The class whose instances describe runs.
    """

    description: type[Description]

    def train(self, d: Description, **around: Any) -> "Trained":
        """Train a run as described."""
        return self._file.train(d, **around)

    def prepare(self, d: Description, root: str | None, device: "torch.device") -> "Setup":
        """The setup of a description, given the folder of the data sets and a device."""
        return self._file.prepare(d, root, device)

    @property
    def _file(self) -> Any:
        return import_module(f"earlycrop_lab.tasks.{self.description.task}")


TASKS = {each.task: Task(each) for each in (Classification, Depth, Control, Language)}


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
    """A description from its stored fields; fields that newer versions have added get their defaults.

    What was stored before there was `rescale` was measured without.
    """
    made = get_task(task).description(**stored)
    older = "rescale" not in stored and earlycrop.get_method(made.method).rescale
    return replace(made, rescale="no") if older else made


def train(d: Description, **around: Any) -> "Trained":
    """Train as described; see `train` of the task's file."""
    return TASKS[d.task].train(d, **around)


def prepare(d: Description, root: str | None = None, device: "torch.device | str" = "cpu") -> "Setup":
    """The setup of a description, before anything is trained.

    Raises:
        ValueError: The data and the network do not fit together.
        OSError: The data cannot be read or downloaded.
    """
    import torch

    return TASKS[d.task].prepare(d, root, torch.device(device))


def plan(d: Description, root: str | None = None, device: str = "cpu") -> "earlycrop.Plan":
    """What would be removed if the network were cut at its initial weights; nothing is trained.

    Raises:
        ValueError: The data, the network and the method do not fit together, or the method removes nothing.
        OSError: The data cannot be read or downloaded.
    """
    import torch

    from earlycrop_lab.tasks.session import pruner_of

    torch.manual_seed(d.seed)
    return pruner_of(d, prepare(d, root, device)).dry_run()
