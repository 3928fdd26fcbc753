"""What may leave? Single weights (masks) or classes of channels (cuts).

abstract.py  what a pruner asks of units
weights.py   weights that are masked, and stay zero through training
channels.py  classes of channels that really leave
coordinates.py    how the network computes with a vector of units
"""

from earlycrop.units.abstract import AbstractUnitKind, AbstractUnits
from earlycrop.units.channels import Channels, ChannelUnits
from earlycrop.units.coordinates import Entries, GateCoordinates, WeightCoordinates
from earlycrop.units.weights import Weights, WeightUnits

__all__ = [
    "AbstractUnitKind",
    "AbstractUnits",
    "ChannelUnits",
    "Channels",
    "Entries",
    "GateCoordinates",
    "WeightCoordinates",
    "WeightUnits",
    "Weights",
]
