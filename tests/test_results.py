"""What the pages of measurements say is what the results under `results/` say."""

from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from statistics import mean, stdev

import pytest

from earlycrop_lab.runs import read
from earlycrop_lab.tables import COLUMNS, Row, column, table

ROOT = Path(__file__).parents[1]
SHOWN = ("node_sparsity", "flops", "optimizer_steps", "sparse_memory_bytes", "disk_bytes")


def line(row: Row) -> str:
    """A row of the page's table."""
    columns = [column(row.metric), *(each for each in COLUMNS if each.name in SHOWN)]
    return f"| {' | '.join([f'`{row.name}`', row.asked, str(len(row.results)), *map(row.text, columns)])} |"


def test_the_tables_are_those_of_the_runs():
    results = [read(path.parent) for path in sorted((ROOT / "results" / "cifar10-grid").glob("*/result.json"))]
    lines = {line(row) for row in table(results)}
    told = [each for each in (ROOT / "docs" / "published.md").read_text().splitlines() if each.startswith("| `")]
    assert len(told) > 15
    assert [each for each in told if each not in lines] == []


@pytest.mark.parametrize(("task", "digits"), [("control", 0), ("depth", 3), ("language", 0)])
def test_the_tables_of_a_task_are_those_of_its_runs(task, digits):
    """Cells are `mean ± deviation (n)` of the figure that counts, over the runs of a method at a sparsity."""
    figures = defaultdict(list)
    for path in sorted((ROOT / "results" / task).glob("*/result.json")):
        result = read(path.parent)
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
