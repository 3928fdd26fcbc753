"""Weights & Biases: the same curves in a run that you have started."""

from typing import Any

from earlycrop.errors import EarlyCropError
from earlycrop.logs.log import Figures, Log, figures_after, figures_of, numbers
from earlycrop.report import Check, Report


class Wandb(Log):
    """Logs what happens to a run of Weights & Biases, against the epoch.

    Project, name and mode (`mode="offline"` needs no account) are yours: `Wandb(wandb.init(project="small"))`. The
    curves have the names that `TensorBoard` gives them. The summary of the run holds what is left after the last cut,
    and the report as text; the widths of the layers are a table.

    Args:
        run: What `wandb.init` returned.

    Raises:
        EarlyCropError: `run` is no run, as where `wandb.init` was not called.
    """

    def __init__(self, run: Any) -> None:
        if not all(hasattr(run, name) for name in ("log", "define_metric", "summary")):
            raise EarlyCropError(
                f"`Wandb` takes the run that `wandb.init(...)` returned; found {type(run).__name__}. "
                f'pip install "earlycrop[wandb]" installs wandb.'
            )
        self._run = run
        run.define_metric("epoch")
        run.define_metric("earlycrop/*", step_metric="epoch")
        self._defined: set[str] = set()

    def check(self, look: Check) -> None:
        """Log a point of the detector's curves."""
        self._run.log({"epoch": look.epoch, **figures_of(look)})

    def cut(self, report: Report) -> None:
        """Log what is left and the table of widths; the summary keeps the report."""
        import wandb

        figures = figures_after(report)
        rows: list[Any] = [[width.layer, width.before, width.after] for width in report.widths]
        widths = wandb.Table(columns=["layer", "before", "after"], data=rows)
        self._run.log({"epoch": report.epoch, **figures, "earlycrop/widths": widths})
        self._run.summary.update({**figures, "earlycrop/report": str(report)})

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Log a point of the curve of each figure that is a number.

        Args:
            epoch: Epochs finished.
            figures: Its figures by name.
        """
        given = numbers(figures)
        for name in given.keys() - self._defined:
            self._run.define_metric(name, step_metric="epoch")
        self._defined |= given.keys()
        self._run.log({"epoch": epoch, **given})
