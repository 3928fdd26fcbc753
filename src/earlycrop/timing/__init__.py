"""When is the moment to prune? Each rule is a pure function of what an instrument saw at each look.

fixed.py          before training, after an epoch, never
after_training.py after training, followed by retraining
rewinding.py      after training, then back to an early epoch, round after round
tick_tock.py      after training, a few channels at a time
spread.py         several times, early in training
early_bird.py     on the masks of the last epochs
lazy_regime.py    the poster's rule, on the drift of the weights
rate_settled.py   on the rate of that drift
score_settled.py  on what a scoring would keep
ntk_settled.py    on the empirical neural tangent kernel
"""

from earlycrop.timing.abstract import (
    AbstractDetector,
    AbstractInstrument,
    AbstractPruningSchedule,
    AbstractTiming,
    Now,
    Observed,
    Phase,
    Reason,
)
from earlycrop.timing.after_training import AfterTraining
from earlycrop.timing.early_bird import EarlyBird, MaskDistance
from earlycrop.timing.fixed import AtEpoch, AtInit, Never
from earlycrop.timing.lazy_regime import Drift, LazyRegime
from earlycrop.timing.ntk_settled import KernelChange, NtkSettled
from earlycrop.timing.rate_settled import RateSettled
from earlycrop.timing.rewinding import Rewinding
from earlycrop.timing.score_settled import Overlap, ScoreSettled
from earlycrop.timing.spread import Spread
from earlycrop.timing.tick_tock import TickTock

__all__ = [
    "AbstractDetector",
    "AbstractInstrument",
    "AbstractPruningSchedule",
    "AbstractTiming",
    "AfterTraining",
    "AtEpoch",
    "AtInit",
    "Drift",
    "EarlyBird",
    "KernelChange",
    "LazyRegime",
    "MaskDistance",
    "Never",
    "Now",
    "NtkSettled",
    "Observed",
    "Overlap",
    "Phase",
    "RateSettled",
    "Reason",
    "Rewinding",
    "ScoreSettled",
    "Spread",
    "TickTock",
]
