"""Two rows of the table compared: how much better one's metric is, and whether their times can be compared."""

from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Literal

from earlycrop_lab.reporting.columns import NAMED, Column, column, shown
from earlycrop_lab.reporting.conditions import comparable
from earlycrop_lab.reporting.intervals import Interval, welch, within
from earlycrop_lab.reporting.numbers import times
from earlycrop_lab.reporting.tables import SAME, Row
from earlycrop_lab.tasks.description import Metric

Comparative = Literal["better", "worse", "inconclusive"]


@dataclass(frozen=True)
class Difference:
    """How much better the metric of one row is than another's.

    Args:
        metric: The task's main metric.
        mine: Its values in the runs of the first row.
        theirs: Its values in the runs of the second row.
    """

    metric: Metric
    mine: tuple[float, ...]
    theirs: tuple[float, ...]

    @classmethod
    def of(cls, a: Row, b: Row) -> "Difference":
        """The difference of row `a` from row `b` of the same task."""
        mine, theirs = (
            tuple(value for result in row.results if (value := column(a.metric).read(result)) is not None)
            for row in (a, b)
        )
        return cls(a.metric, mine, theirs)

    @property
    def gain(self) -> float:
        """The difference of the means, positive where the first row is better."""
        return self.metric.gain(fmean(self.mine), fmean(self.theirs))

    @property
    def interval(self) -> Interval:
        """Welch's 95 % interval of the gain, clipped to the possible gains; with one run on a side, all possible gains.

        >>> accuracy = Metric("test_accuracy", "test accuracy", unit="%")
        >>> Difference(accuracy, (0.9, 1.0), (0.1, 0.5)).interval[1]  # Welch's interval ends at 2.4
        1.0
        """
        sign = 1 if self.metric.better == "higher" else -1
        low, high = self.metric.bounds
        found = welch([sign * value for value in self.mine], [sign * value for value in self.theirs])
        return within(found, (low - high, high - low))

    @property
    def verdict(self) -> Comparative:
        """Better or worse where the whole interval is on that side of zero, otherwise inconclusive."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "inconclusive"

    @property
    def figures(self) -> str:
        """Both means, with n."""
        return " and ".join(
            f"{shown(self.metric, fmean(values))} (n = {len(values)})" for values in (self.mine, self.theirs)
        )

    @property
    def text(self) -> str:
        """The gain, with its interval if there are enough runs for one."""
        scale, unit = (100, "points") if self.metric.unit == "%" else (1, self.metric.unit)
        text = f"{scale * self.gain:+.3g} {unit}".rstrip()
        if min(len(self.mine), len(self.theirs)) < 2:
            return text
        low, high = self.interval
        return f"{text} ({scale * low:+.3g} to {scale * high:+.3g})"


def ratio(a: Row, b: Row, cost: Column) -> float | None:
    """The mean cost of the first row over the second's; None where it is unknown or depends on unlike conditions."""
    if not comparable(cost.name, (*a.results, *b.results)):
        return None
    own, other = a.mean(cost), b.mean(cost)
    return own / other if own and other and isfinite(own / other) else None


def with_flops(a: Row, b: Row) -> str:
    """The ratio of two rows' FLOPs, as the end of a sentence that compares them; empty where they are equal."""
    found = ratio(a, b, NAMED["flops"])
    return "" if found is None or 1 / SAME <= found <= SAME else f", with {times(found)} of its FLOPs"
