"""What norms with running statistics do while scores are computed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from earlycrop.distributed import Ranks
from earlycrop.errors import ScoreError
from earlycrop.evaluation.scoring_set import ScoringSet
from earlycrop.names import BatchNormMode

CALIBRATION = 256
"""Samples in one batch when batch norm is calibrated, whatever the micro-batch, so that it changes no statistics; also
the samples over which `scaled` takes the root mean square."""

Run = Callable[[Any], object]
"""Runs the model on a batch."""


class Norms:
    """The norms of a model that have running statistics, in one of their modes.

    Args:
        model: The network.
        mode: The requested mode; `auto` becomes `calibrated` if a norm never saw a batch, else `running`.
        ranks: The processes that score together.

    Attributes:
        mode: The mode in effect.
        meet: Whether samples of a micro-batch meet in a norm that uses the batch's own statistics.

    Raises:
        ScoreError: a norm would wait for other ranks.
    """

    def __init__(self, model: nn.Module, mode: BatchNormMode, ranks: Ranks) -> None:
        self.norms = [one for one in model.modules() if isinstance(one, _NormBase) and one.track_running_stats]
        if mode == "auto":
            unseen = any(n.num_batches_tracked is not None and int(n.num_batches_tracked) == 0 for n in self.norms)
            mode = ranks.first("calibrated" if unseen else "running")
        if mode == "batch" and ranks.size > 1 and any(isinstance(norm, nn.SyncBatchNorm) for norm in self.norms):
            raise ScoreError(
                "SyncBatchNorm takes its statistics over all ranks at once, but each rank scores its own batches, and "
                "not the same number of them. Score with `bn_mode='running'` or 'calibrated'."
            )
        self.mode: BatchNormMode = mode
        self.meet = mode == "batch" and bool(self.norms)
        self.meet |= any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())

    def prepare(self, run: Run, batches: ScoringSet) -> None:
        """Put the norms, which are in eval mode, into their mode; the caller restores modes and buffers.

        Args:
            run: Runs the model on a batch.
            batches: The scoring set.
        """
        if self.mode == "calibrated":
            _calibrate(self.norms, run, batches)
        elif self.mode == "scaled":
            _scale(self.norms, run, batches)
        elif self.mode == "batch":
            for norm in self.norms:
                norm.train()


def _calibrate(norms: list[_NormBase], run: Run, batches: ScoringSet) -> None:
    """Estimate the statistics again: their mean over the set, each batch weighted by its size."""
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.train()
        seen = 0
        with torch.no_grad():
            for batch, samples in batches.chunks(CALIBRATION):
                seen += samples
                for norm in norms:
                    norm.momentum = samples / seen
                run(batch)
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
            norm.eval()


def _scale(norms: list[_NormBase], run: Run, batches: ScoringSet) -> None:
    """Make every norm divide its whole input by one number, the root mean square over the first samples."""

    def measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        mean_square = inputs[0].detach().square().mean()
        norm.running_mean.zero_()
        # a fraction of eps stays: zero inputs stay zero, and tiny ones are not lost in rounding
        least = norm.eps * torch.finfo(norm.running_var.dtype).eps ** 0.5
        norm.running_var.fill_((mean_square - norm.eps).clamp_min(least - norm.eps))

    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        with torch.no_grad():
            run(batches.first(CALIBRATION))
    finally:
        for handle in handles:
            handle.remove()
