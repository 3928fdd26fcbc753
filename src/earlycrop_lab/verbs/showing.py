"""Show a finished run, or a folder of runs as one table."""

import argparse
from pathlib import Path

from rich.console import Console

from earlycrop_lab.reporting import summary
from earlycrop_lab.reporting.figures import draw
from earlycrop_lab.runs import MODEL, PACKED, RESULT, Result, find, finished, read, twin
from earlycrop_lab.verbs.verb import say


def show(options: argparse.Namespace, console: Console) -> int:
    """Show the run, or all runs of the folder."""
    if several := finished(Path(options.run)):
        results = [read(folder) for folder in several]
        print(summary.markdown(results))
        print("\n" + "\n".join(dict.fromkeys(f"{summary.title(each)}. {summary.conditions(each)}" for each in results)))
        return 0
    folder = find(options.run, options.out)
    present(read(folder), folder, folder.parent, console, full=True)
    return 0


def present(result: Result, folder: Path, out: Path, console: Console, full: bool = False) -> None:
    """Print the table beside the dense twin's, what was removed, the conditions, and the paths of the figures."""
    pruned = result.report is not None
    dense = twin(result.description, out) if pruned else None
    pictures = draw(result, folder, dense)
    if full:
        say(console, repr(result.description))
        if result.report is not None and result.report["curve"]:
            console.print(summary.curve(result.report))
    say(console, "\n" + summary.title(result))
    console.print(summary.comparison([result, dense] if dense else [result]))
    if result.report is not None:
        say(console, summary.what_left(result.report))
    say(console, summary.conditions(result))
    if pruned and dense is None:
        say(console, "There is no dense twin to compare with; --with-dense trains it.")
    say(console, "")
    for path in [*pictures, folder / RESULT, folder / MODEL]:
        if path.exists():  # of a packed run its folder holds neither
            say(console, str(path))
    if not (folder / RESULT).exists():
        say(console, str(folder.parent / PACKED))
