"""When does early pruning pay? The share of the budget that is trained before the cut, against the budget.

`early` cuts one network at several shares of several budgets, share 0 being before training, and trains each to the end
of its budget. All runs of a seed branch from one dense training at a constant rate. A pruned network costs less per
epoch, so one pruned before training can train for longer at the same cost: for each early run that one is trained too.
`cells` gives for each budget and sparsity the best share, and whether it pays at equal epochs and at equal cost.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from statistics import fmean
from time import perf_counter
from typing import Any, Self

from earlycrop_lab.reporting.columns import spread_percent
from earlycrop_lab.reporting.differences import Difference
from earlycrop_lab.reporting.numbers import NONE
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import pruning_method
from earlycrop_lab.why.branches import Branch, Seen, Stem, grown
from earlycrop_lab.why.moments import watched

BUDGETS = (10, 20, 40, 80)
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
MOST = 2
"""The most times the budget that a network pruned before training may train, to cost as much as an early one."""

Key = tuple[float, int, int, int]


@dataclass(frozen=True)
class Early:
    """A run that was cut at one epoch.

    Args:
        sparsity: The requested sparsity.
        seed: Seed of the initial weights.
        epochs: All epochs.
        epoch: The epoch of the cut.
        accuracy: Test accuracy after the last epoch.
        flops_before: FLOPs of a forward pass for one example, dense.
        flops_after: FLOPs of a forward pass after the cut.
        seconds: Seconds from the cut to the end.
    """

    sparsity: float
    seed: int
    epochs: int
    epoch: int
    accuracy: float
    flops_before: float
    flops_after: float
    seconds: float

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Restore it from JSON, which has null for nan."""
        values: dict[str, Any] = {name: nan if value is None else value for name, value in stored.items()}
        return cls(**values)

    @property
    def key(self) -> Key:
        """Its key among the records of one question: sparsity, seed, epochs and epoch of the cut."""
        return self.sparsity, self.seed, self.epochs, self.epoch

    @property
    def cost(self) -> float:
        """FLOPs of a forward pass for one example, summed over the epochs.

        >>> Early(0.9, 0, 10, 4, 0.5, flops_before=100.0, flops_after=10.0, seconds=1.0).cost
        460.0
        """
        return self.epoch * self.flops_before + (self.epochs - self.epoch) * self.flops_after


@dataclass(frozen=True)
class Mark:
    """When a detector would cut in the dense training that the runs share.

    Args:
        rule: Its name.
        sparsity: The sparsity for which it decides.
        seed: Seed of the initial weights.
        epoch: The first epoch at which it would cut, without its cap; None if it never would.
        watched: The number of epochs that it observed.
    """

    rule: str
    sparsity: float
    seed: int
    epoch: float | None
    watched: int

    @property
    def key(self) -> tuple[str, float, int, int]:
        """Its key among the marks of one question: rule, sparsity, seed and number of epochs."""
        return self.rule, self.sparsity, self.seed, self.watched


def moment(budget: int, share: float) -> int:
    """The whole epoch nearest to a share of a budget; of two equally near, the later.

    >>> [moment(10, share) for share in SHARES]
    [0, 1, 1, 3, 5]
    """
    return int(share * budget + 0.5)


def moments(budget: int, shares: Sequence[float]) -> list[int]:
    """The epochs of the cuts of a budget, each once; 0 is always among them."""
    return sorted({0, *(moment(budget, share) for share in shares)})


def longer(run: Early, start: Early) -> int | None:
    """Epochs that a cut before training gets for an early run's cost, at most `MOST` budgets; None if no more.

    >>> early, start = (Early(0.9, 0, 10, epoch, 0.5, 100.0, 50.0, 1.0) for epoch in (4, 0))
    >>> longer(early, start), longer(start, start)  # 4 + 6 / 2 dense epochs
    (14, None)
    """
    if not isfinite(run.cost) or not isfinite(start.flops_after):
        return None
    epochs = min(round(run.cost / start.flops_after), MOST * run.epochs)
    return epochs if epochs > run.epochs else None


