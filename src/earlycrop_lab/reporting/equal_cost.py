"""Which method is better at equal cost: each one that removes channels, compared with networks that cost as much.

There are three budgets: the FLOPs and the parameters of the final network, and the FLOPs of training, which are those
of the network as it is in each epoch, summed over all epochs. At equal FLOPs and at equal parameters, a method is
compared with the dense network that is narrow from the start; at equal FLOPs, also with a random cut. A network pruned
before training can be trained for more epochs: at equal training FLOPs it is compared with the dense network, and with
methods that prune later. Widths and epochs are whole numbers, so costs are only nearly equal, and each comparison
gives their ratios.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log

from earlycrop.timing import AbstractPruningSchedule
from earlycrop_lab.reporting.columns import NAMED, Column
from earlycrop_lab.reporting.differences import Difference, ratio
from earlycrop_lab.reporting.numbers import NONE, times
from earlycrop_lab.reporting.tables import Row
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import Description, pruning_method

NEAR = 1.5
"""Costs that differ by more than this factor are not equal; from width 2 on, the nearest whole width is closer."""
HOW = (
    "Each method that removes channels, compared with networks that cost nearly as much. The multiples are the other "
    "network's cost: ×1.07 FLOPs means that it has 1.07 times as many. A method is better or worse where the whole "
    "95 % interval of the difference is on that side; otherwise the comparison is inconclusive. Training FLOPs are "
    "those of the network as it is in each epoch, summed over all epochs. Training time is measured; it is given where "
    "both ran on the same kind of machine."
)


def training_flops(result: Result) -> float | None:
    """FLOPs per example of the network in each epoch, summed over all epochs; None if it is trained between cuts."""
    c = result.columns
    if _trains_between_cuts(result.description) or c.flops_before is None or c.flops_after is None:
        return None
    return sum(c.flops_before if epoch.phase == "dense" else c.flops_after for epoch in result.epochs)


def _trains_between_cuts(d: Description) -> bool:
    """Whether there are networks between the first and the last, whose FLOPs no result records."""
    method = pruning_method(d)
    if not isinstance(method.timing, AbstractPruningSchedule):
        return False
    return len(set(method.timing.moments(d.budget, len(method.steps.towards(d.highest))))) > 1


BUDGETS = {
    "FLOPs": NAMED["flops"],
    "parameters": NAMED["parameters"],
    "training FLOPs": Column("training_flops", "training FLOPs", "", training_flops),
    "training time": NAMED["seconds"],
}
"""The costs that are compared. Training time is only reported: it is noisy, so no run is derived from it."""
HEADINGS = ("pruned", "beside", "at equal", "figures", "difference", "verdict", *BUDGETS)
"""The headings of a comparison's cells."""


@dataclass(frozen=True)
class Comparison:
    """A pruned row compared with another that costs nearly as much.

    Args:
        row: The row, of a method that removes channels.
        other: The row that it is compared with.
        equal: The names of the `BUDGETS` that are equal.
    """

    row: Row
    other: Row
    equal: tuple[str, ...]

    @property
    def difference(self) -> Difference:
        """How much better the row's metric is."""
        return Difference.of(self.row, self.other)

    def ratio(self, budget: str) -> float | None:
        """The other row's cost as a multiple of this row's; None where it is unknown."""
        return ratio(self.other, self.row, BUDGETS[budget])

    @property
    def names(self) -> tuple[str, str]:
        """The names of both rows, with the other's width and both numbers of epochs where these differ."""
        mine, theirs = self.row.description, self.other.description
        width = f", width {theirs.width}" * (theirs.width != mine.width)
        epochs = ", {} epochs" * (theirs.epochs != mine.epochs)
        return self.row.label + epochs.format(mine.epochs), self.other.label + width + epochs.format(theirs.epochs)

    @property
    def cells(self) -> tuple[str, ...]:
        """The comparison as texts, in the order of `HEADINGS`."""
        found = self.difference
        costs = [NONE if (each := self.ratio(budget)) is None else times(each) for budget in BUDGETS]
        return (*self.names, " and ".join(self.equal), found.figures, found.text, found.verdict, *costs)

    def marked(self, bold: str, escaped: Callable[[str], str] = str) -> list[str]:
        """The cells, each escaped, with the verdict and the equal costs formatted by `bold`."""
        heavy = ("verdict", *self.equal)
        texts = zip(HEADINGS, map(escaped, self.cells), strict=True)
        return [bold.format(text) if heading in heavy else text for heading, text in texts]

    def __str__(self) -> str:
        name, other, equal, figures, text, verdict, *costs = self.cells
        verb = {"better": "is better than", "worse": "is worse than"}.get(verdict, "and")
        end = ": inconclusive" * (verdict == "inconclusive")
        stated = ", ".join(f"{cost} {each}" for cost, each in zip(costs, BUDGETS, strict=True) if cost != NONE)
        return f"{name} {verb} {other} at equal {equal}{end}: {figures}, difference {text}; the other has {stated}"


