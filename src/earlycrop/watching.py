"""A detector at work: what it saw at each look, and whether the learning rate stayed constant meanwhile."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_iter

from earlycrop.distributed import Ranks
from earlycrop.report import Check
from earlycrop.timing import AbstractDetector, AbstractInstrument, Observed


class Watch:
    """The looks of a detector until its moment comes.

    Args:
        detector: The rule; None for a method that does not watch training.
        observed: What the rule's instrument looks at.
        method: The method's name, for warnings.
        ranks: The processes that train together; rank 0's reading counts.

    Attributes:
        curve: Every look so far.
    """

    def __init__(self, detector: AbstractDetector | None, observed: Observed, method: str, ranks: Ranks) -> None:
        self._detector, self._method, self._ranks = detector, method, ranks
        self._instrument: AbstractInstrument | None = None if detector is None else detector.instrument(observed)
        self.curve: list[Check] = []
        self._last: float | None = None
        self._rates: list[float] = []
        self._warned = False

    @property
    def values(self) -> list[float]:
        """What the instrument saw at each look."""
        return [check.value for check in self.curve]

    def look(self, epoch: float, sparsity: float, optimizer: Optimizer | None) -> None:
        """Look, if an interval has ended.

        Args:
            epoch: Epochs finished.
            sparsity: The requested sparsity, on which some thresholds depend.
            optimizer: The optimizer, whose learning rate should be constant.
        """
        if self._detector is None or self._instrument is None or not self._detector.due(epoch, self._last):
            return
        value = self._ranks.first(self._instrument.read(epoch))  # the last bit may decide
        self._last = epoch  # set only now, so that a look that fails can be repeated
        if value is None:
            return
        self._check_rates([] if optimizer is None else [float(group["lr"]) for group in optimizer.param_groups])
        signal = self._detector.signal([*self.values, value])[-1]
        threshold = self._detector.threshold(sparsity)
        self.curve.append(Check(epoch, value, signal, threshold, next(iter(self._rates), None)))

    def close(self) -> None:
        """Stop looking and free what the instrument remembers, which may be as large as the dense network."""
        self._instrument = None

    def held(self) -> Iterator[Tensor]:
        """Every tensor that the instrument remembers."""
        state = None if self._instrument is None else self._instrument.state_dict()
        yield from (leaf for leaf in tree_iter(state) if isinstance(leaf, Tensor))

    def state_dict(self) -> dict[str, Any]:
        """What was seen, and what the instrument remembers."""
        return {
            "curve": [asdict(check) for check in self.curve],
            "last": self._last,
            "rates": self._rates,
            "warned": self._warned,
            "instrument": None if self._instrument is None else self._instrument.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one that was saved after the cut has no instrument, so the watch is closed."""
        self.curve = [Check(**check) for check in state["curve"]]
        self._last, self._rates, self._warned = state["last"], list(state["rates"]), state["warned"]
        if state["instrument"] is None:
            self.close()
        elif self._instrument is not None:
            self._instrument.load_state_dict(state["instrument"])

    def _check_rates(self, rates: list[float]) -> None:
        last, self._rates = self._rates, rates
        moved = [(before, now) for before, now in zip(last, rates, strict=False) if before != now]
        if moved and not self._warned:
            self._warned = True
            before, now = moved[0]
            warnings.warn(
                f"The learning rate moved from {before:g} to {now:g} before {self._method} pruned, so its rule sees "
                f"the schedule rather than the network. Keep the rate constant until `check` returns a report.",
                stacklevel=5,  # the line that called `check`
            )
