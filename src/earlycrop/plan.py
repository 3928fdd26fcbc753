"""What a cut would do, before anything is cut: each class's members, its worth, and whether it stays."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from earlycrop.counting import Counts
from earlycrop.report import Width, count_lines, plain, starvation_lines
from earlycrop.starvation import Bottleneck, bottlenecks
from earlycrop.structure import ChannelClass, Frozen, Layer, Structure
from earlycrop.units import ChannelUnits, WeightUnits


@dataclass(frozen=True)
class Place:
    """The entries of one dimension of a tensor that belong to a class."""

    tensor: str
    dim: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A class of coupled channels: it leaves whole or not at all.

    Attributes:
        members: Every place where it lives.
        worth: Its score; in a method of several steps, the last that it was given.
        stays: Whether it would stay.
    """

    members: tuple[Place, ...]
    worth: float
    stays: bool


@dataclass(frozen=True)
class Row(Width):
    """A layer, before and after.

    Attributes:
        worst: The lowest score among its units; None where none may leave.
        best: The highest.
        spaces: Layers with a number in common are coupled: their channels leave together.
        frozen: Why its channels cannot leave, if they cannot.
        share: The part of the sum of all layers' scores, signs apart, that its units have; alike in a balanced network.
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
        requested_sparsity: What was asked for.
        samples: Size of the scoring set.
        before: The network as it is.
        after: What would be left.
        rows: Per layer its width (output channels, or kept weights) and the worth of its units.
        frozen: What cannot leave, and why.
        classes: Every class of coupled channels; empty where single weights leave.
        variation: The part that would be left of the outputs' deviation over samples, see `Report`.
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

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """Layers that the cut would starve, see `starvation.bottlenecks`."""
        widths = ((row.layer, row.before, row.after) for row in self.rows)
        shares = [row.share for row in self.rows]
        return bottlenecks(widths, self.after.prunable / self.before.prunable, self.unit, shares)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: plain numbers, strings, lists; None for what is not a number."""
        record = asdict(self) | {"before": self.before.as_dict(), "after": self.after.as_dict()}
        return plain(record | {"bottlenecks": [one.layer for one in self.bottlenecks]})

    def __str__(self) -> str:
        title = f"{self.method} would reach {self.target} sparsity {self.requested_sparsity:g} so"
        name = max([len(row.layer) for row in self.rows] + [5])
        coupled = self.unit == "channels"
        head = f"  {'layer':<{name}} {self.unit:>22}   worst worth   best worth{'   space' if coupled else ''}"
        lines = [title, *count_lines(self.before, self.after, self.unit, self.target), head]
        for row in self.rows:
            worth = "".join(f"{'–' if one is None else f'{one:.3g}':>13}" for one in (row.worst, row.best))
            line = f"  {row.layer:<{name}} {row.before:>9,} -> {row.after:>9,} {worth}"
            if coupled:
                line += f"   {','.join(map(str, row.spaces)) or '–'}"
            lines.append(line + (f"   {row.frozen}" if row.frozen else ""))
        listed = {row.frozen for row in self.rows}
        lines += [f"  frozen      {frozen}" for frozen in self.frozen if str(frozen) not in listed]
        lines += starvation_lines(self.unit, self.bottlenecks, self.variation, self.samples > 0)
        return "\n".join(lines)


def rows_of(units: ChannelUnits | WeightUnits, before: Sequence[tuple[str, int]], worth: Tensor) -> tuple[Row, ...]:
    """A row for each layer, given its width before and the worth of every unit of the network before."""
    after = [width for _, width in units.widths()]
    if isinstance(units, WeightUnits):
        parts = [(part, (), None) for part in worth.split(units.sizes)]
    else:
        spaces = units.dense.spaces()
        parts = [_of(layer, units.dense, spaces, worth) for layer in units.layers]
    sums = [float(part.abs().sum()) for part, _, _ in parts]
    total = sum(sums)
    shares = [one / total if total and part.numel() else None for one, (part, _, _) in zip(sums, parts, strict=True)]
    return tuple(
        Row(name, b, a, *_ends(part), spaces, frozen, share)
        for (name, b), a, (part, spaces, frozen), share in zip(before, after, parts, shares, strict=True)
    )


def candidates(structure: Structure, keep: Tensor, worth: Tensor) -> tuple[Candidate, ...]:
    """Every class with its members, its worth and its fate."""

    def places(one: ChannelClass) -> tuple[Place, ...]:
        return tuple(Place(member.tensor, member.dim, tuple(member.index.tolist())) for member in one.members)

    triples = zip(structure.classes, worth.tolist(), keep.tolist(), strict=True)
    return tuple(Candidate(places(one), value, stays) for one, value, stays in triples)


def _of(
    layer: Layer, structure: Structure, spaces: Tensor, worth: Tensor
) -> tuple[Tensor, tuple[int, ...], str | None]:
    """The worth of a layer's classes, their spaces, and why its other channels are frozen."""
    found = structure.tensors[layer.weight].classes[layer.dim]
    inside = torch.tensor([], dtype=torch.int64) if found is None else found[found >= 0].unique()
    where = f"{layer.weight} dim {layer.dim}"
    why = next((str(one) for one in structure.frozen if one.where == where), None)
    if layer.weight in structure.outputs:
        why = "an output of the network"
    return worth[inside], tuple(spaces[inside].unique().tolist()), why


def _ends(worth: Tensor) -> tuple[float | None, float | None]:
    return (float(worth.min()), float(worth.max())) if worth.numel() else (None, None)
