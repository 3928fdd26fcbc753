"""Grids of methods × sparsities × seeds × networks × data sets, the runs they stand for, and the poster's tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

import earlycrop
from earlycrop.errors import nearest
from earlycrop_lab.comparing.kinds import check_kinds
from earlycrop_lab.tasks import get_task
from earlycrop_lab.tasks.description import OF_CHANNELS, OF_SIZES, PRUNING, Description, TooShort, divisible, prunes

AXES = {"method": "methods", "sparsity": "sparsities", "seed": "seeds", "network": "networks", "data": "data"}
"""Fields of a description that vary in a grid, and what the grid calls them."""


@dataclass(frozen=True)
class Grid:
    """Every method at every sparsity on every network and data set, with every seed.

    >>> grid = Grid(("dense", "snip"), sparsities=(0.9, 0.98), data=("digits",), fixed={"epochs": 5})
    >>> [(run.method, run.sparsity) for run in grid.runs() if run.method == "snip"]
    [('snip', 0.9), ('snip', 0.98)]
    >>> len(grid.runs())  # the dense run is not repeated at each sparsity
    3

    Args:
        methods: Names of the table of methods.
        sparsities: Fractions to remove.
        seeds: Seeds of weights, order of images, augmentation and scoring batches.
        networks: Names of networks; None is the data set's usual one.
        data: Names of data sets; None is the task's usual one.
        fixed: Other fields of a description, the same in all runs; those that do not apply to a method are left out.
        task: The task of the runs.
        beside: Kinds of runs to add for each method that removes channels, once it has results; see `kinds.KINDS`.

    Raises:
        ValueError: An axis is empty, there is no such task, `fixed` names no field of its descriptions, or `beside`
            names no kind of run.
    """

    methods: tuple[str, ...]
    sparsities: tuple[float, ...] = (0.95,)
    seeds: tuple[int, ...] = (0,)
    networks: tuple[str | None, ...] = (None,)
    data: tuple[str | None, ...] = (None,)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    task: str = "classification"
    beside: tuple[str, ...] = ()

    def __post_init__(self):
        check_kinds(self.beside)
        for name in AXES.values():
            if not getattr(self, name):
                raise ValueError(f"A grid without {name} has no runs: name at least one.")
        known = [each.name for each in fields(get_task(self.task).description) if each.name not in AXES]
        for name in self.fixed:
            if name in AXES:
                raise ValueError(f"{name!r} varies in a grid: give its values as {AXES[name]!r}, not in `fixed`.")
            if name not in known:
                raise ValueError(f"No run has a {name!r}. Did you mean {nearest(name, known)!r}?")

    def runs(self) -> list[Description]:
        """Each possible run, once; all runs of the first seed before the next, so that a table is complete early.

        Raises:
            ValueError: A run is invalid, for a reason other than too few epochs: for example, a name is unknown, and
                the message suggests the nearest.
        """
        return [run for run, why in self._laid_out().items() if why is None]

    def too_short(self) -> dict[Description, str]:
        """Each run that has too few epochs, and why.

        Raises:
            ValueError: See `runs`.
        """
        return {run: why for run, why in self._laid_out().items() if why is not None}

    def _laid_out(self) -> dict[Description, str | None]:
        axes = (self.seeds, self.data, self.networks, self.methods, self.sparsities)
        return dict(self._run(*point) for point in product(*axes))

    def _run(
        self, seed: int, data: str | None, network: str | None, method: str, sparsity: float
    ) -> tuple[Description, str | None]:
        said = {**self.fixed, "seed": seed, "network": network, "method": method, "sparsity": sparsity}
        if data is not None:
            said["data"] = data
        idle = meaningless(earlycrop.get_method(method), said)
        try:
            return get_task(self.task).description(**{name: said[name] for name in said if name not in idle}), None
        except TooShort as error:
            return error.run, str(error)


def meaningless(method: "earlycrop.Method", said: Mapping[str, Any]) -> set[str]:
    """The given fields of a description that do not apply to a method."""
    masks, timing = isinstance(method.units, earlycrop.units.Weights), method.timing
    fixed = isinstance(timing, earlycrop.timing.Rewinding | earlycrop.timing.TickTock)
    several = isinstance(timing, earlycrop.timing.AbstractPruningSchedule)
    once = not several or (said.get("prune_at") is not None and not fixed)
    idle = (
        (not prunes(method), PRUNING),
        (masks, OF_CHANNELS),
        (masks and said.get("target") in OF_SIZES, ("target",)),
        (not method.reads, ("reading",)),
        (not any(score.needs_data for score in method.scores), ("bn_mode",)),
        (fixed, ("prune_at",)),
        (once, ("rounds", "per_round")),
        (once or not divisible(method), ("equal_budget",)),  # one training, which gets the whole budget
    )
    return {name for where, names in idle if where for name in names if name in said}


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
"""The methods of the poster's Table A, in its order."""

