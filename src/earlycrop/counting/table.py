"""Measured seconds of operators as functions of their widths."""

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from statistics import fmean, median
from typing import Any

from earlycrop.counting.sizes import Sizes
from earlycrop.errors import BudgetError

Place = tuple[int, int]
"""An operand of an operator, and one of its dimensions."""


@dataclass(frozen=True)
class Entry:
    """An operator, timed at several widths.

    Attributes:
        axes: What changes in a cut: each axis is a width, which is found at several places.
        widths: For each axis the widths that were measured, from small to large; or, where several axes were measured
            together (`joint`), one row: the sums over all places.
        seconds: The median at each combination of widths, the last axis fastest.
        spreads: Half the range of the middle half of the repeats, over the median.
        joint: Whether all axes were measured together, as fractions of their dense widths.
    """

    axes: tuple[tuple[Place, ...], ...]
    widths: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...]
    spreads: tuple[float, ...]
    joint: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Entry":
        """The entry of which `asdict` made this record, read from a file."""
        axes = tuple(tuple((int(a), int(b)) for a, b in axis) for axis in record["axes"])
        widths = tuple(tuple(int(width) for width in row) for row in record["widths"])
        seconds, spreads = (tuple(float(one) for one in record[key]) for key in ("seconds", "spreads"))
        made = cls(axes, widths, seconds, spreads, bool(record["joint"]))
        count = 1
        for row in widths:
            count *= len(row)
        rising = all(row and list(row) == sorted(set(row)) for row in widths)
        if len(seconds) != count or len(spreads) != count or not rising or not all(0 <= one < 1e6 for one in seconds):
            raise ValueError("an entry whose numbers do not fit together")
        return made

    def at(self, shapes: Sequence[Sequence[int]]) -> float:
        """The seconds at these shapes of the operands, interpolated; it never falls when a width grows.

        Raises:
            IndexError: the operands are others, or wider than what was measured.
        """
        places = self.axes if not self.joint else (tuple(place for axis in self.axes for place in axis),)
        sizes = [[shapes[operand][dim] for operand, dim in axis] for axis in places]
        return self._interpolated([sum(each) if self.joint else each[0] for each in sizes])

    def _interpolated(self, widths: Sequence[int]) -> float:
        corners = []
        for width, row in zip(widths, self.widths, strict=True):
            if width > row[-1]:
                raise IndexError(f"{width} is wider than what was measured")
            above = bisect_left(row, width)
            below = max(above - 1, 0)
            part = (width - row[below]) / (row[above] - row[below]) if above > below else 1.0
            corners.append(((below, 1 - part), (above, part)))
        total = 0.0
        for corner in product(*corners):
            place, weight = 0, 1.0
            for (index, share), row in zip(corner, self.widths, strict=True):
                place, weight = place * len(row) + index, weight * share
            total += weight * self._rising[place] if weight else 0.0
        return total

    @cached_property
    def _rising(self) -> list[float]:
        """The medians, made to rise with every width: the mean of the largest below and the smallest above."""
        low, high, stride = [*self.seconds], [*self.seconds], 1
        for row in reversed(self.widths):
            for place in range(len(low)):
                if place // stride % len(row):
                    low[place] = max(low[place], low[place - stride])
            for place in reversed(range(len(high))):
                if place // stride % len(row) < len(row) - 1:
                    high[place] = min(high[place], high[place + stride])
            stride *= len(row)
        return [(a + b) / 2 for a, b in zip(low, high, strict=True)]


@dataclass(frozen=True)
class Timing:
    """The time of a whole network: its operators' sum by the table, what was measured, and its spread."""

    table: float
    seconds: float
    spread: float


@dataclass(frozen=True)
class Table:
    """A network's operators, each with its times, and how their sum becomes that of the network.

    Attributes:
        calls: For each operator its name and its entry.
        timings: The times of the network, dense and cut.
    """

    calls: tuple[tuple[str, Entry], ...]
    timings: tuple[Timing, ...]

    def seconds(self, sizes: Sizes) -> float:
        """The predicted time of the network that was measured, whole or cut.

        Raises:
            BudgetError: another network was measured.
        """
        return self._predicted(self.sum(sizes))

    def sum(self, sizes: Sizes) -> float:
        """The sum of all operators' times.

        Raises:
            BudgetError: another network was measured.
        """
        operations, total = sizes.work.operations, 0.0
        for number, operation in enumerate(operations):
            name, entry = self.calls[number] if number < len(self.calls) else ("no operator", Entry((), (), (), ()))
            if name.partition("(")[0] != operation.name.partition("(")[0]:
                raise _of_another(number, name, operation.name)
            try:
                total += entry.at([sizes.left(one) for one in operation.operands])
            except IndexError:
                raise _of_another(number, name, operation.name) from None
        if len(operations) < len(self.calls):
            raise _of_another(len(operations), self.calls[len(operations)][0], "no operator")
        return total

    @cached_property
    def fit(self) -> tuple[float, float]:
        """How a network's seconds follow from the table's sum: factor * sum ** power, by least squares of logarithms.

        The power is positive, for more channels must not cost less. Above 1 it says that small operators take less in a
        network than alone, where nothing is in the caches; below 1 that something does not shrink.
        """
        points = [(math.log(one.table), math.log(one.seconds)) for one in self.timings if one.table > 0]
        if not points:
            return 1.0, 1.0
        x, y = (fmean(point[k] for point in points) for k in (0, 1))
        spread = sum((a - x) ** 2 for a, _ in points)
        power = sum((a - x) * (b - y) for a, b in points) / spread if spread > 1e-6 else 1.0
        power = power if power > 0 else 1.0
        return math.exp(y - power * x), power

    @property
    def error(self) -> float:
        """The largest relative error among the networks that were timed."""
        return max((abs(self._predicted(one.table) / one.seconds - 1) for one in self.timings), default=0)

    def _predicted(self, total: float) -> float:
        factor, power = self.fit
        return factor * total**power

    @property
    def spread(self) -> float:
        """The median of all spreads."""
        return median([spread for _, entry in self.calls for spread in entry.spreads] or [0.0])

    @cached_property
    def digest(self) -> str:
        """Eight letters that distinguish the measurements."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def _of_another(number: int, measured: str, found: str) -> BudgetError:
    return BudgetError(
        f"The latency of another network was measured: its operator {number} is {measured}, and here it is {found}. "
        f"Call Latency.measured with this model, before its first cut."
    )
