"""EarlyCroP: make a network small before you pay for training it.

Beside your loop
    Pruner          runs a method and returns a Report at the cut; its dry_run returns a Plan, its sensitivity a table
    Budget          how much leaves, what is counted, and what each layer keeps
    Scoring         the loss and the data by which a method scores
    harvest         cuts the channels that masks have emptied; returns a HarvestReport
    METHODS         the methods by name; get_method looks one up
    Method          one answer to each of five questions: units, score, timing, steps, allocation

The answers
    earlycrop.units       Weights, Channels: what may leave
    earlycrop.scores      Random, Magnitude, PathNorm, Snip, Grasp, Crop, SynFlow: what each unit is worth
    earlycrop.timing      AtInit, AtEpoch, Spread, LazyRegime and other detectors: when
    earlycrop.steps       OneShot, Halving, Exponential, Bounded: in how many steps
    earlycrop.allocation  Global, Uniform: how layers share the budget
    earlycrop.counting    PrunableWeights, Parameters, Nodes, Flops: what sparsity counts
    earlycrop.widths      WidthsOf: one scoring sets the widths, another chooses the units

Below them
    earlycrop.structure     trace, cut, verify: how channels leave any network
    save, load              a model that is smaller than its class says
    earlycrop.logs          what happens, for TensorBoard, Weights & Biases and notebooks
    save_state, load_state  everything needed to resume a training run
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earlycrop import (  # noqa: F401 - attributes, which are `_PARTS` when it runs
        allocation,
        counting,
        evaluation,
        scores,
        steps,
        structure,
        timing,
        units,
        widths,
    )
    from earlycrop.budget import Budget
    from earlycrop.checkpoint import load, load_state, save, save_state
    from earlycrop.errors import (
        BudgetError,
        CheckpointError,
        EarlyCropError,
        OptimizerError,
        RankError,
        ScoreError,
        TraceError,
        VerificationError,
    )
    from earlycrop.harvesting import HarvestReport, harvest
    from earlycrop.methods import METHODS, Method, get_method
    from earlycrop.plan import Plan
    from earlycrop.pruner import Pruner
    from earlycrop.reach import Reach, ReachWarning
    from earlycrop.report import Check, Report
    from earlycrop.scoring import Scoring
    from earlycrop.sensitivity import Sensitivity
    from earlycrop.starvation import Bottleneck, StarvationWarning

__all__ = [
    "METHODS",
    "Bottleneck",
    "Budget",
    "BudgetError",
    "Check",
    "CheckpointError",
    "EarlyCropError",
    "HarvestReport",
    "Method",
    "OptimizerError",
    "Plan",
    "Pruner",
    "RankError",
    "Reach",
    "ReachWarning",
    "Report",
    "ScoreError",
    "Scoring",
    "Sensitivity",
    "StarvationWarning",
    "TraceError",
    "VerificationError",
    "get_method",
    "harvest",
    "load",
    "load_state",
    "save",
    "save_state",
]

_HOMES = {
    "METHODS": "methods",
    "Bottleneck": "starvation",
    "Budget": "budget",
    "BudgetError": "errors",
    "Check": "report",
    "CheckpointError": "errors",
    "EarlyCropError": "errors",
    "HarvestReport": "harvesting",
    "Method": "methods",
    "OptimizerError": "errors",
    "Plan": "plan",
    "Pruner": "pruner",
    "RankError": "errors",
    "Reach": "reach",
    "ReachWarning": "reach",
    "Report": "report",
    "ScoreError": "errors",
    "Scoring": "scoring",
    "Sensitivity": "sensitivity",
    "StarvationWarning": "starvation",
    "TraceError": "errors",
    "VerificationError": "errors",
    "get_method": "methods",
    "harvest": "harvesting",
    "load": "checkpoint",
    "load_state": "checkpoint",
    "save": "checkpoint",
    "save_state": "checkpoint",
}
_PARTS = ("allocation", "counting", "evaluation", "scores", "steps", "structure", "timing", "units", "widths")


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: `import earlycrop` alone need not wait for PyTorch."""
    if name in _PARTS:
        return import_module(f"earlycrop.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'earlycrop' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"earlycrop.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_PARTS])