def early(
    d: Classification,
    sparsities: Sequence[float],
    budgets: Sequence[int] = BUDGETS,
    shares: Sequence[float] = SHARES,
    *,
    done: Sequence[Early] = (),
    root: str | None = None,
    device: str = "cpu",
    watch: Callable[[Branch], None] | None = None,
) -> Iterator[Early]:
    """Train every run of one seed that is not done yet.

    Args:
        d: The method, the network, the data and the seed; its budget is ignored.
        sparsities: Fractions to remove.
        budgets: Budgets, in epochs.
        shares: Shares of the budget before the cut.
        done: Runs that exist already.
        root: The folder of the data sets.
        device: The device to train on.
        watch: Called with each branch right after its cut.

    Raises:
        ValueError: The method cannot be cut at a given epoch, or a budget is too short for it.
    """
    check(d, sparsities, budgets, shares)
    found = {run.key: run for run in done if run.seed == d.seed}

    def run(stem: Stem, sparsity: float, epochs: int) -> Iterator[Early]:
        asked = replace(d, sparsity=sparsity, epochs=epochs, prune_at=float(stem.epoch))
        if (sparsity, d.seed, epochs, stem.epoch) in found:
            return
        began = perf_counter()
        branch = stem.cut(asked, pruning_method(asked), looked.get(sparsity))
        if watch is not None:
            watch(branch)
        counts = branch.report.before.flops, branch.report.after.flops
        accuracy = branch.finish()
        one = Early(sparsity, d.seed, epochs, stem.epoch, accuracy, *counts, seconds=perf_counter() - began)
        found[one.key] = one
        yield one

    looked: dict[float, Seen] = {}
    wanted = [(epoch, s, budget) for budget in budgets for epoch in moments(budget, shares) for s in sparsities]
    lacking = [each for each in wanted if (each[1], d.seed, each[2], each[0]) not in found]
    for stem in grown(d, max((epoch for epoch, *_ in lacking), default=0), root, device):
        if stem.epoch == 0:
            for sparsity in sparsities:
                asked = replace(d, sparsity=sparsity, epochs=max(budgets), prune_at=0.0)
                if (method := pruning_method(asked)).widths_first:
                    looked[sparsity] = stem.look(asked, method)
        for epoch, sparsity, budget in lacking:
            if epoch == stem.epoch:
                yield from run(stem, sparsity, budget)
    stem = next(grown(d, 0, root, device))
    for epoch, sparsity, budget in wanted:
        start = found[sparsity, d.seed, budget, 0]
        if epoch and (epochs := longer(found[sparsity, d.seed, budget, epoch], start)):
            yield from run(stem, sparsity, epochs)


def marks(
    d: Classification,
    sparsities: Sequence[float],
    epochs: int,
    *,
    samples: int = 8,
    done: Collection[tuple[str, float, int, int]] = (),
    root: str | None = None,
    device: str = "cpu",
) -> Iterator[Mark]:
    """When each detector would cut in the dense training of one seed, for each sparsity."""
    for sparsity in sparsities:
        if any(key[1:] == (sparsity, d.seed, epochs) for key in done):
            continue
        at_first = replace(d, sparsity=sparsity, epochs=epochs, prune_at=0.0)  # without its own detector
        seen = watched(at_first, samples=samples, root=root, device=device)
        for rule in seen.rules:
            yield Mark(rule.rule, sparsity, d.seed, rule.chosen, epochs)


def check(d: Classification, sparsities: Sequence[float], budgets: Sequence[int], shares: Sequence[float]) -> None:
    """Refuse impossible runs before any is trained.

    Raises:
        ValueError: The method cannot be cut at a given epoch, or a share or a budget is invalid.
    """
    if any(not 0 <= share < 1 for share in shares):
        raise ValueError(f"shares are parts of the budget, from 0 and below 1; found {' '.join(map(str, shares))}.")
    for budget in budgets:
        for epoch in moments(budget, shares):
            for sparsity in sparsities:
                pruning_method(replace(d, sparsity=sparsity, epochs=budget, prune_at=float(epoch)))


