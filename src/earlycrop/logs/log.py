"""The protocol of logs, and several of them as one."""

import warnings
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Protocol, TypeAlias, runtime_checkable

from earlycrop.report import Check, Report

Figures: TypeAlias = Mapping[str, float | str | None]
"""The figures of an epoch by name; a log shows what it can show, so that TensorBoard leaves texts and None out."""


class LogWarning(UserWarning):
    """A log failed; the training goes on without what it should have kept."""


@runtime_checkable
class Log(Protocol):
    """Receives what happens in a training.

    `Pruner(..., log=log)` reports its looks and its cuts; your loop reports its epochs. Inherit from this class to
    write a log of your own with fewer methods: what it does not override does nothing.

    >>> class Printed(Log):
    ...     def epoch(self, epoch, figures):
    ...         print(f"epoch {epoch:g}:", *(f"{name} {value:.2f}" for name, value in figures.items()))
    >>> Printed().epoch(3, {"loss": 0.25, "accuracy": 0.9})
    epoch 3: loss 0.25 accuracy 0.90
    """

    def check(self, look: Check) -> None:
        """The detector has looked: what it saw, its signal and its threshold."""

    def cut(self, report: Report) -> None:
        """The pruner has pruned; the model is small now."""

    def epoch(self, epoch: float, figures: Figures) -> None:
        """An epoch is finished.

        Args:
            epoch: Epochs finished, so the first is 1.
            figures: Its figures by name: losses, accuracies, learning rates.
        """


class Logs(Log):
    """Several logs as one. If one of them fails, a `LogWarning` says so, and the others and the training go on.

    Args:
        logs: The logs, in the order in which they receive what happens.
    """

    def __init__(self, *logs: Log) -> None:
        self.logs = logs

    def check(self, look: Check) -> None:
        """Every log receives the look."""
        self._each(lambda log: log.check(look))

    def cut(self, report: Report) -> None:
        """Every log receives the report."""
        self._each(lambda log: log.cut(report))

    def epoch(self, epoch: float, figures: Figures) -> None:
        """Every log receives the figures of an epoch.

        Args:
            epoch: Epochs finished, so the first is 1.
            figures: Its figures by name.
        """
        self._each(lambda log: log.epoch(epoch, figures))

    def _each(self, report: Callable[[Log], Any]) -> None:
        for log in self.logs:
            try:
                report(log)
            except Exception as error:  # a full disk or a server that is gone is no reason to lose a training
                warnings.warn(
                    f"{type(log).__name__} failed with {type(error).__name__}: {error}. The training goes on; what "
                    f"happened just now is missing there.",
                    LogWarning,
                    stacklevel=3,
                )


def numbers(figures: Figures) -> dict[str, float]:
    """The figures that are numbers.

    >>> numbers({"loss": 0.5, "phase": "dense", "train": None})
    {'loss': 0.5}
    """
    return {name: float(value) for name, value in figures.items() if value is not None and not isinstance(value, str)}


def figures_of(look: Check) -> dict[str, float]:
    """The figures of a look, under the names that the logs give them; what is not defined is left out."""
    given = {"value": look.value, "signal": look.signal, "threshold": look.threshold}
    return {f"earlycrop/{name}": value for name, value in given.items() if isfinite(value)}


def figures_after(report: Report) -> dict[str, float]:
    """What is left after a cut, in figures, under the names that the logs give them; what is not known is left out."""
    after = report.after
    counts = {"weights": after.prunable, "parameters": after.params, "flops": after.flops}
    channels = {} if report.node_sparsity is None else {"channels": after.nodes}
    given = {"sparsity": report.weight_sparsity, **counts, **channels, "seconds_of_the_cut": report.seconds}
    return {f"earlycrop/{name}": float(value) for name, value in given.items() if isfinite(value)}
