"""The type of scores: one number for each unit."""

from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, "units"]
