"""Many runs, one table: those that have no result yet are run, each in its own process."""

import csv
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from earlycrop.files import replacing
from earlycrop_lab.comparing.beside import Derived, derived
from earlycrop_lab.comparing.dashboard import Dashboard
from earlycrop_lab.comparing.engines import Engine
from earlycrop_lab.comparing.grids import Grid
from earlycrop_lab.comparing.isolation import Isolated, failure
from earlycrop_lab.comparing.kinds import KINDS
from earlycrop_lab.reporting import equal_cost, tables
from earlycrop_lab.reporting.equal_cost import comparisons
from earlycrop_lab.runs import Result, folder_name, has_result, read
from earlycrop_lab.tasks.description import Description

Entry = tuple[Description, Result | str]
"""A run, and its result or the reason why it has none."""


def todo(runs: Sequence[Description], out: Path) -> list[Description]:
    """The runs without a result."""
    return [run for run in runs if not has_result(out / folder_name(run))]


def result_of(run: Description, out: Path) -> Result | str:
    """The result of a run, or the reason why there is none."""
    folder = out / folder_name(run)
    if not has_result(folder):
        return failure(folder) or "it was not run"
    try:
        result = read(folder)
    except (ValueError, OSError) as error:
        return str(error)
    return result if result.description == run else f"{folder} holds the result of another run: {result.description}"


def compare(
    runs: Sequence[Description], isolated: Isolated, engine: Engine, console: Console, workers: int = 1
) -> list[Entry]:
    """Run what has no result yet, and return every run with its result or the reason why it has none.

    Args:
        runs: The runs, in order; those that failed before are tried again.
        isolated: Executes one run in its own process.
        engine: Where the processes run.
        console: Where progress is printed.
        workers: The number of runs side by side.

    Raises:
        KeyboardInterrupt: Interrupted; all processes are stopped. Its message says how many runs are done.
    """
    waiting = todo(runs, isolated.out)
    lost: dict[Description, str] = {}
    dashboard = Dashboard(console, waiting, isolated.out, workers)
    try:
        with dashboard.live(), closing(engine.each(isolated, waiting)) as ended:
            for each in ended:
                dashboard.look()
                if each is not None:
                    run, why = each
                    if why is not None:
                        lost[run] = why
                    dashboard.ended(run, why or result_of(run, isolated.out))
    except KeyboardInterrupt:
        done = len(runs) - len(dashboard.open)
        raise KeyboardInterrupt(f"{done} of {len(runs)} runs are done, the same command goes on") from None
    return [(run, lost.get(run) or result_of(run, isolated.out)) for run in runs]


def second_wave(grids: Sequence[Grid], entries: Sequence[Entry], root: str | None) -> Derived:
    """The runs at equal cost that the grids ask for, for those pruned runs that have results.

    Raises:
        OSError: The data cannot be read or downloaded.
    """
    asked = {kind: {run for grid in grids if kind in grid.beside for run in grid.runs()} for kind in KINDS}
    results = {
        kind: [how for run, how in entries if run in runs and isinstance(how, Result)] for kind, runs in asked.items()
    }
    return derived(results, root)


def keep(entries: Sequence[Entry], out: Path) -> list[Path]:
    """Write the table of all results and the list of runs without one to `table.md` and `table.csv`; both paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in (("table.md", markdown(entries)), ("table.csv", comma_separated(entries))):
        with replacing(out / name) as file:
            file.write(text.encode())
        written.append(out / name)
    return written


def markdown(entries: Sequence[Entry]) -> str:
    """The runs without a result and why, the table in the poster's form, then the comparisons at equal cost."""
    results, failed = _split(entries)
    rows = tables.table(results)
    parts = [tables.markdown(rows).strip() if rows else "", equal_cost.markdown(comparisons(rows)).strip()]
    if failed:
        reasons = [(folder_name(run), why.replace("|", "\\|")) for run, why in failed]
        lines = [f"| `{name}` | {why} |" for name, why in reasons]
        parts.insert(0, "\n".join(["| without a result | because |", "| --- | --- |", *lines]))
    return "\n\n".join(filter(None, parts)) + "\n"


def comma_separated(entries: Sequence[Entry]) -> str:
    """The table as CSV with every number unrounded; the last column says why a run has no numbers."""
    results, failed = _split(entries)
    header, *rows = csv.reader(io.StringIO(tables.csv(tables.table(results))))
    text = io.StringIO()
    described = [each.name for run, _ in failed for each in fields(run) if each.name != "seed"]
    lines = csv.DictWriter(text, list(dict.fromkeys([*header, *described, "failure"])), restval="", lineterminator="\n")
    lines.writeheader()
    lines.writerows(dict(zip(header, row, strict=True)) for row in rows)
    for run, why in failed:
        asked = {name: value for name, value in asdict(run).items() if name != "seed"}
        lines.writerow({"task": run.task, **asked, "seeds": run.seed, "failure": why})
    return text.getvalue()


BRIEF = ("weight_sparsity", "optimizer_steps", "seconds", "sparse_step_milliseconds", "disk_bytes")
"""The columns shown in a terminal, besides the main metric; the files have all of them."""


def brief(entries: Sequence[Entry]) -> list[Table | str]:
    """For a terminal: a table for each setting with its data, comparisons at equal cost, runs without a result."""
    results, failed = _split(entries)
    stated: list[Table | str] = []
    whole = tables.table(results)
    for setting, rows in tables.by_setting(whole).items():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=setting, title_justify="left")
        table.caption, table.caption_justify = tables.data_of(rows) or None, "left"
        columns = [column for column in tables.shown_columns(rows) if column.name in (rows[0].metric.name, *BRIEF)]
        for number, heading in enumerate(["method", "asked", "n", *(column.heading for column in columns)]):
            table.add_column(heading, justify="right" if number else "left")
        for row in rows:
            table.add_row(row.name, row.asked, str(len(row.results)), *(row.text(column) for column in columns))
        stated.append(table)
    equal = [str(each) for found in comparisons(whole).values() for each in found]
    return [*stated, *equal, *(f"{folder_name(run)} has no result: {why}" for run, why in failed)]


def _split(entries: Sequence[Entry]) -> tuple[list[Result], list[tuple[Description, str]]]:
    results = [how for _, how in entries if isinstance(how, Result)]
    return results, [(run, how) for run, how in entries if isinstance(how, str)]
