"""What `docs/results.md` and `docs/tasks.md` tell is what the results under `results/` say."""

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
    told = [each for each in (ROOT / "docs" / "results.md").read_text().splitlines() if each.startswith("| `")]
    assert len(told) > 15
    assert [each for each in told if each not in lines] == []


UNITS = {"random": ("random-s", "random-u"), "snap": ("snap", "snip"), "crop": ("crop-s", "crop-u")}
UNITS |= {"earlycrop": ("earlycrop-s", "earlycrop-u")}


@pytest.mark.parametrize(("task", "digits"), [("control", 0), ("depth", 3), ("language", 0)])
def test_the_tables_of_a_task_are_those_of_its_runs(task, digits):
    """Cells are `mean ± deviation (n)` of the figure that counts, over the runs of a method at a sparsity."""
    figures = defaultdict(list)
    for path in sorted((ROOT / "results" / task).glob("*/result.json")):
        result = read(path.parent)
        at = result.description
        figures[at.method, at.sparsity].append(result.columns.metrics[at.metric.name])
    told = 0
    for label, *cells in told_in_tables(f"results/{task}`"):
        unit = ("channels", "weights").index(label.split(",")[0])
        sparsity = float(label.split()[1].strip(",")) / 100
        for methods, cell in zip(UNITS.values(), cells, strict=True):
            values = figures.get((methods[unit], round(sparsity, 4)), [])
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            assert cell == (f"{mean(values):.{digits}f}{spread} ({len(values)})" if values else "–"), (label, methods)
            told += bool(values)
    assert told >= 8


def told_in_tables(folder: str) -> list[list[str]]:
    """The rows of the table that follows the mention of a folder in `docs/tasks.md`, cell by cell."""
    after = (ROOT / "docs" / "tasks.md").read_text().split(folder, 1)[1].splitlines()
    first = next(number for number, line in enumerate(after) if line.startswith("| ---")) + 1
    rows = takewhile(lambda line: line.startswith("|"), after[first:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
