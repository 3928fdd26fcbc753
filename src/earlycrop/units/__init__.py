"""What may leave? Single weights (masks) or classes of channels (cuts).

weights.py   masks that stay zero through training
channels.py  classes that really leave
charts.py    how a vector of units moves the model's parameters
"""

from earlycrop.units.channels import Channels, ChannelUnits
from earlycrop.units.charts import GateChart, WeightChart
from earlycrop.units.weights import Weights, WeightUnits

__all__ = ["ChannelUnits", "Channels", "GateChart", "WeightChart", "WeightUnits", "Weights"]
