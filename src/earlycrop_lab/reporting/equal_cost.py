"""Who is better at equal cost: each row that removes channels beside what costs as much.

There are three budgets: the FLOPs and the parameters of the network that is trained to the end, and the FLOPs of
training, which are those of the network as it is in each epoch, over all epochs. At equal FLOPs and equal parameters a
row stands beside the dense network that is narrow from birth, at equal FLOPs beside a random cut too. A row that is cut
before training can be trained for more epochs: at equal training FLOPs it stands beside dense, and beside rows that are
cut later. Widths and epochs are whole numbers, so costs are only nearly equal, and each comparison says how nearly.
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
"""Costs further apart than this factor are not equal; the nearest whole width never is, from a width of 2 on."""
HOW = (
    "Each row that removes channels beside what costs nearly as much. The multiples are of the other's cost: ×1.07 "
    "FLOPs means that the other has 1.07 times as many. A row is better or worse where the whole 95 % interval of the "
    "difference is on that side; else the comparison is inconclusive. Training FLOPs are those of the network as it is "
    "in each epoch, over all epochs. Training time is measured; it is given where both ran on the same kind of machine."
)


def training_flops(result: Result) -> float | None:
    """FLOPs of an example, of the network as it is in each epoch, over all epochs; None if training is between cuts."""
    c = result.columns
    if _trains_between_cuts(result.description) or c.flops_before is None or c.flops_after is None:
        return None
    return sum(c.flops_before if epoch.phase == "dense" else c.flops_after for epoch in result.epochs)


def _trains_between_cuts(d: Description) -> bool:
    """Whether there are networks between the first and the last, whose FLOPs no result has."""
    method = pruning_method(d)
    if not isinstance(method.timing, AbstractPruningSchedule):
        return False
    return len(set(method.timing.moments(d.budget, len(method.steps.towards(d.sparsity))))) > 1


BUDGETS = {
    "FLOPs": NAMED["flops"],
    "parameters": NAMED["parameters"],
    "training FLOPs": Column("training_flops", "training FLOPs", "", training_flops),
    "training time": NAMED["seconds"],
}
"""In what costs are compared. Training time is only reported: it is noisy, so no run is made to take as long."""
HEADINGS = ("pruned", "beside", "at equal", "figures", "difference", "verdict", *BUDGETS)
"""Of a comparison's cells."""


@dataclass(frozen=True)
class Comparison:
    """A row beside another that costs nearly as much.

    Args:
        row: It removes channels.
        other: What it is compared with.
        equal: Of `BUDGETS`, those that are equal.
    """

    row: Row
    other: Row
    equal: tuple[str, ...]

    @property
    def difference(self) -> Difference:
        """How much better the row's figure is."""
        return Difference.of(self.row, self.other)

    def ratio(self, budget: str) -> float | None:
        """How many times the row's cost the other has."""
        return ratio(self.other, self.row, BUDGETS[budget])

    @property
    def names(self) -> tuple[str, str]:
        """The row and the other; of the other also the width and the epochs if they are not the row's."""
        mine, theirs = self.row.description, self.other.description
        width = f", width {theirs.width}" * (theirs.width != mine.width)
        epochs = ", {} epochs" * (theirs.epochs != mine.epochs)
        return self.row.label + epochs.format(mine.epochs), self.other.label + width + epochs.format(theirs.epochs)

    @property
    def cells(self) -> tuple[str, ...]:
        """As `HEADINGS`."""
        found = self.difference
        costs = [NONE if (each := self.ratio(budget)) is None else times(each) for budget in BUDGETS]
        return (*self.names, " and ".join(self.equal), found.figures, found.text, found.verdict, *costs)

    def marked(self, bold: str, escaped: Callable[[str], str] = str) -> list[str]:
        """The cells, with the verdict and the costs that are equal in that form."""
        heavy = ("verdict", *self.equal)
        texts = zip(HEADINGS, map(escaped, self.cells), strict=True)
        return [bold.format(text) if heading in heavy else text for heading, text in texts]

    def __str__(self) -> str:
        name, other, equal, figures, text, verdict, *costs = self.cells
        verb = {"better": "is better than", "worse": "is worse than"}.get(verdict, "and")
        end = ": inconclusive" * (verdict == "inconclusive")
        told = ", ".join(f"{cost} {each}" for cost, each in zip(costs, BUDGETS, strict=True) if cost != NONE)
        return f"{name} {verb} {other} at equal {equal}{end}: {figures}, difference {text}; the other has {told}"


def comparisons(rows: Iterable[Row]) -> dict[str, list[Comparison]]:
    """By setting, each row that removes channels beside what there is at equal cost; smoke runs are no rows."""
    rows = [row for row in rows if row.description.max_steps is None]
    found: dict[str, list[Comparison]] = defaultdict(list)
    for row in rows:
        if not row.prunes or row.masks:
            continue
        slim = narrower(row, rows)
        random = [each for each in rows if each.setting == row.setting and each.description.method == "random-s"]
        if row.description.method == "random-s":
            random = []
        found[row.setting] += [*_nearest(row, slim, ("FLOPs", "parameters")), *_nearest(row, random, ("FLOPs",))]
        for shorter in _shorter(row, rows):
            found[shorter.setting] += _nearest(row, [shorter], ("training FLOPs",))
    return {setting: each for setting, each in found.items() if each}


def narrower(row: Row, rows: Iterable[Row]) -> list[Row]:
    """The dense rows of the same network in a smaller width, trained alike; the narrowest first."""
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
    """Of rows of one setting, the random cuts to the FLOPs of the others, whose sparsity is of another kind."""
    others = {row.description.target for row in rows if row.prunes and row.description.method != "random-s"}
    random = [row for row in rows if row.description.method == "random-s" and row.description.target == "flops"]
    return random if others and "flops" not in others else []


def _shorter(row: Row, rows: Iterable[Row]) -> list[Row]:
    """Of a row that is cut before training: dense, and rows cut later to the same sparsity, with fewer epochs."""
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
    """The row beside those of these whose costs are nearest, each once; nothing where none is near."""
    equal: dict[int, list[str]] = defaultdict(list)
    for budget in budgets:
        ratios = [(place, ratio(other, row, BUDGETS[budget])) for place, other in enumerate(others)]
        distances = [(abs(log(each)), place) for place, each in ratios if each is not None]
        if distances and min(distances)[0] <= log(NEAR):
            equal[min(distances)[1]].append(budget)
    return [Comparison(row, others[place], tuple(found)) for place, found in equal.items()]


def markdown(found: dict[str, list[Comparison]], heading: str = "## At equal cost") -> str:
    """A Markdown table for each setting; nothing where there is none."""
    if not found:
        return ""
    parts = [heading, HOW]
    for setting, each in found.items():
        lines = [[*HEADINGS], ["---"] * len(HEADINGS), *([*one.marked("**{}**")] for one in each)]
        parts.append(f"**{setting}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"
