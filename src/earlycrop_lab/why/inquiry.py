"""The answers of `earlycrop why` in a folder, drawn again for the page."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from earlycrop import Sensitivity
from earlycrop_lab.reporting.charts.canvas import Chart
from earlycrop_lab.reporting.conditions import setting
from earlycrop_lab.reporting.numbers import amount, percent
from earlycrop_lab.why import choice_figures, early_figures, flow_figures, layer_figures, moment_figures
from earlycrop_lab.why.choices import Choice
from earlycrop_lab.why.early import MOST, Early, Mark, cells
from earlycrop_lab.why.flows import Flow
from earlycrop_lab.why.moments import Moment, Watch, Watched
from earlycrop_lab.why.records import RECORDS, asked


@dataclass(frozen=True)
class Inquiry:
    """A question about one network, and the charts of its answer.

    Args:
        title: The question.
        setting: The network, the data and the training, in words.
        charts: The answer.
    """

    title: str
    setting: str
    charts: tuple[Chart, ...]


def of(folder: Path) -> Inquiry:
    """The answer that `earlycrop why` kept in a folder.

    Raises:
        ValueError: The records are not an answer of `earlycrop why`.
        OSError: The records cannot be read.
    """
    path = folder / RECORDS
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        d = asked(stored["asked"])
        if "moments" in stored:
            title = f"When to prune? {d.method} at {100 * d.sparsity:g} %"
            return Inquiry(title, setting(d), tuple(_swept(stored, folder.name)))
        if "choices" in stored:
            chosen = [Choice(**each) for each in stored["choices"]]
            return Inquiry(f"What is the choice of {d.method} worth?", setting(d), tuple(_chosen(chosen, folder.name)))
        if "runs" in stored:
            where = re.sub(r", \d+ epochs?", "", setting(d))  # there are several budgets
            return Inquiry(f"When does early pay? {d.method}", where, tuple(_early(stored, folder.name)))
        if "layers" in stored:
            found = [Sensitivity.from_dict(each) for each in stored["layers"]]
            chart = _layered(found, stored["rises"], folder.name)
            return Inquiry(f"Which layers matter to {d.method}?", setting(d), (chart,))
        found = [Flow(**each) for each in stored["found"]]
        return Inquiry("What do scores do to flow and kernel?", setting(d), (_pruned(found, folder.name),))
    except (LookupError, TypeError, AttributeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is no answer of `earlycrop why` ({type(error).__name__}: {error}).") from error


def _swept(stored: Mapping[str, Any], name: str) -> list[Chart]:
    accuracies = {float(epoch): values for epoch, values in stored["accuracies"].items()}
    moments = [Moment(**each) for each in stored["moments"]]
    seen = _watched(stored["seen"])
    counts = " or ".join(map(str, sorted(set(map(len, accuracies.values())))))
    bars = "" if counts == "1" else "; bars: ± sample standard deviation"
    best = max(accuracies, key=lambda epoch: fmean(accuracies[epoch]))
    never = [watch.rule for watch in seen.rules if watch.chosen is None]
    looks = "; ".join(f"{each.rule} {_took(each.seconds)}" for each in moments)
    stated = (
        f"Runs that differ only in the epoch of the cut, n = {counts} each{bars}. "
        f"The best: epoch {best:g}, {percent(fmean(accuracies[best]))}. "
        "Below, for each rule: filled, the swept epoch nearest to "
        "where it would cut (circle: its signal fired; square: its cap, a part of the budget, came first); hollow, the "
        "epoch that it chooses without a cap, if that is another. "
    )
    if never:
        stated += f"Never in {seen.epochs[-1]} epochs: {'; '.join(never)}. "
    watched = (
        "Small dots: epochs at which a rule observed. Large: the first epoch at which it would cut, without its cap; "
        "“never”: its signal stays above its threshold. Nothing was cut in this training."
    )
    return [
        Chart(
            f"{name}-moment",
            "Test accuracy by the epoch of the cut, and what each rule chooses",
            f"{stated}One observation takes: {looks}.",
            moment_figures.moment(accuracies, moments, seen),
        ),
        Chart(
            f"{name}-training",
            "A dense training at a constant rate, as the rules observe it",
            watched,
            moment_figures.training(seen),
        ),
    ]


def _chosen(found: Sequence[Choice], name: str) -> list[Chart]:
    """A chart for each sparsity."""
    charts = []
    for sparsity in sorted({each.sparsity for each in found}):
        some = [each for each in found if each.sparsity == sparsity]
        stated = (
            f"All keep the same number of units in each layer, cut after {some[0].epoch} of {some[0].epochs} epochs, "
            f"n = {len({each.seed for each in some})}. Left: test accuracy after the last epoch; lines: 95 % intervals "
            "of the means; dotted: a random choice. Middle: accuracy on the scoring set right after the cut. Right: 1 "
            "where the kept channels are uncorrelated. Bold: the method's own choice."
        )
        title = f"Choices inside the same widths, {100 * sparsity:g} % removed"
        charts.append(Chart(f"{name}-{sparsity:g}", title, stated, choice_figures.choice(some, sparsity)))
    return charts


def _early(stored: Mapping[str, Any], name: str) -> list[Chart]:
    """Two charts: at equal epochs and at equal cost."""
    shares, marks = stored["shares"], [Mark(**each) for each in stored["marks"]]
    found = [Early.of(each) for each in stored["runs"]]
    made = cells(found, stored["budgets"], shares)
    stated = (
        f"Points of test accuracy, the mean over n = {len({each.seed for each in found})}. Marks: where the detectors "
        "would cut in the dense training, with no cap; the median over the seeds."
    )
    return [
        Chart(
            f"{name}-{kind.replace(' ', '-')}",
            f"A cut after a share of the budget against one before training, at {kind}",
            stated + beside,
            early_figures.early(made, shares, marks, equal_cost=kind == "equal FLOPs"),
        )
        for kind, beside in (
            ("equal epochs", ""),
            ("equal FLOPs", f" The cut before training goes on for longer, at most {MOST} times the budget."),
        )
    ]


def _layered(found: Sequence[Sensitivity], rises: bool, name: str) -> Chart:
    stated = (
        f"A dense network of which one layer alone loses its lowest-scored {found[0].unit}, n = {len(found)}; layers "
        "with coupled channels are one row. The redder, the worse; the dense network's figure is in the title."
    )
    title = "What one layer's cut does by itself"
    return Chart(f"{name}-sensitivity", title, stated, layer_figures.layers(found, rises))


def _pruned(found: Sequence[Flow], name: str) -> Chart:
    seeds = len({each.seed for each in found})
    stated = (
        f"The same network, {found[0].epochs} dense epochs old, pruned by each score and not trained any further; mean "
        f"over n = {seeds}. Above: the gradient flow over what is left, as a multiple of the dense one's. Below: how "
        "much of the empirical neural tangent kernel changed."
    )
    return Chart(
        f"{name}-flow", "Gradient flow and kernel after the cut", stated, flow_figures.flow(found, titled=False)
    )


def _watched(stored: Mapping[str, Any]) -> Watched:
    """Restore it from JSON, which has null for nan."""

    def back(kind: type, fields: Mapping[str, Any]) -> Any:
        return kind(**{name: tuple(map(_number, v)) if isinstance(v, list) else v for name, v in fields.items()})

    rules = tuple(back(Watch, each) for each in stored["rules"])
    return back(Watched, {**stored, "rules": rules})


def _number(value: float | None) -> float:
    return nan if value is None else value


def _took(seconds: float) -> str:
    return amount(seconds, "s") if seconds >= 1 else amount(seconds, "ms", 1e3)
