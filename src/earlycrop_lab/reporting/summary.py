"""Results as tables and sentences for a terminal; every number comes from a `result.json`."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.table import Table

import earlycrop
from earlycrop.allocation import Global
from earlycrop.report import narrow
from earlycrop.steps import OneShot
from earlycrop.widths import WidthsOf
from earlycrop_lab.measure.record import Columns
from earlycrop_lab.reporting.columns import shown
from earlycrop_lab.reporting.conditions import comparable, setting
from earlycrop_lab.reporting.numbers import NONE, amount, large, percent
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import prunes


def comparison(results: Sequence[Result]) -> Table:
    """Every quantity of the poster that applies, with a column for each run and, for two runs, one for their ratio.

    Args:
        results: One run, or a pruned one and its dense twin.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for result in results:
        table.add_column(result.description.method, justify="right")
    if len(results) == 2:
        table.add_column("ratio", justify="right", style="dim")
    for label, figures, compared in rows(results):
        ratio = []
        if len(results) == 2:
            alike = compared and comparable(compared, results)
            ratio = [_ratio(*(getattr(result.columns, compared) for result in results)) if alike else ""]
        table.add_row(label, *figures, *ratio)
    return table


def rows(results: Sequence[Result]) -> list[tuple[str, list[str], str]]:
    """For each quantity that applies to any run its label, the text of each run, and the column to compare (`ROWS`)."""
    metrics = dict.fromkeys(metric for result in results for metric in result.description.metrics)
    table = [
        (
            f"{metric.label}, last epoch",
            [shown(metric, result.columns.metrics.get(metric.name)) for result in results],
            "",
        )
        for metric in metrics
    ]
    table += [(label, [show(result.columns) for result in results], compared) for label, show, compared in ROWS]
    return [row for row in table if any(text != NONE for text in row[1])]


