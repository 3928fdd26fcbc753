"""What the pages of measurements say is what the results under `results/` say."""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from earlycrop import get_method
from earlycrop_lab.reporting import equal_cost
from earlycrop_lab.reporting.columns import COLUMNS, column
from earlycrop_lab.reporting.differences import Difference
from earlycrop_lab.reporting.tables import Row, table
from earlycrop_lab.runs import finished, read

ROOT = Path(__file__).parents[1]
SHOWN = ("node_sparsity", "flops", "optimizer_steps", "sparse_memory_bytes", "disk_bytes")


def line(row: Row) -> str:
    """A row of the page's table."""
    columns = [column(row.metric), *(each for each in COLUMNS if each.name in SHOWN)]
    return f"| {' | '.join([f'`{row.name}`', row.asked, str(len(row.results)), *map(row.text, columns)])} |"


def test_the_tables_are_those_of_the_runs():
    results = [read(run) for run in finished(ROOT / "results" / "cifar10-grid")]
    lines = {line(row) for row in table(results)}
    told = [each for each in (ROOT / "docs" / "published.md").read_text().splitlines() if each.startswith("| `")]
    assert len(told) > 15
    assert [each for each in told if each not in lines] == []


RECIPES = sorted((ROOT / "results").glob("recipe-*"))
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def rows_of(folder: Path) -> list[Row]:
    return table([read(run) for run in finished(folder)])


def recipe_line(row: Row) -> str:
    """A row of the tables of the recipe; a dense network that is narrow from birth says how wide it is."""
    columns = [column(row.metric), *(each for each in COLUMNS if each.name in ("parameters", "flops"))]
    narrow = row.results[0].description.width
    name = f"`{row.name}`" if narrow == 16 else f"`{row.name}`, width {narrow}"
    return f"| {' | '.join([name, row.asked, str(len(row.results)), *map(row.text, columns)])} |"


def equal_line(comparison: equal_cost.Comparison) -> str:
    return f"| {' | '.join(comparison.cells[:6])} |"


def scale_lines() -> dict[str, Difference]:
    """For each method that was run with and without rescaling, all else equal, a row of the page's table."""
    found = {}
    for row in (row for folder in RECIPES for row in rows_of(folder)):
        d, usual = row.description, get_method(row.description.method).rescale
        if not (usual if d.rescale is None else d.rescale == "yes"):
            continue
        twin = replace(d, rescale="no" if usual else None)
        for other in (other for folder in RECIPES for other in rows_of(folder) if other.description == twin):
            gain = Difference.of(row, other)
            figures = [other.text(column(row.metric)), row.text(column(row.metric))]
            cells = [
                f"{d.network}, {row.asked}",
                f"`{d.method}`",
                *figures,
                gain.text.replace(" points", ""),
                gain.verdict,
            ]
            found[f"| {' | '.join(cells)} |"] = gain
    return found


def gpt2_line(row: dict[str, Any]) -> str:
    loss = f"{row['test loss']:.3f} ± {row['sd']:.3f}"
    return f"| {row['row']} | {row['n']} | {loss} | {row['parameters']:,} | {row['MFLOPs']:.1f} |"


def lines_of(heading: str) -> list[str]:
    """The rows of the tables under that heading of the page of results."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    heads = {number - 1 for number, line in enumerate(section) if line.startswith("| ---")}
    skipped = heads | {number + 1 for number in heads}
    return [line for number, line in enumerate(section) if line.startswith("|") and number not in skipped]


def test_the_tables_of_the_recipe_are_those_of_its_runs():
    known = {recipe_line(row) for folder in RECIPES for row in rows_of(folder)}
    shown = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(shown) > 20
    assert [line for line in shown if line not in known] == []


def test_the_comparisons_at_equal_cost_are_those_of_the_runs():
    found = [equal_cost.comparisons(rows_of(folder)) for folder in RECIPES]
    known = {equal_line(one) for each in found for comparisons in each.values() for one in comparisons}
    assert len(shown := lines_of("At equal cost")) > 4
    assert [line for line in shown if line not in known] == []


def test_the_table_of_the_scale_is_that_of_the_runs():
    known = scale_lines()
    assert len(shown := lines_of("The scale after a cut")) > 8
    assert [line for line in shown if line not in known] == []


def test_the_tables_of_why_are_those_that_it_kept():
    kept = [path.read_text(encoding="utf-8") for path in (ROOT / "results").glob("why-*/*/table.md")]
    known = {line for text in kept for line in text.splitlines()}
    assert len(shown := [*lines_of("Widths and choice"), *lines_of("When early pays")]) > 15
    assert [line for line in shown if line not in known] == []


def test_the_claims_are_those_that_the_report_kept():
    known = {line for folder in RECIPES for line in (folder / "claims.md").read_text(encoding="utf-8").splitlines()}
    assert len(shown := lines_of("The poster's claims again")) > 5
    assert [line for line in shown if line not in known] == []


def test_the_table_of_gpt2_is_that_of_its_benchmark():
    record = json.loads((ROOT / "results" / "benchmarks" / "gpt2.json").read_text(encoding="utf-8"))
    assert lines_of("A small GPT-2") == [gpt2_line(row) for row in record["rows"]]


@pytest.mark.parametrize(("task", "digits"), [("control", 0), ("depth", 3), ("language", 0)])
def test_the_tables_of_a_task_are_those_of_its_runs(task, digits):
    """Cells are `mean ± deviation (n)` of the figure that counts, over the runs of a method at a sparsity."""
    figures = defaultdict(list)
    for run in finished(ROOT / "results" / task):
        result = read(run)
        at = result.description
        figures[at.method, at.sparsity].append(result.columns.metrics[at.metric.name])
    shown = 0
    (_, *heads), *rows = table_after(f"results/{task}`")
    for label, *cells in rows:
        unit = ("channels", "weights").index(label.split(",")[0])
        sparsity = float(label.split()[1].strip(",")) / 100
        for head, cell in zip(heads, cells, strict=True):
            values = figures.get((method_of(head, unit), round(sparsity, 4)), [])
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            assert cell == (f"{mean(values):.{digits}f}{spread} ({len(values)})" if values else "–"), (label, head)
            shown += bool(values)
    assert shown >= 8


def method_of(head: str, unit: int) -> str:
    """The method that a column is of, for channels (0) or weights (1)."""
    names = [name.strip("`").replace("*", "su"[unit]) for name in head.split(", ")]
    return names[unit] if len(names) > 1 else names[0]


def table_after(folder: str) -> list[list[str]]:
    """The head and the rows of the table that follows the mention of a folder in `docs/tasks.md`, cell by cell."""
    after = (ROOT / "docs" / "tasks.md").read_text().split(folder, 1)[1].splitlines()
    first = next(number for number, line in enumerate(after) if line.startswith("| ---"))
    lines = [after[first - 1], *takewhile(lambda line: line.startswith("|"), after[first + 1 :])]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_kept_results_are_records_and_light():
    """Pictures, pages and tensors are made again from the records (`earlycrop report`); git ignores them here."""
    kept = [
        path for path in (ROOT / "results").rglob("*.*") if path.suffix in (".json", ".jsonl", ".csv", ".md", ".txt")
    ]
    assert sum(path.stat().st_size for path in kept) < 8_000_000
