"""A folder of runs as one self-contained page with tables and charts, and these as files, for a paper.

    html        the page
    pictures    charts as files, and as parts of the page
    style       the page's style sheet and frame

Imports point down this list and never up.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from earlycrop.files import replacing
from earlycrop_lab import runs
from earlycrop_lab.page import pictures
from earlycrop_lab.page.html import page
from earlycrop_lab.reporting import claims, equal_cost
from earlycrop_lab.reporting.charts import Chart, charts
from earlycrop_lab.reporting.charts.canvas import WIDTH
from earlycrop_lab.reporting.claims import findings
from earlycrop_lab.reporting.equal_cost import comparisons, narrower
from earlycrop_lab.reporting.figures import sampled
from earlycrop_lab.reporting.tables import Row, by_setting, csv, markdown, table
from earlycrop_lab.runs import Result
from earlycrop_lab.why import inquiry
from earlycrop_lab.why.inquiry import Inquiry


def write(folder: Path, file: Path) -> list[Path]:
    """Write the page of a folder of runs, and its tables and charts as files in a folder beside it; all paths.

    Args:
        folder: The folder of runs.
        file: The page. Without a suffix it gets `.html`, since the folder beside it has its name without suffix.

    Raises:
        ValueError: No run has a result.
        OSError: A file cannot be read or written.
    """
    file = file if file.suffix else file.with_name(f"{file.name}.html")
    results, lacking = finished(folder)
    if not results:
        why = "".join(f" {name}: {reason}." for name, reason in lacking.items())
        raise ValueError(f"There is no finished run in {folder}. `earlycrop train --out {folder}` makes one.{why}")
    rows = table(results)
    drawn = {
        setting: [*charts(group, narrower(group[0], rows)), *_sampled(group, folder)]
        for setting, group in by_setting(rows).items()
    }
    tested, equal = findings(rows), comparisons(rows)
    asked, unread = inquiries(folder)
    lacking |= unread
    beside = file.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    written = {
        file: page(rows, drawn, tested, equal, asked, lacking).encode(),
        beside / "table.md": _joined(markdown(rows), equal_cost.markdown(equal)).encode(),
        beside / "table.csv": csv(rows).encode(),
    }
    if tested or equal:
        written[beside / "claims.md"] = _joined(claims.markdown(tested), equal_cost.markdown(equal)).encode()
    for path, content in written.items():
        with replacing(path) as out:
            out.write(content)
    return [*written, *pictures.keep(drawn, beside)]


def _sampled(rows: Sequence[Row], folder: Path) -> list[Chart]:
    """For each sparsity a chart of dense and pruned networks' predictions for a few samples, at their first seeds."""
    found = []
    for level in sorted({row.sparsity for row in rows if row.sparsity is not None}) or [None]:
        among = sorted((row for row in rows if row.sparsity in (None, level)), key=lambda row: row.prunes)
        figure = sampled({row.name: row.results[0] for row in among}, folder, width=WIDTH / 72, across=False)
        if figure is not None:
            at = "" if level is None else f" at {100 * level:g} % sparsity"
            note = "Test samples, the same for all methods, after the last epoch of each method's first seed."
            found.append(Chart(f"samples{'' if level is None else f'-{level:g}'}", f"What they see{at}", note, figure))
    return found


def finished(folder: Path) -> tuple[list[Result], dict[str, str]]:
    """The results of a folder of runs, each run once, and for each folder that adds none, by name, the reason."""
    found, lacking = {}, {}
    for run in sorted({path for path in folder.iterdir() if path.is_dir()} | set(runs.finished(folder))):
        if runs.has_result(run):
            try:
                found[run] = runs.read(run)
            except (ValueError, OSError) as error:
                lacking[run.name] = str(error)
        elif why := runs.failure(run):
            lacking[run.name] = f"failed: {why}"
        elif re.search(r"-seed\d+$", run.name) and not run.name.startswith(("plan-", "why-")):
            lacking[run.name] = "has no result: it is running, or was cut off; the same command goes on with it"
    results, copies = runs.once(found)
    return results, lacking | copies


def inquiries(folder: Path) -> tuple[list[Inquiry], dict[str, str]]:
    """The answers that `earlycrop why` kept among the runs, and for each that cannot be read, by name, the reason."""
    found, unread = [], {}
    for kept in sorted(folder.glob("why-*/records.json")):
        try:
            found.append(inquiry.of(kept.parent))
        except (ValueError, OSError) as error:
            unread[kept.parent.name] = str(error)
    return found, unread


def _joined(*texts: str) -> str:
    return "\n".join(text for text in texts if text.strip())