@dataclass(frozen=True)
class Cell:
    """What early pruning was worth at one budget and sparsity.

    Args:
        sparsity: The requested sparsity.
        budget: The budget, in epochs.
        accuracies: By the epoch of the cut, the accuracies over the seeds; 0 is the cut before training.
        longer: By the epoch of the cut, the accuracies of the cut before training that cost as much, where there is
            one.
        longer_epochs: By the epoch of the cut, the epochs of those.
    """

    sparsity: float
    budget: int
    accuracies: dict[int, tuple[float, ...]]
    longer: dict[int, tuple[float, ...]]
    longer_epochs: dict[int, tuple[int, ...]]

    @property
    def best(self) -> int | None:
        """The epoch of the best cut after the start of training; None if there is none."""
        late = [epoch for epoch in self.accuracies if epoch]
        return max(late, key=lambda epoch: fmean(self.accuracies[epoch])) if late else None

    def gain(self, epoch: int) -> Difference:
        """The gain over the cut before training at equal epochs."""
        return Difference(METRIC, self.accuracies[epoch], self.accuracies[0])

    def gain_at_equal_cost(self, epoch: int) -> Difference | None:
        """The gain over the cut before training that was trained for longer; None where there is none."""
        return Difference(METRIC, self.accuracies[epoch], self.longer[epoch]) if self.longer.get(epoch) else None


METRIC = Classification.metrics[0]


def cells(found: Sequence[Early], budgets: Sequence[int], shares: Sequence[float]) -> list[Cell]:
    """The cells of the given runs, by sparsity and budget; cells without a cut before training are left out."""
    runs = {run.key: run for run in found}
    seeds = sorted({run.seed for run in found})
    made = []
    for sparsity in sorted({run.sparsity for run in found}):
        for budget in sorted(budgets):
            cell = Cell(sparsity, budget, {}, {}, {})
            for epoch in moments(budget, shares):
                some = [each for seed in seeds if (each := runs.get((sparsity, seed, budget, epoch)))]
                if some:
                    cell.accuracies[epoch] = tuple(each.accuracy for each in some)
                beside = []
                for each in some if epoch else ():
                    start = runs.get((sparsity, each.seed, budget, 0))
                    epochs = longer(each, start) if start else None
                    if epochs and (run := runs.get((sparsity, each.seed, epochs, 0))):
                        beside.append(run)
                if beside:
                    cell.longer[epoch] = tuple(each.accuracy for each in beside)
                    cell.longer_epochs[epoch] = tuple(each.epochs for each in beside)
            if 0 in cell.accuracies:
                made.append(cell)
    return made


HEADINGS = (
    *("removed", "epochs", "n", "before training", "best epoch of the cut", "its accuracy"),
    *("gain at equal epochs, points", "verdict", "as many as it costs", "gain at equal cost, points", "verdict"),
)

HOW = (
    "Accuracy: test images, after the last epoch, mean ± sample standard deviation over n seeds. Best: of the cuts "
    "that are not before training, the one with the best mean; the best of several is a little better by chance. "
    "Gains: with Welch's 95 % interval. As many as it costs: the epochs that a cut before training has for the same "
    f"FLOPs, at most {MOST} times the budget."
)


def markdown(found: Sequence[Cell]) -> str:
    """A Markdown table with a line for each sparsity and budget."""
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1))]
    for cell in found:
        start, best = cell.accuracies[0], cell.best
        told = [f"{100 * cell.sparsity:g} %", str(cell.budget), str(len(start)), spread_percent(start)]
        if best is None:
            told += [NONE] * 7
        else:
            gain, dear = cell.gain(best), cell.gain_at_equal_cost(best)
            told += [str(best), spread_percent(cell.accuracies[best]), gain.text.replace(" points", ""), gain.verdict]
            if dear is None:
                told += [NONE] * 3
            else:
                epochs = sorted(set(cell.longer_epochs[best]))
                told.append(str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}")
                told += [dear.text.replace(" points", ""), dear.verdict]
        lines.append(tuple(told))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{HOW}\n"