def comparisons(rows: Iterable[Row]) -> dict[str, list[Comparison]]:
    """By setting, each row that removes channels with those of equal cost; smoke runs are left out."""
    rows = [row for row in rows if row.description.max_steps is None]
    found: dict[str, list[Comparison]] = defaultdict(list)
    for row in rows:
        if not row.prunes or row.masks:
            continue
        slim = narrower(row, rows)
        random = [each for each in rows if each.description.method == "random-s" and _alike(each, row)]
        if row.description.method == "random-s":
            random = []
        found[row.setting] += [*_nearest(row, slim, ("FLOPs", "parameters")), *_nearest(row, random, ("FLOPs",))]
        for shorter in _shorter(row, rows):
            found[shorter.setting] += _nearest(row, [shorter], ("training FLOPs",))
    return {setting: each for setting, each in found.items() if each}


def _alike(a: Row, b: Row) -> bool:
    """Whether two rows differ in nothing but what leaves, and when: neither in the setting nor in the scale."""
    return a.setting == b.setting and pruning_method(a.description).rescale == pruning_method(b.description).rescale


def narrower(row: Row, rows: Iterable[Row]) -> list[Row]:
    """The dense rows of the same network in smaller widths, trained in the same way; the narrowest first."""
    twin = row.description.dense_twin()
    alike = [
        (width, each)
        for each in rows
        if type(d := each.description) is type(twin)
        and (width := d.width or 0) < (twin.width or 0)
        and replace(twin, width=d.width, seed=d.seed) == d
    ]
    return [each for _, each in sorted(alike, key=lambda pair: pair[0])]


def controls(rows: Sequence[Row]) -> list[Row]:
    """Of the rows of one setting, the random cuts to the FLOPs of others whose sparsity counts something else."""
    others = {row.description.target for row in rows if row.prunes and row.description.method != "random-s"}
    random = [row for row in rows if row.description.method == "random-s" and row.description.target == "flops"]
    return random if others and "flops" not in others else []


def _shorter(row: Row, rows: Iterable[Row]) -> list[Row]:
    """For a row pruned before training: dense rows, and rows pruned later to the same sparsity, with fewer epochs."""
    d = row.description
    if any(result.report is None or result.report["epoch"] > 0 for result in row.results):
        return []
    return [
        each
        for each in rows
        if each.description.task == d.task
        and not each.masks
        and each.description.epochs < d.epochs
        and replace(each.description.dense_twin(), epochs=d.epochs, seed=d.seed) == d.dense_twin()
        and (not each.prunes or (each.sparsity == row.sparsity and _late(each)))
    ]


def _late(row: Row) -> bool:
    return all(result.report and result.report["epoch"] > 0 for result in row.results)


def _nearest(row: Row, others: Sequence[Row], budgets: Sequence[str]) -> list[Comparison]:
    """The row compared with the nearest of the others in each budget, each at most once; empty where none is near."""
    equal: dict[int, list[str]] = defaultdict(list)
    for budget in budgets:
        ratios = [(place, ratio(other, row, BUDGETS[budget])) for place, other in enumerate(others)]
        distances = [(abs(log(each)), place) for place, each in ratios if each is not None]
        if distances and min(distances)[0] <= log(NEAR):
            equal[min(distances)[1]].append(budget)
    return [Comparison(row, others[place], tuple(found)) for place, found in equal.items()]


def markdown(found: dict[str, list[Comparison]], heading: str = "## At equal cost") -> str:
    """The comparisons as one Markdown table for each setting; empty where there are none."""
    if not found:
        return ""
    parts = [heading, HOW]
    for setting, each in found.items():
        lines = [[*HEADINGS], ["---"] * len(HEADINGS), *([*one.marked("**{}**")] for one in each)]
        parts.append(f"**{setting}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"