def markdown(results: Sequence[Result]) -> str:
    """The rows as a Markdown table, for a README; the dense run first, then by name."""
    results = sorted(results, key=lambda result: (result.report is not None, result.description.method))
    names = [
        f"`{each.description.method}`" + " (smoke run)" * (each.description.max_steps is not None) for each in results
    ]
    lines = [["", *names], ["---", *("---:" for _ in results)]]
    lines += [[label.strip(), *figures] for label, figures, _ in rows(results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def title(result: Result) -> str:
    """What was trained and for how long, and that it is one run (n = 1)."""
    d = result.description
    total = "" if d.total_epochs == d.epochs else f", {d.total_epochs} epochs in all"
    return f"{setting(d)}{total}, seed {d.seed} (n = 1)"


def _step(milliseconds: float | None, steps: int) -> str:
    return NONE if milliseconds is None else f"{amount(milliseconds, 'ms')} (n={steps})"


def _ratio(pruned: float | None, dense: float | None) -> str:
    return "" if not dense or pruned is None else f"×{amount(pruned / dense)}"


ROWS: tuple[tuple[str, Callable[[Columns], str], str], ...] = (
    ("weight sparsity", lambda c: percent(c.weight_sparsity), ""),
    ("node sparsity", lambda c: percent(c.node_sparsity), ""),
    ("parameters", lambda c: large(c.parameters_after), "parameters_after"),
    ("FLOPs an example", lambda c: large(c.flops_after), "flops_after"),
    ("training time", lambda c: amount(c.seconds, "s"), "seconds"),
    ("  dense phase", lambda c: amount(c.dense_seconds or None, "s"), ""),
    ("  tracing, scoring, cutting", lambda c: amount(c.weight_sparsity and c.scoring_seconds, "s"), ""),
    ("  sparse phase", lambda c: amount(c.sparse_seconds or None, "s"), ""),
    ("evaluation, beside it", lambda c: amount(c.evaluation_seconds, "s"), ""),
    ("training step, dense phase", lambda c: _step(c.dense_step_milliseconds, c.dense_steps_timed), ""),
    ("  its CPU time", lambda c: amount(c.dense_step_cpu_milliseconds, "ms"), ""),
    (
        "training step, after the cut",
        lambda c: _step(c.sparse_step_milliseconds, c.sparse_steps_timed),
        "step_milliseconds",
    ),
    ("  its CPU time", lambda c: amount(c.sparse_step_cpu_milliseconds, "ms"), "step_cpu_milliseconds"),
    ("memory of a step, dense phase", lambda c: amount(c.dense_memory_bytes, "MB", 1e-6), ""),
    ("memory of a step, after the cut", lambda c: amount(c.sparse_memory_bytes, "MB", 1e-6), "memory_bytes"),
    ("CUDA memory, dense phase", lambda c: amount(c.dense_cuda_bytes, "MB", 1e-6), ""),
    ("CUDA memory, after the cut", lambda c: amount(c.sparse_cuda_bytes, "MB", 1e-6), "cuda_bytes"),
    ("memory of the whole process", lambda c: amount(c.process_bytes, "MB", 1e-6), "process_bytes"),
    ("inference, a batch forward", lambda c: amount(c.inference_milliseconds, "ms"), "inference_milliseconds"),
    ("model on disk", lambda c: amount(c.disk_bytes, "MB", 1e-6), "disk_bytes"),
    ("emissions, CO₂ equivalent", lambda c: amount(c.grams_co2, "g"), "grams_co2"),
    ("energy", lambda c: amount(c.kwh, "Wh", 1000), "kwh"),
    ("writing checkpoints, beside it", lambda c: amount(c.saving_seconds or None, "s"), ""),
    (
        "attempts, and time lost between them",
        lambda c: NONE if c.attempts == 1 else f"{c.attempts}, {amount(c.lost_seconds, 's')}",
        "",
    ),
    ("optimizer steps", lambda c: f"{c.optimizer_steps:,}", "optimizer_steps"),
)
"""For each row its label, how it is formatted, and the column of the ratio of a pruned run to its dense twin."""


def conditions(result: Result) -> str:
    """The conditions of the measurement: data, hardware, threads, load, versions, electricity."""
    e, m = result.environment, result.emissions
    load = f"load {e['load']} → {e['load_after']}" if e.get("load") is not None else "load unknown"
    device = e["cpu"] if e["device"] == "cpu" else f"{e['device']}, {e['cpu']}"
    ranks = f"{e['ranks']} processes of " if e.get("ranks", 1) > 1 else ""
    data = f"{result.data}.\n" if result.data else ""
    return (
        f"{data}{device}, {ranks}{e['threads']} threads on {e['cpus']} CPUs, {load}; torch {e['packages']['torch']}.\n"
        f"Emissions: mix of {m.country}, PUE {m.pue:g}, whole machine; {m.power}."
    )


def what_left(report: dict[str, Any]) -> str:
    """The cut in a few sentences: when and why, what is left, what could not be removed."""
    why = {
        "init": "before training",
        "epoch": f"at epoch {report['epoch']:g}, as asked",
        "round": f"after {report['epoch']:g} epochs, in full training",
        "trigger": f"at epoch {report['epoch']:g}: the detector fired",
        "cap": f"at epoch {report['epoch']:g}: the cap came before the detector fired",
        "static": f"at epoch {report['epoch']:g}: the weights do not move",
    }[report["reason"]]
    before, after = report["before"], report["after"]
    nodes = f", {after['nodes']:,} of {before['nodes']:,} channels" if report["unit"] == "channels" else " (masked)"
    on = f"on {report['samples']:,} training samples" if report["samples"] else "without data"
    text = (
        f"Cut {why}. {after['prunable']:,} of {before['prunable']:,} weights stay{nodes}; "
        f"scored {on}, {report['seconds']:.2g} s."
    )
    if report.get("bottlenecks"):
        floor = ": a minimum for every layer helps, such as --min-part 0.1" if report["unit"] == "channels" else ""
        text += f" {narrow(report['bottlenecks'])}{floor}."
    if report["collapsed"]:
        text += f" COLLAPSED: {', '.join(report['collapsed'])} lost everything."
    if report["frozen"]:
        names = [frozen["where"] for frozen in report["frozen"]]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        text += f" Could not be removed: {', '.join(names[:4])}{more} (reasons in result.json)."
    return text


def curve(report: dict[str, Any]) -> Table:
    """What the detector observed at each check, and the signal that its rule derived from it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="the detector until the cut", title_justify="left")
    for name in ("epoch", "observed", "signal", "threshold", "learning rate"):
        table.add_column(name, justify="right")
    for look in report["curve"]:
        numbers = (look["value"], look["signal"], look["threshold"], look["learning_rate"])
        table.add_row(f"{look['epoch']:g}", *(NONE if number is None else f"{number:.4g}" for number in numbers))
    return table


def methods() -> Table:
    """The table of methods: score, units, timing and steps of each, with allocation and floor where not the default.

    Where another score decides the widths, the steps are those of that decision.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    longest = max(map(len, earlycrop.METHODS))
    for column in ("method", "score", "units", "timing", "steps"):
        width = longest if column == "method" else None
        table.add_column(column, overflow="fold", no_wrap=column == "method", min_width=width)
    for name, method in earlycrop.METHODS.items():
        parts = [_brief(part) for part in (method.score, method.units, method.timing, method.steps)]
        if isinstance(method.allocation, WidthsOf):
            steps = method.allocation.steps if method.steps == OneShot() else method.steps
            parts[-1] = f"{_brief(steps)}, widths by {_brief(method.allocation.score)}"
        elif method.allocation != Global():
            parts[-1] += f", {_brief(method.allocation)}"
        if method.min_channels != 1:
            parts[1] += f", floor {method.min_channels:g}"
        table.add_row(name, *(part if prunes(method) else NONE for part in parts))
    return table


def _brief(part: Any) -> str:
    """A part as its own source code, without arguments at their defaults."""
    said = [(each.name, getattr(part, each.name)) for each in fields(part) if getattr(part, each.name) != each.default]
    values = [name if value is True else str(value) for name, value in said]
    return type(part).__name__ + (f"({', '.join(values)})" if said else "")
