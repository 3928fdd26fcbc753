"""The names that options take, apart from what they stand for, so that they can be listed without PyTorch."""

import re
from typing import Literal

from earlycrop.errors import nearest

Target = Literal["weight", "node", "params", "flops", "memory"]
"""What sparsity counts, see `earlycrop.counting`."""

Reading = Literal["gate_hessian", "mixed", "group_sum"]
"""How CroP computes a channel's score, see `earlycrop.scores.READINGS`."""

BatchNormMode = Literal["auto", "running", "calibrated", "scaled", "batch"]
"""What norms with running statistics do while scores are computed, see `earlycrop.evaluation.norms`."""

METHODS = (
    "dense",
    "random-u",
    "random-s",
    "magnitude-u",
    "magnitude-s",
    "snip",
    "snap",
    "grasp",
    "grasp-inverted",
    "crop-u",
    "crop-s",
    "cropit-u",
    "cropit-s",
    "earlycrop-u",
    "earlycrop-s",
    "earlycrop-u-rate",
    "earlycrop-s-rate",
    "earlycrop-u-score",
    "earlycrop-s-score",
    "earlycrop-u-ntk",
    "earlycrop-s-ntk",
    "earlycrop-u-random",
    "earlycrop-s-random",
    "earlymagnitude-u",
    "earlysynflow-u",
    "crop-s-balanced",
    "earlycrop-s-balanced",
    "crop-u-spread",
    "crop-s-spread",
    "crop-s-bounded",
    "earlycrop-s-steps",
    "earlycrop-u-steps",
    "crop-u-poster",
    "crop-s-poster",
    "cropit-u-poster",
    "cropit-s-poster",
    "earlycrop-u-poster",
    "earlycrop-s-poster",
    "crop-s-authors-2022",
    "earlycrop-s-authors-2022",
    "earlycrop-s-authors-2021",
    "earlycrop-u-authors-2022",
    "synflow",
    "earlybird",
    "gate-decorators",
    "efficient-convnets",
    "ltr",
    "imp",
    "ntk-sap",
    "px",
)
"""The names of the methods, in the order of their table."""


def no_method(name: str) -> ValueError:
    """The error where no method has that name; it suggests the nearest.

    Args:
        name: What was given.
    """
    return ValueError(
        f"No method is called {name!r}. Did you mean {meant_by(name)}? The methods are: {', '.join(METHODS)}."
    )


def meant_by(name: str) -> str:
    """The method that is meant by a name that none has; both of a family if it names only that.

    >>> meant_by("EarlyCroP"), meant_by("crop_structured"), meant_by("snip-s"), meant_by("earlycorp-s")
    ("'earlycrop-s' (channels) or 'earlycrop-u' (weights)", "'crop-s'", "'snap'", "'earlycrop-s'")
    """
    meant = "-".join(WORDS.get(word, word) for word in re.split(r"[-_ ]+", name.lower()))
    meant = PUBLISHED.get(meant, meant)
    bare = {one.replace("-", ""): one for one in (*METHODS, *FAMILIES)}
    meant = bare.get(meant.replace("-", ""), meant)
    if meant not in METHODS:
        meant = nearest(meant, [*METHODS, *FAMILIES])
    return f"'{meant}-s' (channels) or '{meant}-u' (weights)" if meant in FAMILIES else repr(meant)


FAMILIES = tuple(name[:-2] for name in METHODS if name.endswith("-s") and f"{name[:-2]}-u" in METHODS)
"""What methods for channels and for weights have in common in their names."""

WORDS = {"structured": "s", "channels": "s", "filters": "s", "unstructured": "u", "weights": "u"}
"""Words for the last letter of a method's name."""

PUBLISHED = {"snip-s": "snap", "snip-u": "snip", "snap-s": "snap", "lottery": "ltr", "lth": "imp", "l1": "magnitude"}
"""Other names of some methods."""