LARGE, SMALLER = "resnext101-32x48d", "resnext101-32x16d"
THIRTY, EIGHTY = {"epochs": 30}, {"epochs": 80}

PART_OF_CIFAR = {"train_size": 10_000, "width": 16, "epochs": 10}
FLOOR = {"min_part": 0.1}
MAIN = ("earlycrop-s", "earlycrop-u", "crop-s", "crop-u")
BY_CHANNELS, BY_WEIGHTS = ("random-s", "snap", "crop-s", "earlycrop-s"), ("random-u", "snip", "crop-u", "earlycrop-u")
RECIPE = (
    *("dense", "random-s", "snap", "crop-s", "earlycrop-s", "earlycrop-s-random"),
    *("earlycrop-s-steps", "earlycrop-s-poster"),
)
"""The methods behind the default of EarlyCroP-S: its own, random choices in the same widths, the paper's score."""
OTHERS = ("cropit-s", "crop-s-poster", "crop-s-spread", "earlybird", "efficient-convnets", "gate-decorators")
EQUAL_COST = ("narrow-flops", "narrow-params", "random-flops")
QUARTER_WIDTH = {"train_size": 10_000, "width": 16, "batch_size": 128}
QUARTER = {"width": 16, "image_width": 152, "epochs": 6, "batch_size": 8, "recipe": "usual"}
PART_OF_PTB = {"train_size": 200_000, "epochs": 4, "batch_size": 16, "learning_rate": 3e-3}


def _small(task: str, data: str, fixed: Mapping[str, Any]) -> tuple[Grid, ...]:
    """What two cores can train: channels at two sparsities; three seeds of the main methods, and weights, at one."""
    where: Any = {"data": (data,), "fixed": fixed, "task": task}
    return (
        Grid(("dense", *BY_CHANNELS), (0.8, 0.95), **where),
        Grid(("dense", "snap", "earlycrop-s"), (0.95,), (0, 1, 2), **where),
        Grid(("crop-u", "earlycrop-u"), (0.95,), **where),
    )


def _recipe(
    sparsities: tuple[float, ...], seeds: tuple[int, ...], network: str, data: str, fixed: Mapping[str, Any]
) -> tuple[Grid, ...]:
    """The runs behind EarlyCroP's recipe: our methods and their controls, then the others, all at equal cost too."""
    where: Any = {"seeds": seeds, "networks": (network,), "data": (data,), "fixed": fixed, "beside": EQUAL_COST}
    return (Grid(RECIPE, sparsities, **where), Grid(OTHERS, sparsities[-1:], **where))


