"""How much each layer's units matter: `layers` cuts one layer at a time, and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import earlycrop
from earlycrop import Sensitivity
from earlycrop.timing import AtInit
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.session import pruner_of
from earlycrop_lab.why.branches import Stem


def check(sparsities: Sequence[float]) -> None:
    """Refuse what is no part of a layer.

    Raises:
        ValueError: A sparsity is below 0, or 1 or more.
    """
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise ValueError(f"A sparsity is the part of a layer that leaves, from 0 to below 1; {sparsity:g} is not.")


def layers(
    d: Description,
    stem: Stem,
    sparsities: Sequence[float],
    by: str = "loss",
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Cut each layer of a dense network by itself, by the score of the description's method.

    Args:
        d: The description, with the method; its budget is ignored.
        stem: Its dense training, as far as it has come.
        sparsities: The parts of a layer's units that leave.
        by: What to measure: the `loss` on the scoring set, or the task's `metric`.
        progress: Called with the number of measurements done and of all.
    """

    def metric(model) -> float:
        return stem.setup.evaluate(model)[d.metric.name]

    little = replace(d, sparsity=1e-6)  # which is always in reach
    pruner = pruner_of(little, stem.setup, method=replace(earlycrop.get_method(d.method), timing=AtInit()))
    found = pruner.sensitivity(metric if by == "metric" else None, sparsities, progress)
    return replace(found, figure=d.metric.label if by == "metric" else "loss on the scoring set")
