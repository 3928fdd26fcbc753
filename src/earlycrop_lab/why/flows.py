"""What scores do to the gradient flow and to the kernel: `flows` prunes one network by each of them."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import earlycrop
from earlycrop.evaluation import MeanLoss
from earlycrop.kernel import empirical_ntk
from earlycrop.timing import AtInit
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.session import Setup, pruner_of
from earlycrop_lab.why.branches import Stem

SCORES = (
    *("random-u", "magnitude-u", "snip", "grasp", "synflow", "crop-u", "cropit-u", "ntk-sap", "px"),
    *("random-s", "magnitude-s", "snap", "crop-s", "cropit-s"),
)
"""Methods that prune before training, and so differ only in what they remove."""

OUTPUTS = 2000
"""The most outputs in the kernel, evenly spaced: a depth map or a text has more than the kernel can hold."""


@dataclass(frozen=True)
class Flow:
    """What one score did to one network at one sparsity, without further training.

    Args:
        method: Its name.
        sparsity: The requested weight sparsity.
        seed: Seed of the initial weights.
        epochs: Dense epochs before the cut.
        flow_before: ‖g‖² over the prunable weights, with g the gradient of the mean loss over the scoring set.
        flow_after: ‖g‖² over the weights that are left.
        kernel_change: ‖K_after − K_before‖_F / ‖K_before‖_F of the empirical neural tangent kernel.
    """

    method: str
    sparsity: float
    seed: int
    epochs: int
    flow_before: float
    flow_after: float
    kernel_change: float


def flows(
    d: Description,
    stem: Stem,
    methods: Sequence[str] = SCORES,
    sparsities: Sequence[float] = (0.5, 0.8, 0.9, 0.95, 0.98),
    samples: int = 8,
) -> Iterator[Flow]:
    """Prune the same network by each score.

    Args:
        d: The description; its method and budget are ignored.
        stem: Its dense training, as far as it has come.
        methods: Names of methods, all of which prune at the same epoch here.
        sparsities: Fractions to remove.
        samples: Training samples in the kernel.
    """
    flow_before, kernel = _state(d, "random-u", stem.setup, None, samples)
    for name in methods:
        for sparsity in sparsities:
            flow_after, after = _state(d, name, stem.setup, sparsity, samples)
            change = float(torch.linalg.norm(after - kernel) / torch.linalg.norm(kernel))
            yield Flow(name, sparsity, d.seed, stem.epoch, flow_before, flow_after, change)


def _state(d: Description, name: str, setup: Setup, sparsity: float | None, samples: int) -> tuple[float, Tensor]:
    """Gradient flow and kernel of a copy, pruned if a sparsity is given."""
    method = replace(earlycrop.get_method(name), timing=AtInit())
    twin = copy.deepcopy(setup.model)
    asked = d if sparsity is None else replace(d, sparsity=sparsity)
    pruner = pruner_of(asked, replace(setup, model=twin), method=method)
    if sparsity is not None:
        pruner.check(0)
    loss = MeanLoss(twin, setup.loss, setup.scoring_now())
    masks = pruner.units.masks()
    parameters = dict(twin.named_parameters())
    kernel = empirical_ntk(loss, list(parameters.values()), samples, [masks.get(n) for n in parameters], OUTPUTS)
    return float(loss.gradient(pruner.units.weights).double().square().sum()), kernel.double().cpu()
