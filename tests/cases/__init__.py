"""The model zoo: every family of networks that the structure engine promises to cut, and those it must leave whole.

Each model is written in plain torch, with small widths, and is listed in `CASES` under a name. `least`, counted by
hand from the definition, is the number of classes of coupled channels that must be able to leave at least: a network
left whole safely but needlessly is a failing test and not a surprise. Zero means that leaving it whole is acceptable.

Each file or folder holds one family.
"""

from tests.cases import (  # noqa: F401
    attention,
    chains,
    decoders,
    gates,
    graphs,
    grouped,
    hugging_face,
    joined,
    language,
    mixing,
    norms,
    parametrized,
    perceptrons,
    places,
    recurrent,
    residual,
    sequences,
    standardised,
    streams,
    sums,
    traps,
    vision,
)
from tests.cases.case import CASES, Case, conv, pooled_head

__all__ = ["CASES", "Case", "conv", "pooled_head"]
