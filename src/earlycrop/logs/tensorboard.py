"""TensorBoard: curves of the detector and of the training, and the report of the cut as text."""

from os import PathLike
from typing import Any, Protocol, runtime_checkable

from earlycrop.errors import EarlyCropError
from earlycrop.logs.log import Figures, Log, figures_after, figures_of, numbers
from earlycrop.report import Check, Report


@runtime_checkable
class Writer(Protocol):
    """What is asked of a `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        """Add a point to a curve."""

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """Add a text, in Markdown."""

    def flush(self) -> None:
        """Write what is in memory."""

    def close(self) -> None:
        """Write what is in memory, and end."""


class TensorBoard(Log):
    """Writes what happens as TensorBoard events.

    The detector's `value`, `signal` and `threshold` are curves under `earlycrop/`, as is what each cut leaves
    (`sparsity`, `parameters`, `flops`, …). The report and the widths are texts. Figures of epochs have the names that
    you give them.

    Args:
        to: A folder for the event files, or your own `torch.utils.tensorboard.SummaryWriter`.
        steps_per_epoch: TensorBoard counts in whole steps: epoch e is step e · `steps_per_epoch`, rounded. With the
            number of batches in an epoch, the curves lie on those that you write at every training step, and looks
            within an epoch have places of their own.
        done: Epochs that are done if a training is resumed into the same folder: later events of an interrupted
            process are hidden. Only where `to` is a folder.

    Raises:
        EarlyCropError: tensorboard is not installed, or `steps_per_epoch` is not at least 1.
    """

    def __init__(self, to: str | PathLike[str] | Writer, steps_per_epoch: int = 1, done: float | None = None) -> None:
        if steps_per_epoch < 1:
            raise EarlyCropError(
                f"`steps_per_epoch` is the number of training steps in an epoch; found {steps_per_epoch}."
            )
        self._steps = steps_per_epoch
        self._writer: Writer = to if not isinstance(to, str | PathLike) else self._opened(str(to), done)

    def check(self, look: Check) -> None:
        """Add a point to the detector's curves."""
        self._scalars(figures_of(look), look.epoch)

    def cut(self, report: Report) -> None:
        """Add the report and the widths as texts, and a point to the curves of what is left."""
        step = self._step(report.epoch)
        self._scalars(figures_after(report), report.epoch)
        self._writer.add_text("earlycrop/report", "\n".join(f"    {line}" for line in str(report).splitlines()), step)
        rows = [f"| {width.layer} | {width.before} | {width.after} |" for width in report.widths]
        heads = ["| layer | before | after |", "| --- | ---: | ---: |"]
        self._writer.add_text("earlycrop/widths", "\n".join([*heads, *rows]), step)
        self._writer.flush()  # a cut is rare, and what one waits for

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Add a point to the curve of each figure that is a number.

        Args:
            epoch: Epochs finished.
            figures: Its figures by name.
        """
        self._scalars(numbers(figures), epoch)

    def close(self) -> None:
        """Write what is still in memory, and close the files."""
        self._writer.close()

    def _opened(self, folder: str, done: float | None) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EarlyCropError(
                'TensorBoard event files need the package tensorboard: pip install "earlycrop[tensorboard]".'
            ) from error
        return SummaryWriter(folder, purge_step=None if done is None else self._step(done) + 1)

    def _scalars(self, values: dict[str, float], epoch: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._step(epoch))

    def _step(self, epoch: float) -> int:
        return round(epoch * self._steps)
