"""What the rules of several families say."""

from typing import Any

from torch import Tensor

from earlycrop.structure.walk import Walk


def input_reason(walk: Walk, node: Any) -> str:
    """Why channels that an operator reads cannot leave."""
    return f"reads or is read together with channels that cannot leave ({walk.where(node)})"


def same_in_each_group(walk: Walk, labels: Tensor | None, groups: int) -> None:
    """Equal parts of a dimension lose the same offsets, so that they stay equal."""
    if labels is not None:
        walk.labels.unite(labels.view(groups, -1), labels.view(groups, -1)[:1])
