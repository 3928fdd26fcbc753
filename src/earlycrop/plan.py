"""What a cut would do, before anything is cut: each class's members, its score, and whether it stays."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from earlycrop.budget import Budget
from earlycrop.counting import Counts
from earlycrop.methods import Method
from earlycrop.parts import PartCount, part_lines
from earlycrop.reach import Reach
from earlycrop.report import Width, count_lines, plain, starvation_lines
from earlycrop.starvation import Bottleneck, bottlenecks
from earlycrop.structure import ChannelClass, Frozen
from earlycrop.structure.held import grouped
from earlycrop.units import AbstractUnits


@dataclass(frozen=True)
class Place:
    """The entries of one dimension of a tensor that belong to a class.

    Attributes:
        tensor: The name of the parameter or buffer.
        dim: The dimension.
        index: The entries along it.
    """

    tensor: str
    dim: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A class of coupled channels: it leaves whole or not at all.

    Attributes:
        members: Every place where it lives.
        worth: Its score; in a method of several steps, its last score.
        stays: Whether it would stay.
    """

    members: tuple[Place, ...]
    worth: float
    stays: bool


@dataclass(frozen=True)
class Row(Width):
    """A layer, before and after.

    Attributes:
        worst: The lowest score among its units; None if no unit may leave.
        best: The highest.
        spaces: Layers with a number in common are coupled: their channels leave together.
        frozen: Why its channels cannot leave, if they cannot.
        share: Its units' part of Σ|score| over all layers; in a balanced network all layers have similar parts.
    """

    worst: float | None
    best: float | None
    spaces: tuple[int, ...] = ()
    frozen: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class Plan:
    """What the pruner would do if its moment were now; nothing has been touched.

    Attributes:
        method: The method's name.
        unit: `weights` or `channels`.
        target: What the requested sparsity counts.
        requested_sparsity: The sparsity that was asked for.
        samples: Size of the scoring set.
        before: The network as it is.
        after: What would be left.
        rows: For each layer its width (output channels, or kept weights) and the scores of its units.
        frozen: What cannot leave, and why.
        classes: Every class of coupled channels; empty where single weights leave.
        variation: The part that would be left of the outputs' deviation over samples, see `Report`.
        reach: What part of all parameters the method could remove.
        parts: What each part would cost, if the budget has parts; `requested_sparsity` is then that of the rest.
    """

    method: str
    unit: str
    target: str
    requested_sparsity: float
    samples: int
    before: Counts
    after: Counts
    rows: tuple[Row, ...]
    frozen: tuple[Frozen, ...]
    classes: tuple[Candidate, ...]
    variation: float | None = None
    reach: Reach | None = None
    parts: tuple[PartCount, ...] = ()

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """Layers that the cut would starve, see `starvation.bottlenecks`."""
        widths = ((row.layer, row.before, row.after) for row in self.rows)
        shares = [row.share for row in self.rows]
        return bottlenecks(widths, self.after.prunable / self.before.prunable, self.unit, shares)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain numbers, strings and lists, ready for JSON; None stands for nan and infinity."""
        record = asdict(self) | {"before": self.before.as_dict(), "after": self.after.as_dict()}
        return plain(record | {"bottlenecks": [one.layer for one in self.bottlenecks]})

    def __str__(self) -> str:
        where = " outside the parts that have their own" if self.parts else ""
        title = f"{self.method} would reach {self.target} sparsity {self.requested_sparsity:g}{where} so"
        name = max([len(row.layer) for row in self.rows] + [5])
        coupled = self.unit == "channels"
        head = f"  {'layer':<{name}} {self.unit:>22}   worst worth   best worth{'   space' if coupled else ''}"
        counts = count_lines(self.before, self.after, self.unit, self.target)
        lines = [title, *counts, *part_lines(self.parts), head]
        for row in self.rows:
            worth = "".join(f"{'–' if one is None else f'{one:.3g}':>13}" for one in (row.worst, row.best))
            line = f"  {row.layer:<{name}} {row.before:>9,} -> {row.after:>9,} {worth}"
            if coupled:
                line += f"   {','.join(map(str, row.spaces)) or '–'}"
            lines.append(line + (f"   {row.frozen}" if row.frozen else ""))
        listed = {row.frozen for row in self.rows}
        lines += [f"  in reach    {self.reach}"] if self.reach is not None else []
        lines += [f"  frozen      {line}" for line in grouped(one for one in self.frozen if str(one) not in listed)]
        lines += starvation_lines(self.unit, self.bottlenecks, self.variation, self.samples > 0)
        return "\n".join(lines)


def plan_of(
    method: Method,
    budget: Budget,
    units: AbstractUnits,
    before: Counts,
    widths: Sequence[tuple[str, int]],
    worth: Tensor,
    samples: int,
    variation: float | None,
) -> Plan:
    """The plan of a trial cut.

    Args:
        method: The method that was tried.
        budget: How much was to leave.
        units: The units as the trial left them.
        before: The counts before the trial.
        widths: For each layer its name and number of units before.
        worth: The last score of each unit that there was before.
        samples: Size of the scoring set.
        variation: The part of the outputs' variation that is left.
    """
    rows, classes = _rows(units, widths, worth), _candidates(units, worth)
    return Plan(**findings(method, budget, units, before, samples, variation), rows=rows, classes=classes)


def findings(
    method: Method, budget: Budget, units: AbstractUnits, before: Counts, samples: int, variation: float | None
) -> dict[str, Any]:
    """What a plan and a report have in common, by the names of their attributes.

    Args:
        method: The method.
        budget: How much was to leave.
        units: The units after the cut.
        before: The counts before it.
        samples: Size of the scoring set.
        variation: The part of the outputs' variation that is left.
    """
    return {
        "method": method.name,
        "unit": method.units.noun,
        "target": budget.cost.name,
        "requested_sparsity": budget.sparsity,
        "samples": samples,
        "before": before,
        "after": units.counts(budget.cost),
        "frozen": units.frozen,
        "variation": variation,
        "reach": units.reach,
        "parts": units.part_counts(budget),
    }


def _rows(units: AbstractUnits, before: Sequence[tuple[str, int]], worth: Tensor) -> tuple[Row, ...]:
    """A row for each layer, from its width before and the score of every unit of the network before."""
    after = [width for _, width in units.widths()]
    layers = units.by_layer()
    parts = [worth[layer.index] for layer in layers]
    sums = [float(part.abs().sum()) for part in parts]
    total = sum(sums)
    shares = [one / total if total and part.numel() else None for one, part in zip(sums, parts, strict=True)]
    return tuple(
        Row(name, b, a, *_ends(part), layer.spaces, layer.frozen, share)
        for (name, b), a, part, layer, share in zip(before, after, parts, layers, shares, strict=True)
    )


def _candidates(units: AbstractUnits, worth: Tensor) -> tuple[Candidate, ...]:
    """Every class with its members, its score and whether it stays; empty where single weights leave."""

    def places(one: ChannelClass) -> tuple[Place, ...]:
        return tuple(Place(member.tensor, member.dim, tuple(member.index.tolist())) for member in one.members)

    classes = units.classes
    if not classes:
        return ()
    triples = zip(classes, worth.tolist(), units.keep.tolist(), strict=True)
    return tuple(Candidate(places(one), value, stays) for one, value, stays in triples)


def _ends(worth: Tensor) -> tuple[float | None, float | None]:
    return (float(worth.min()), float(worth.max())) if worth.numel() else (None, None)
