"""Many runs, one table: those that have no result yet are run, each in a process of its own."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from earlycrop_lab.apart import Apart, failure
from earlycrop_lab.board import Board
from earlycrop_lab.engines import Engine
from earlycrop_lab.runs import RESULT, Result, folder_name, read
from earlycrop_lab.tasks.classification import Classification


def todo(runs: Sequence[Classification], out: Path) -> list[Classification]:
    """Those without a result."""
    return [run for run in runs if not (out / folder_name(run) / RESULT).exists()]


def outcome(run: Classification, out: Path) -> Result | str:
    """The result of a run, or why there is none."""
    folder = out / folder_name(run)
    if not (folder / RESULT).exists():
        return failure(folder) or f"{folder} has no result"
    try:
        result = read(folder)
    except (ValueError, OSError) as error:
        return str(error)
    return result if result.description == run else f"{folder} holds the result of another run: {result.description}"


def compare(
    runs: Sequence[Classification], apart: Apart, engine: Engine, console: Console, workers: int = 1
) -> list[tuple[Classification, Result | str]]:
    """Every run with its result, or with the reason why it has none.

    Args:
        runs: What to run, in this order, as far as it has no result; what failed before is tried again.
        apart: Runs one.
        engine: Where.
        console: Where it is told how far they are.
        workers: How many run side by side.

    Raises:
        KeyboardInterrupt: all processes are stopped; says how many runs were done.
    """
    open_runs = list(runs) if apart.again else todo(runs, apart.out)
    lost: dict[Classification, str] = {}
    board = Board(console, open_runs, apart.out, workers)
    try:
        with board.live(), closing(engine.each(apart, open_runs)) as ended:
            for each in ended:
                board.look()
                if each is not None:
                    run, why = each
                    if why is not None:
                        lost[run] = why
                    board.ended(run, why or outcome(run, apart.out))
    except KeyboardInterrupt:
        done = len(runs) - len(board.open)
        raise KeyboardInterrupt(f"{done} of {len(runs)} runs are done, the same command goes on") from None
    return [(run, lost.get(run) or outcome(run, apart.out)) for run in runs]
