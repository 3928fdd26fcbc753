"""How much each layer's units matter: the loss when one layer alone loses the lowest-scored part of its units.

`Pruner.sensitivity` asks it; nothing leaves. It shows which layers a `Budget` should spare, see its `parts`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earlycrop.budget import check_scores
from earlycrop.errors import BudgetError, EarlyCropError
from earlycrop.methods import Method
from earlycrop.report import plain
from earlycrop.structure.duplicates import duplicate
from earlycrop.units import AbstractUnits

Measure = Callable[[nn.Module], float]
"""Maps a model to a figure: its loss, its accuracy."""
Progress = Callable[[int, int], None]
"""Takes the number of measurements done and of all."""
USUAL = (0.25, 0.5, 0.75, 0.9)
"""The parts of a layer that leave, unless others are asked for."""


@dataclass(frozen=True)
class Probe:
    """What became of the figure when one layer, and nothing else, lost a part of its units.

    Attributes:
        layers: The layers whose units they are; several if their channels are coupled.
        sparsity: The part that was to leave.
        before: The number of units.
        after: The number that was left, one at least.
        value: The figure.
    """

    layers: tuple[str, ...]
    sparsity: float
    before: int
    after: int
    value: float


@dataclass(frozen=True)
class Sensitivity:
    """The figure of a network when each of its layers in turn loses each part of its units.

    Attributes:
        method: The method whose score says what leaves first.
        unit: `weights` or `channels`.
        figure: What was measured.
        whole: The figure of the network as it is.
        probes: For each layer, in the network's order, and each sparsity what was measured.
    """

    method: str
    unit: str
    figure: str
    whole: float
    probes: tuple[Probe, ...]

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities, each once."""
        return tuple(dict.fromkeys(probe.sparsity for probe in self.probes))

    @property
    def by_layer(self) -> dict[tuple[str, ...], tuple[Probe, ...]]:
        """The probes of each layer, or of layers whose channels are coupled."""
        found: dict[tuple[str, ...], list[Probe]] = {}
        for probe in self.probes:
            found.setdefault(probe.layers, []).append(probe)
        return {layers: tuple(probes) for layers, probes in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings and lists, ready for JSON; None stands for nan and infinity."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Sensitivity":
        """The answer of which `as_dict` returned this record."""
        probes = [one | {"layers": tuple(one["layers"]), "value": _number(one["value"])} for one in record["probes"]]
        return cls(**record | {"whole": _number(record["whole"]), "probes": tuple(Probe(**one) for one in probes)})

    def __str__(self) -> str:
        rows = {title_of(layers): probes for layers, probes in self.by_layer.items()}
        width = max([len(title) for title in rows] + [5])
        head = "".join(f"{f'{100 * sparsity:g} %':>10}" for sparsity in self.sparsities)
        lines = [
            f"{self.figure} when one layer loses its lowest {self.unit} by {self.method}; {self.whole:.4g} with all",
            f"  {'layer':<{width}} {self.unit:>9}{head}",
        ]
        for title, probes in rows.items():
            values = {probe.sparsity: f"{probe.value:.4g}" for probe in probes}
            cells = "".join(f"{values.get(sparsity, '–'):>10}" for sparsity in self.sparsities)
            lines.append(f"  {title:<{width}} {probes[0].before:>9,}{cells}")
        return "\n".join(lines)


def title_of(layers: Sequence[str], shown: int = 2) -> str:
    """Coupled layers in a few words.

    >>> title_of(["conv1"]), title_of(["stem", "conv2", "conv4"])
    ('conv1', 'stem, conv2 and 1 more')
    """
    more = len(layers) - shown
    return ", ".join(layers[:shown]) + (f" and {more} more" if more > 0 else "")


def named(measure: Measure | None) -> str:
    """The name of a figure."""
    return "loss" if measure is None else getattr(measure, "__name__", type(measure).__name__).strip("<>")


def probed(
    method: Method,
    units: AbstractUnits,
    scores: Tensor,
    figure: str,
    measure: Measure,
    sparsities: Sequence[float],
    progress: Progress | None = None,
) -> Sensitivity:
    """The figure of the network as it is, and with each layer cut by itself, each time in a copy.

    Args:
        method: The method that scored.
        units: The units; none leaves.
        scores: The score of each; the lowest leave first.
        figure: The name of what is measured.
        measure: Maps a model to the figure.
        sparsities: The parts of a layer's units that leave.
        progress: Called after each measurement.

    Raises:
        BudgetError: a sparsity is out of range.
        ScoreError: some score is not finite.
    """
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise BudgetError(
                f"A sparsity is the part of a layer that leaves, at least 0 and below 1; found {sparsity}."
            )
    scores, alive = scores.detach().cpu().double(), units.alive
    check_scores(scores[alive])
    groups = {names: here[alive[here]] for names, here in _groups(units)}
    groups = {names: here[torch.argsort(scores[here], descending=True, stable=True)] for names, here in groups.items()}
    asked = [(names, here, s) for names, here in groups.items() if len(here) for s in sparsities]
    whole, probes, known = _of(units, alive, measure), [], {}
    for done, (names, here, sparsity) in enumerate(asked, 1):
        left = max(len(here) - round(sparsity * len(here)), 1)
        if (names, left) not in known:  # narrow layers have fewer widths than there are sparsities
            keep = alive.clone()
            keep[here[left:]] = False
            known[names, left] = whole if left == len(here) else _of(units, keep, measure)
        if (value := known[names, left]) is not None:
            probes.append(Probe(names, sparsity, len(here), left, value))
        if progress is not None:
            progress(done, len(asked))
    assert whole is not None
    return Sensitivity(method.name, method.units.noun, figure, whole, tuple(probes))


def _groups(units: AbstractUnits) -> list[tuple[tuple[str, ...], Tensor]]:
    """For each space of units the names of the layers whose units they are, and their numbers; in the layers' order."""
    layer, number = units.layer, units.places(torch.ones_like(units.keep, device="cpu"))
    spaces = torch.full((units.keep.numel(),), -1)
    spaces[number] = layer
    names: dict[int, list[str]] = {}
    for (name, _), one in zip(units.widths(), units.by_layer(), strict=True):
        for space in spaces[one.index].unique().tolist():
            if space >= 0:
                names.setdefault(space, []).append(name)
    order, sizes = torch.argsort(layer, stable=True), torch.bincount(layer).tolist()
    members = order.split(sizes)
    return [(tuple(found), members[space]) for space, found in names.items()]


def _of(units: AbstractUnits, keep: Tensor, measure: Measure) -> float | None:
    """The figure of a copy in which only these units stay; None if masks would leave nothing to divide by."""
    trial = units.on(duplicate(units.model))
    if not bool(keep.all()):
        try:
            trial.keep_only(keep)
        except EarlyCropError:
            if units.masked is None:
                raise
            return None  # a row that is divided by its norm would keep no weight
    trial.model.eval()
    with torch.no_grad():
        return float(measure(trial.model))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
