"""Show the methods, a finished run, or a folder of runs as a page."""

import argparse
from pathlib import Path

from rich.console import Console

from earlycrop_lab import page
from earlycrop_lab.reporting import summary
from earlycrop_lab.reporting.figures import draw
from earlycrop_lab.runs import MODEL, PACKED, RESULT, Result, find, finished, pack, read, twin
from earlycrop_lab.verbs.verb import Misuse, Verb, say


def _no_arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add no option."""


def _methods(options: argparse.Namespace, console: Console) -> int:
    console.print(summary.methods())
    say(console, "Each row is one method: `-u` masks weights, `-s` removes channels. A new method is a new row.")
    return 0


def _of_a_run(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, its name or the beginning of its name; or a folder of runs"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where runs are (default: runs)")


def _show(options: argparse.Namespace, console: Console) -> int:
    if several := finished(Path(options.run)):
        results = [read(folder) for folder in several]
        print(summary.markdown(results))
        print("\n" + "\n".join(dict.fromkeys(f"{summary.title(each)}. {summary.conditions(each)}" for each in results)))
        return 0
    folder = find(options.run, options.out)
    present(read(folder), folder, folder.parent, console, full=True)
    return 0


def _of_a_folder(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; its tables and figures go beside it, in a folder of its name (default: RESULTS/report.html)",
    )


def _report(options: argparse.Namespace, console: Console) -> int:
    if not options.results.is_dir():
        raise Misuse(f"there is no folder {options.results}: report expects the folder that `train --out` named")
    for path in page.write(options.results, options.out or options.results / "report.html"):
        say(console, str(path))
    return 0


def _pack(options: argparse.Namespace, console: Console) -> int:
    if not options.results.is_dir():
        raise Misuse(f"there is no folder {options.results}: pack expects the folder that `train --out` named")
    into = options.to or options.results
    number = pack(options.results, into)
    say(console, f"{into / PACKED} holds {number} results")
    return 0


def _of_packing(parser: argparse.ArgumentParser, task: str) -> None:
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs; it stays as it is")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="the folder that receives runs.jsonl (default: RESULTS)"
    )


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
        say(console, str(path))


METHODS = Verb("methods", "the table of methods", _no_arguments, _methods)
SHOW = Verb("show", "a finished run", _of_a_run, _show)
REPORT = Verb("report", "a folder of runs as a page", _of_a_folder, _report)
PACK = Verb("pack", "the results of a folder of runs in one file", _of_packing, _pack)
