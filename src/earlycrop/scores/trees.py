"""What goes into a network and comes out of it: trees of tensors."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


def floats(tree: Any) -> list[Tensor]:
    """All float tensors of a tree, in the tree's order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def one_sample_of_ones(tree: Any) -> Any:
    """One sample with the same shapes, in which all float entries are one, in float64."""

    def ones(tensor: Tensor) -> Tensor:
        one = tensor[:1].detach() if tensor.ndim else tensor
        return torch.ones_like(one, dtype=torch.float64) if one.is_floating_point() else one

    return pytree.tree_map_only(Tensor, ones, tree)
