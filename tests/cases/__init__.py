"""The model zoo: every family of network that the structure engine promises, and the ones that it must leave whole.

Each model is written in plain torch, with small widths, and is listed in `CASES` under a name. `least` is counted by
hand from the definition: so many classes of coupled channels must be able to leave, so that a network that is safely
but needlessly left whole is a failing test and not a surprise. Zero means that leaving it whole is acceptable.

A file holds a family.
"""

from tests.cases import (  # noqa: F401
    attention,
    chains,
    decoders,
    gates,
    grouped,
    hugging_face,
    joined,
    language,
    mixing,
    norms,
    parametrized,
    perceptrons,
    recurrent,
    residual,
    sequences,
    traps,
    vision,
)
from tests.cases.case import CASES, Case, conv, pooled_head

__all__ = ["CASES", "Case", "conv", "pooled_head"]
