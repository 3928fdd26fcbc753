"""What `docs/results.md` tells is what the results under `results/` say."""

from pathlib import Path

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
