"""The poster's claims, each tested on the runs at hand: it holds, it fails, or it is inconclusive.

Metrics of two methods are compared by the difference of their means, costs by the ratio of their geometric means, with
Welch's 95 % interval over the seeds; what a run measures before and after its own cut is compared run by run. A claim
holds where the whole interval is on its side, and fails where the whole interval is on the other. With one run there is
no interval, and the claim is inconclusive. A claim about networks of different FLOPs states their ratio; the
comparisons at equal cost are in `equal_cost`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from statistics import fmean
from typing import Literal

from earlycrop import get_method
from earlycrop_lab.reporting.columns import COLUMNS, Column
from earlycrop_lab.reporting.conditions import comparable
from earlycrop_lab.reporting.differences import Difference, with_flops
from earlycrop_lab.reporting.intervals import Interval, student, welch
from earlycrop_lab.reporting.numbers import times
from earlycrop_lab.reporting.tables import Row, by_setting
from earlycrop_lab.tasks.description import PRUNING, Metric

Verdict = Literal["holds", "fails", "inconclusive"]
POINTS = 0.03
"""The least difference that counts as "much better", for metrics between 0 and 1."""
STEP, NOTHING, COST = 0.6, 0.95, 0.25
"""Thresholds: a short step (fraction of dense's), no saving (fraction of dense's), a small cost (fraction of LTR's)."""
LARGEST = Column(
    "largest_bytes",
    "memory",
    "largest",
    lambda r: max(filter(None, (r.columns.dense_memory_bytes, r.columns.sparse_memory_bytes)), default=None),
    "MB",
    1e-6,
)
"""Memory of the largest step of a run, before or after the cut: what a device must have. Defined on every device."""
HOW = (
    "A claim holds where the whole 95 % interval of the difference (of a cost: of the ratio) is on its side, and fails "
    "where it is on the other. With one run on a side there is no interval, and the claim is inconclusive. A "
    "claim about networks of different FLOPs gives their ratio; masked weights save none."
)
NAMED = {each.name: each for each in (*COLUMNS, LARGEST)}


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict.

    Args:
        aim: The number of the poster's aim to which it belongs, 1 to 4.
        claim: The claim, in words.
        verdict: Whether it holds.
        why: The numbers behind the verdict, with n.
    """

    aim: int
    claim: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Better:
    """The claim that one method's metric is better than another's.

    Args:
        aim: See `Finding`.
        method: The method that is claimed to be better.
        than: The method it is compared with.
        much: Whether by at least three points, for metrics between 0 and 1.
    """

    aim: int
    method: str
    than: str
    much: bool = False


BETTER = (
    Better(1, "earlycrop-s", "crop-s", much=True),
    *(
        Better(1, "earlycrop-s", other)
        for other in ("earlybird", "random-s", "snap", "gate-decorators", "efficient-convnets")
    ),
    Better(2, "earlycrop-u", "crop-u"),
    Better(2, "crop-u", "snip"),
    Better(2, "snip", "random-u", much=True),
)
"""The comparisons that the poster claims (Rachwan et al., 2022), each with the number of its aim."""
OWN = {"earlycrop-s": 1, "earlycrop-u": 2}
"""The poster's own methods, and the aim that is about the metric of each."""


def findings(rows: Sequence[Row]) -> dict[str, list[Finding]]:
    """By setting, the claims whose methods have runs, ordered by aim.

    Smoke runs are left out, and so are runs with a given epoch of pruning: the claims are about each method's choice.
    """
    rows = [row for row in rows if row.description.max_steps is None and row.description.prune_at is None]
    groups = by_setting(rows)
    found = {setting: [*_figures(group), *_costs(group)] for setting, group in groups.items()}
    for large, small in _pairs(rows):
        found[large.setting] += _large(large, small)
    return {setting: sorted(each, key=lambda finding: finding.aim) for setting, each in found.items() if each}


def markdown(found: dict[str, list[Finding]]) -> str:
    """The findings as one Markdown table for each setting."""
    parts = []
    for setting, each in found.items():
        lines = [f"| {f.aim} | {f.claim} | **{f.verdict}** | {f.why} |" for f in each]
        parts.append(
            "\n".join([f"**{setting}**", "", "| aim | claim | | figures |", "| ---: | --- | --- | --- |", *lines])
        )
    return "\n\n".join(parts) + "\n"


def verdict(interval: Interval, least: float, strict: bool = False) -> Verdict:
    """Whether a number in this interval is at least `least`; with `strict`, whether it is greater.

    >>> verdict((0.1, 0.3), 0.1), verdict((-0.3, 0.0), 0.1), verdict((0.0, 0.2), 0.1)
    ('holds', 'fails', 'inconclusive')
    >>> verdict((0.0, 0.0), 0.0), verdict((0.0, 0.0), 0.0, strict=True)
    ('holds', 'fails')
    """
    low, high = interval
    if strict:
        return "holds" if low > least else "fails" if high <= least else "inconclusive"
    return "holds" if low >= least else "fails" if high < least else "inconclusive"


def better(aim: int, claim: str, a: Row, b: Row, by: float = 0.0) -> Finding:
    """Whether a row's metric is better than another's by at least `by`; a negative `by` lets it be that much worse."""
    found = Difference.of(a, b)
    return Finding(
        aim,
        claim + with_flops(a, b),
        verdict(found.interval, by, strict=by == 0),
        f"{found.figures}: difference {found.text}",
    )


def as_good(aim: int, a: Row, name: str, b: Row, other: str) -> Finding:
    """Whether a row's metric is no worse than another's, within the tolerance."""
    kept, stated = tolerance(a.metric, b.figure.mean)
    return better(aim, f"{name} is as good as {other}, within {stated}", a, b, -kept)


def cheaper(
    aim: int, claim: str, logs: Interval, centre: float, n: str, most: float = inf, least: float = 0
) -> Finding:
    """Whether a ratio whose logarithm has the interval `logs` is at most `most`, or at least `least`."""
    within = "" if logs[0] == -inf else f" ({times(exp(logs[0]))} to {times(exp(logs[1]))})"
    upside_down = (-logs[1], -logs[0])
    found = verdict(upside_down, -log(most), strict=most == 1) if most < inf else verdict(logs, log(least))
    return Finding(aim, claim, found, f"{times(exp(centre))}{within}, n = {n}")


def _figures(rows: Sequence[Row]) -> Iterator[Finding]:
    """Aims 1 and 2: each method's metric compared with that of others."""
    for row in rows:
        if row.description.method in OWN:
            for dense in (other for other in rows if not other.prunes):
                yield as_good(OWN[row.description.method], row, row.label, dense, "dense")
        if row.description.method == "earlycrop-u":
            for ltr in _beside(row, "ltr", rows):
                yield as_good(2, row, row.label, ltr, ltr.name)
        for claim in BETTER:
            if row.description.method != claim.method:
                continue
            for other in _beside(row, claim.than, rows):
                much = claim.much and row.metric.unit == "%"
                stated = f"{row.label} is better than {other.name}{' by three points' * much}"
                yield better(claim.aim, stated, row, other, POINTS if much else 0.0)


def tolerance(metric: Metric, dense: float) -> tuple[float, str]:
    """How much worse than dense still counts as equal, as a number and in words.

    >>> tolerance(Metric("test_accuracy", "test accuracy", unit="%"), 0.9)
    (0.01, '1 point')
    >>> tolerance(Metric("perplexity", "test perplexity", "lower"), 120.0)
    (6.0, '5 %')
    """
    return (0.01, "1 point") if metric.unit == "%" else (0.05 * abs(dense), "5 %")


def _costs(rows: Sequence[Row]) -> Iterator[Finding]:
    """Aims 2 and 3: the cost of EarlyCroP-U against LTR's, and EarlyCroP's training step after and before the cut."""
    for row in rows:
        if row.description.method == "earlycrop-u":
            for ltr in _beside(row, "ltr", rows):
                if ltr.description.equal_budget:
                    continue  # this LTR was given the same budget
                for name, what in (("optimizer_steps", "steps"), ("seconds", "training time")):
                    claim = f"{row.label} takes a quarter of the {what} of {ltr.name} at most"
                    yield from _compared(2, claim, row, ltr, name, most=COST)
        if row.description.method not in OWN:
            continue
        masks = row.description.method == "earlycrop-u"
        for name, what in (("step_milliseconds", "time"), ("memory_bytes", "memory")):
            logs = [
                log(after / before)
                for result in row.results
                if (after := getattr(result.columns, f"sparse_{name}"))
                and (before := getattr(result.columns, f"dense_{name}"))
            ]
            if not logs:
                continue
            way, part = ("least", NOTHING) if masks else ("most", STEP if what == "time" else NOTHING)
            claim = f"a step of {row.label} takes at {way} {part:g} of the {what} after the cut"
            found = cheaper(3, claim, student(logs), fmean(logs), str(len(logs)), **{way: part})
            moved = not all(comparable("seconds", [result]) for result in row.results)
            yield _untold(found, "machines") if moved else found


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row of EarlyCroP-S and CroP-S, with each dense row of a smaller network trained in the same way."""
    for large in rows:
        if large.description.method not in ("earlycrop-s", "crop-s"):
            continue
        size = large.results[0].columns.parameters_before
        for small in rows:
            d = small.description
            if type(d) is not type(large.description):  # another task, which may not have this network
                continue
            alike = replace(large.description.dense_twin(), network=d.network, width=d.width, seed=d.seed) == d
            if alike and small.results[0].columns.parameters_before < size:
                yield large, small


def _large(large: Row, small: Row) -> Iterator[Finding]:
    """Aim 4: the large network, pruned, compared with the small one, dense."""
    wide, narrow = (
        f"{row.label}, {row.description.network} of width {row.description.width}" for row in (large, small)
    )
    yield as_good(4, large, f"{wide},", small, narrow)
    costs = {"seconds": "training time", "grams_co2": "emissions", "largest_bytes": "memory at its peak"}
    for name, what in costs.items():
        yield from _compared(4, f"{wide}, takes less {what} than {narrow}", large, small, name, most=1.0)


def _compared(aim: int, claim: str, a: Row, b: Row, name: str, most: float) -> Iterator[Finding]:
    """Whether a cost of one row is at most `most` times another's; no finding if it is unknown for a row."""
    logs = [[log(value) for value in _values(row, name) if value] for row in (a, b)]
    if not all(logs):
        return
    n = f"{len(logs[0])} and {len(logs[1])}"
    found = cheaper(aim, claim, welch(*logs), fmean(logs[0]) - fmean(logs[1]), n, most=most)
    results = (*a.results, *b.results)
    if comparable(name, results):
        yield found
    else:
        yield _untold(found, "machines" if not comparable("seconds", results) else "electricity")


def _untold(found: Finding, unlike: str) -> Finding:
    """The finding as inconclusive: times of unlike machines, and emissions of unlike electricity, say nothing."""
    return replace(found, verdict="inconclusive", why=f"{found.why}; on unlike {unlike}")


def _beside(row: Row, method: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of another method with the same pruning options.

    The number of cuts and the division of the budget may differ between methods; the row's name contains them. The
    readings are compared only if both methods have readings.
    """
    own = ["rounds", "per_round", "equal_budget"]
    if not all(map(_has_readings, (row.description.method, method))):
        own.append("reading")

    def asked(one: Row) -> list[object]:
        return [getattr(one.description, name) for name in PRUNING if name not in own]

    return [other for other in rows if other.description.method == method and asked(other) == asked(row)]


def _has_readings(method: str) -> bool:
    return get_method(method).reads


def _values(row: Row, name: str) -> list[float]:
    """A column's values, one for each run that has it."""
    return [float(value) for result in row.results if (value := NAMED[name].read(result)) is not None]
