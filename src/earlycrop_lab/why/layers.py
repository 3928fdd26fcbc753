"""How much each layer's units matter: `layers` cuts one layer at a time, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import earlycrop
from earlycrop import Sensitivity
from earlycrop.timing import AtInit
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.session import pruner_of
from earlycrop_lab.why.branches import grown


def layers(
    d: Description,
    sparsities: Sequence[float],
    *,
    by: str = "loss",
    epochs: int = 0,
    root: str | None = None,
    device: str = "cpu",
    trained: Callable[[int], None] = lambda epoch: None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Cut each layer of a dense network by itself, by the score of the description's method.

    Args:
        d: The network, the data, the seed and the method; its budget is ignored.
        sparsities: The parts of a layer's units that leave.
        by: What to measure: the `loss` on the scoring set, or the task's `metric`.
        epochs: Dense epochs before, at a constant rate.
        root: The folder of the data sets.
        device: The device to compute on.
        trained: Called with the number of dense epochs done, after each.
        progress: Called with the number of measurements done and of all.

    Raises:
        ValueError: The method removes nothing.
    """
    method = earlycrop.get_method(d.method)
    if method.timing.cuts(1) == 0:
        raise ValueError(f"{d.method} removes nothing, so no layer loses anything: name another with --method.")
    for stem in grown(d, epochs, root, device):
        setup = stem.setup
        if stem.epoch:
            trained(stem.epoch)

    def metric(model) -> float:
        return setup.evaluate(model)[d.metric.name]

    little = replace(d, sparsity=1e-6)  # which is always in reach
    pruner = pruner_of(little, setup, method=replace(method, timing=AtInit()))
    found = pruner.sensitivity(metric if by == "metric" else None, sparsities, progress)
    return replace(found, figure=d.metric.label if by == "metric" else "loss on the scoring set")
