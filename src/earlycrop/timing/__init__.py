"""When is the moment? Each rule is a pure function of what an instrument saw at each look.

fixed.py          before training, after an epoch, never
lazy_regime.py    the poster's rule, on the drift of the weights
rate_settled.py   on the pace of that drift
score_settled.py  on what a scoring would keep
ntk_settled.py    on the empirical neural tangent kernel
"""

from earlycrop.timing.abstract import AbstractDetector, AbstractInstrument, AbstractTiming, Reason, Scene
from earlycrop.timing.fixed import AtEpoch, AtInit, Never
from earlycrop.timing.lazy_regime import Drift, LazyRegime
from earlycrop.timing.ntk_settled import KernelChange, NtkSettled
from earlycrop.timing.rate_settled import RateSettled
from earlycrop.timing.score_settled import Overlap, ScoreSettled

__all__ = [
    "AbstractDetector",
    "AbstractInstrument",
    "AbstractTiming",
    "AtEpoch",
    "AtInit",
    "Drift",
    "KernelChange",
    "LazyRegime",
    "Never",
    "NtkSettled",
    "Overlap",
    "RateSettled",
    "Reason",
    "Scene",
    "ScoreSettled",
]