PRESETS: dict[str, tuple[Grid, ...]] = {
    "quick": (Grid(TABLE_A, sparsities=(0.9,), data=("digits",), fixed={"width": 16}),),
    "table-a": (Grid(TABLE_A, sparsities=(0.98,), networks=("vgg16-paper",), data=("tiny-imagenet",)),),
    "table-b": (
        Grid(("dense", "crop-s", "earlycrop-s"), (0.985,), networks=(LARGE,), data=("cifar10",), fixed=THIRTY),
        Grid(("dense",), networks=(SMALLER,), data=("cifar10",), fixed=THIRTY),
        Grid(("crop-s", "earlycrop-s"), (0.985,), networks=(LARGE,), data=("cifar10",), fixed=EIGHTY),
    ),
    "cifar10-small": (
        Grid(TABLE_A, (0.98,), data=("cifar10",), fixed=PART_OF_CIFAR),
        Grid(("dense", *MAIN, "snip", "snap"), (0.98,), (0, 1, 2), data=("cifar10",), fixed=PART_OF_CIFAR),
        Grid(MAIN, (0.9, 0.95), data=("cifar10",), fixed=PART_OF_CIFAR),
        Grid(("earlycrop-s", "crop-s", "snap"), (0.98,), (0, 1, 2), (None,), ("cifar10",), {**PART_OF_CIFAR, **FLOOR}),
        Grid(
            ("dense",), seeds=(0, 1, 2), data=("cifar10",), fixed={**PART_OF_CIFAR, "width": 4}
        ),  # small from the start
    ),
    "recipe-cnn": _recipe((0.8, 0.95), tuple(range(5)), "cnn", "digits", {"epochs": 12}),
    "recipe-vgg16": _recipe((0.98,), (0, 1, 2), "vgg16-paper", "cifar10", {**QUARTER_WIDTH, "epochs": 16}),
    "recipe-resnet18": _recipe((0.98, 0.95, 0.9), (0, 1, 2), "resnet18", "cifar10", {**QUARTER_WIDTH, "epochs": 10}),
    "depth": (Grid(("dense", *BY_CHANNELS, *BY_WEIGHTS), (0.8, 0.95), data=("nyu-depth-v2",), task="depth"),),
    "depth-small": _small("depth", "nyu-depth-v2", QUARTER),
    "language": (
        Grid(("dense", *BY_CHANNELS), (0.7,), data=("ptb",), fixed={"target": "node"}, task="language"),
        Grid(BY_WEIGHTS, (0.9,), data=("ptb",), task="language"),
    ),
    "language-small": _small("language", "ptb", PART_OF_PTB),
    "control": (
        Grid(("dense", "random-s", "snap", "earlycrop-s"), (0.98, 0.998), tuple(range(10)), task="control"),
        Grid(("crop-s",), (0.98, 0.998), (0, 1, 2), task="control"),
        Grid(BY_WEIGHTS, (0.9, 0.98), (0, 1, 2), task="control"),  # at 98 % a mask leaves nothing of the policy's head
    ),
}
"""Grids by name: Table A on digits, in minutes on two cores; Tables A and B as on the poster; FCRN and PSMM by their
recipes, and on parts of the data that two cores can train; policies, with ten seeds; and the runs behind the default
recipe, with narrow dense networks and random cuts at equal cost for each method."""


def get_preset(name: str) -> tuple[Grid, ...]:
    """The grids of that name.

    Raises:
        ValueError: There is no such preset; the message suggests the nearest.
    """
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        raise ValueError(f"No preset is called {name!r}. Did you mean {near!r}? There are {', '.join(PRESETS)}.")
    return PRESETS[name]


def runs_of(grids: Iterable[Grid]) -> list[Description]:
    """The runs of several grids, each once."""
    return list(dict.fromkeys(run for grid in grids for run in grid.runs()))


def too_short(grids: Iterable[Grid]) -> dict[Description, str]:
    """The runs of several grids that have too few epochs, and why."""
    return {run: why for grid in grids for run, why in grid.too_short().items()}


def check_meaning(said: Mapping[str, Any], grids: Sequence[Grid]) -> None:
    """Check that each of these fields applies to at least one method.

    Raises:
        ValueError: A field applies to none of the methods; the message names it and them.
    """
    methods = dict.fromkeys(method for grid in grids for method in grid.methods)
    idle = set.intersection(*(meaningless(earlycrop.get_method(name), said) for name in methods))
    for name in filter(idle.__contains__, said):
        raise ValueError(
            f"{name} means nothing to {', '.join(methods)}: leave it out, or name a method to which it does."
        )
