"""What is each unit worth? Higher scores stay.

random.py     random numbers: the baseline
magnitude.py  |θ|
inverted.py   the opposite of a score: a control
filter_norm.py    Σ|θ| of a filter
norm_scale.py     Σ|γ| of a channel's norms
path_norm.py  ‖θ_in‖ · |γ| · ‖θ_out‖ of a channel
gate_decorator.py Σ|φ ∂L/∂φ|, gathered while training goes on
snip.py       |θ ∘ g|
grasp.py      θ ∘ Hg, signed
crop.py       |θ ∘ Hg|, and its three readings for channels
synflow.py    |θ ∘ ∂R/∂θ|, without data
ntk_sap.py    |∂/∂m E‖f(x; m∘θ) − f(x; m∘(θ + εξ))‖²|, without data, independent of the weights
px.py         θ² ∘ |∂R/∂θ²|, without labels
"""

from earlycrop.scores.abstract import (
    AbstractGathering,
    AbstractLossScore,
    AbstractNetworkScore,
    AbstractScore,
    Network,
)
from earlycrop.scores.crop import READINGS, Crop, CropGroupSum, CropMixed, Reading
from earlycrop.scores.filter_norm import FilterNorm
from earlycrop.scores.gate_decorator import GateDecorator
from earlycrop.scores.grasp import Grasp
from earlycrop.scores.inverted import Inverted
from earlycrop.scores.magnitude import Magnitude
from earlycrop.scores.norm_scale import NormScale
from earlycrop.scores.ntk_sap import NtkSap
from earlycrop.scores.path_norm import PathNorm
from earlycrop.scores.px import Px
from earlycrop.scores.random import Random
from earlycrop.scores.snip import Snip
from earlycrop.scores.synflow import SynFlow

__all__ = [
    "READINGS",
    "AbstractGathering",
    "AbstractLossScore",
    "AbstractNetworkScore",
    "AbstractScore",
    "Crop",
    "CropGroupSum",
    "CropMixed",
    "FilterNorm",
    "GateDecorator",
    "Grasp",
    "Inverted",
    "Magnitude",
    "Network",
    "NormScale",
    "NtkSap",
    "PathNorm",
    "Px",
    "Random",
    "Reading",
    "Snip",
    "SynFlow",
]
