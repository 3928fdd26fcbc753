"""What the rules of several families of operators share."""

from typing import Any

from torch import Tensor

from earlycrop.structure.walk import Walk


def input_reason(walk: Walk, node: Any) -> str:
    """The reason why channels that an operator reads cannot leave."""
    return f"reads channels, or is read together with channels, that cannot leave ({walk.where(node)})"


def same_in_each_group(walk: Walk, labels: Tensor | None, groups: int) -> None:
    """Couple the equal parts of a dimension: each loses the same offsets, so that they stay equally wide."""
    if labels is not None:
        walk.labels.unite(labels.view(groups, -1), labels.view(groups, -1)[:1])
