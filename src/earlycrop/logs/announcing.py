"""What a check has found, to the pruner's log, and in warnings what nobody should overlook."""

import warnings
from collections.abc import Sequence
from typing import Any

from earlycrop.errors import EarlyCropError
from earlycrop.logs.log import Log, Logs
from earlycrop.reach import ReachWarning
from earlycrop.report import Check, Report
from earlycrop.starvation import StarvationWarning


def check_log(log: Any) -> Log | None:
    """The log, if it can receive what happens.

    Raises:
        EarlyCropError: it lacks the methods of a log.
    """
    missing = [name for name in ("check", "cut", "epoch") if not callable(getattr(log, name, None))]
    if log is not None and missing:
        raise EarlyCropError(
            f"`log` has the methods check, cut and epoch of `earlycrop.logs.Log`; found {type(log).__name__} without "
            f"{', '.join(missing)}. Inherit from `Log`; several logs are one as `Logs(first, second)`."
        )
    return log


def announce(log: Log | None, looks: Sequence[Check], report: Report | None, first: bool) -> None:
    """Report to the log, if there is one, and warn of starved layers and of a method that reaches little.

    Args:
        log: The log.
        looks: The looks of this check.
        report: The report, if this check pruned.
        first: Whether it was the first cut.
    """
    logs = Logs() if log is None else Logs(log)
    for look in looks:
        logs.check(look)
    if report is None:
        return
    logs.cut(report)
    if report.complaint is not None:
        warnings.warn(report.complaint, StarvationWarning, stacklevel=3)  # the line that called `check`
    little = report.reach.complaint(report.method, report.unit) if first and report.reach is not None else None
    if little is not None:
        warnings.warn(little, ReachWarning, stacklevel=3)
