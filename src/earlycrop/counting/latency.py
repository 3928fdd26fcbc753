"""The milliseconds of a forward pass, predicted from measurements of each operator on the user's own device.

table.py      what was measured, as a function of widths that never falls when channels are added
measuring.py  the measurements, and the file that keeps them
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from earlycrop.counting import measuring
from earlycrop.counting.costs import AbstractCost
from earlycrop.counting.sizes import Sizes
from earlycrop.counting.table import Table


@dataclass(frozen=True)
class Latency(AbstractCost):
    """The milliseconds of one forward pass in inference, for the device and batch that were measured.

    Make it with `Latency.measured`. It predicts c (Σ t)^p from the times t of all operators, interpolated between the
    widths that were measured; c and p are fitted to the times of the whole network and of some cuts of it. So channels
    of layers that are slow on this device are dear, whatever their FLOPs.

    Args:
        device: What was measured, in words.
        batch: The number of examples in the measured batch.
        digest: Distinguishes the measurements, since saved states compare descriptions.
        table: The measurements.
    """

    device: str
    batch: int
    digest: str
    table: Table = field(repr=False, compare=False)

    name = "latency"

    def of(self, sizes: Sizes) -> float:
        """The predicted milliseconds.

        Args:
            sizes: The sizes of the network that was measured, whole or cut.

        Raises:
            BudgetError: another network was measured.
        """
        return 1e3 * self.table.seconds(sizes)

    @property
    def error(self) -> float:
        """The largest relative error of the prediction among the networks that it was fitted to."""
        return self.table.error

    @property
    def spread(self) -> float:
        """How much a timing varies: half the range of the middle half of its repeats, over the median; the median."""
        return self.table.spread

    @classmethod
    def measured(
        cls,
        model: nn.Module,
        example_inputs: object,
        path: str | os.PathLike[str] | None = None,
        *,
        seconds: float = 60,
        again: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> "Latency":
        """Measure a network's operators and the network itself, dense and cut, where its parameters are.

        Set the number of threads first, and let nothing else run. What the file has is not measured again.

        Args:
            model: The network, dense; only copies of it run and are cut.
            example_inputs: A batch of the size whose latency counts: a tensor, a tuple of arguments, or a mapping of
                arguments by name.
            path: A file for the measurements, JSON; None: they are not kept.
            seconds: About how long to measure at most. Three rounds are made in any case; where timings vary, there
                are more.
            again: Measure once more what the file has, and replace a file of another device.
            clock: Gives the time. `time.process_time`, for one thread on a CPU, leaves out other programs' work.

        Raises:
            BudgetError: the file is damaged, or its measurements are of another device, number of threads or version of
                PyTorch; the network has no operators to measure.
            TraceError: the model cannot be traced.
        """
        found = measuring.measure(model, example_inputs, None if path is None else Path(path), seconds, again, clock)
        return cls(found.device, found.batch, found.table.digest, found.table)
