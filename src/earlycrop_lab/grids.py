"""Methods × sparsities × seeds × networks × data sets, as the runs that they stand for, and the poster's tables so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

import earlycrop
from earlycrop.errors import nearest
from earlycrop_lab.tasks import get_task
from earlycrop_lab.tasks.description import PRUNING, Description, prunes

AXES = {"method": "methods", "sparsity": "sparsities", "seed": "seeds", "network": "networks", "data": "data"}
"""Fields of a description that a grid has several of, and what the grid calls them."""


@dataclass(frozen=True)
class Grid:
    """Every method at every sparsity on every network and data set, from every seed.

    >>> grid = Grid(("dense", "snip"), sparsities=(0.9, 0.98), data=("digits",), fixed={"epochs": 5})
    >>> [(run.method, run.sparsity) for run in grid.runs() if run.method == "snip"]
    [('snip', 0.9), ('snip', 0.98)]
    >>> len(grid.runs())  # what removes nothing is not repeated at each sparsity
    3

    Args:
        methods: Names of the table of methods.
        sparsities: Parts to remove.
        seeds: Of weights, order of images, augmentation and scoring batches.
        networks: Names of networks; None is the data set's usual.
        data: Names of data; None is the task's usual.
        fixed: Other fields of a description, the same in all runs.
        task: Of which task the runs are.

    Raises:
        ValueError: an axis is empty, there is no such task, or `fixed` names no field of its descriptions.
    """

    methods: tuple[str, ...]
    sparsities: tuple[float, ...] = (0.95,)
    seeds: tuple[int, ...] = (0,)
    networks: tuple[str | None, ...] = (None,)
    data: tuple[str | None, ...] = (None,)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    task: str = "classification"

    def __post_init__(self):
        for name in AXES.values():
            if not getattr(self, name):
                raise ValueError(f"A grid without {name} has no runs: name at least one.")
        known = [each.name for each in fields(get_task(self.task).description) if each.name not in AXES]
        for name in self.fixed:
            if name in AXES:
                raise ValueError(f"A grid has several of {name!r}: give them as {AXES[name]!r}, not among the fixed.")
            if name not in known:
                raise ValueError(f"No run has a {name!r}. Did you mean {nearest(name, known)!r}?")

    def runs(self) -> list[Description]:
        """Each run once; all of the first seed before the next, so that a table is whole early.

        Raises:
            ValueError: a run cannot be, for instance because a name is unknown; it names the nearest.
        """
        for name in filter(None, self.data):
            get_task(self.task).description.check_data(name)
        axes = (self.seeds, self.data, self.networks, self.methods, self.sparsities)
        return list(dict.fromkeys(self._run(*point) for point in product(*axes)))

    def _run(self, seed: int, data: str | None, network: str | None, method: str, sparsity: float) -> Description:
        said = {**self.fixed, "seed": seed, "network": network, "method": method, "sparsity": sparsity}
        if data is not None:
            said["data"] = data
        if not prunes(earlycrop.get_method(method)):
            said = {name: value for name, value in said.items() if name not in PRUNING}
        run = get_task(self.task).description(**said)
        if run.equal_budget and replace(run, equal_budget=False).total_epochs == run.epochs:
            return replace(run, equal_budget=False)  # it has one training and nothing to divide: the same run
        return run


TABLE_A = (
    "dense",
    "random-s",
    "snap",
    "crop-s",
    "cropit-s",
    "earlybird",
    "earlycrop-s",
    "gate-decorators",
    "efficient-convnets",
    "random-u",
    "snip",
    "grasp",
    "crop-u",
    "cropit-u",
    "earlycrop-u",
    "ltr",
)
"""The rows of the poster's Table A, in its order."""

LARGE, SMALLER = "resnext101-32x48d", "resnext101-32x16d"
THIRTY, EIGHTY = {"epochs": 30}, {"epochs": 80}

PRESETS: dict[str, tuple[Grid, ...]] = {
    "quick": (Grid(TABLE_A, sparsities=(0.9,), data=("digits",), fixed={"width": 16}),),
    "table-a": (Grid(TABLE_A, sparsities=(0.98,), networks=("vgg16-paper",), data=("tiny-imagenet",)),),
    "control": (
        Grid(("dense", "random-s", "snap", "earlycrop-s"), (0.98, 0.998), tuple(range(10)), task="control"),
        Grid(("crop-s", "random-u", "snip", "crop-u", "earlycrop-u"), (0.98, 0.998), tuple(range(3)), task="control"),
    ),
    "table-b": (
        Grid(("dense", "crop-s", "earlycrop-s"), (0.985,), networks=(LARGE,), data=("cifar10",), fixed=THIRTY),
        Grid(("dense",), networks=(SMALLER,), data=("cifar10",), fixed=THIRTY),
        Grid(("crop-s", "earlycrop-s"), (0.985,), networks=(LARGE,), data=("cifar10",), fixed=EIGHTY),
    ),
}
"""Tables that can be asked for by name: Table A on digits, in minutes on two cores; Tables A and B as on the poster."""


def get_preset(name: str) -> tuple[Grid, ...]:
    """The grids of that name.

    Raises:
        ValueError: there are none; it names the nearest.
    """
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        raise ValueError(f"No preset is called {name!r}. Did you mean {near!r}? There are {', '.join(PRESETS)}.")
    return PRESETS[name]


def runs_of(grids: Iterable[Grid]) -> list[Description]:
    """The runs of several grids, each once."""
    return list(dict.fromkeys(run for grid in grids for run in grid.runs()))
