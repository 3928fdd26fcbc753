"""What may leave? Single weights (masks) or classes of channels (cuts).

abstract.py  what a pruner asks of units
weights.py   masks that stay zero through training
channels.py  classes that really leave
charts.py    how the network computes with a vector of units
"""

from earlycrop.units.abstract import AbstractUnitKind, AbstractUnits
from earlycrop.units.channels import Channels, ChannelUnits
from earlycrop.units.charts import Entries, GateChart, WeightChart
from earlycrop.units.weights import Weights, WeightUnits

__all__ = [
    "AbstractUnitKind",
    "AbstractUnits",
    "ChannelUnits",
    "Channels",
    "Entries",
    "GateChart",
    "WeightChart",
    "WeightUnits",
    "Weights",
]
