"""Windows cut out of places and put back: a channel becomes its places within a window, which leave with it."""

import math
from typing import Any

from torch import Tensor

from earlycrop.structure.graph import shape_of
from earlycrop.structure.labels import Dims
from earlycrop.structure.registry import Kind, Zero, rule
from earlycrop.structure.walk import Walk


@rule("im2col", kind=Kind.MOVES, zero=Zero.FIRST)
def unfold(walk: Walk, node: Any) -> Any:
    """Each channel becomes one for every place of the window, side by side."""
    x, window = node.args[:2]
    walk.freeze(x, f"windows of places ({walk.where(node)})", [-1, -2])
    *batch, channels = walk.dims(x)[:-2]
    inside = math.prod(window)
    return [*batch, None if channels is None else channels.repeat_interleave(inside), None]


@rule("col2im", kind=Kind.POOLS, zero=Zero.FIRST)
def fold(walk: Walk, node: Any) -> Any:
    """The channels for every place of the window become one, so they leave together."""
    x, _, window = node.args[:3]
    walk.freeze(x, f"windows of places ({walk.where(node)})", [-1])
    *batch, channels = walk.dims(x)[:-1]
    result: Dims = [*batch, None, None, None]
    if isinstance(channels, Tensor):
        blocks = channels.view(-1, math.prod(window))
        walk.labels.unite(blocks, blocks[:, :1])
        result[-3] = blocks[:, 0].clone()
    return result


@rule("unfold", kind=Kind.MOVES, zero=Zero.FIRST)
def windows(walk: Walk, node: Any) -> Any:
    """Windows along one dimension, whose places become the last one; the others pass."""
    x = node.args[0]
    dim = node.args[1] % len(shape_of(x))
    walk.freeze(x, f"windows of places ({walk.where(node)})", [dim])
    return [*(None if d == dim else labels for d, labels in enumerate(walk.raw(x))), None]
