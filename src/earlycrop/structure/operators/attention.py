"""Scaled dot-product attention: heads leave whole, so that the scale 1/√(head width) stays correct."""

from typing import Any

from earlycrop.structure.graph import argument, shape_of
from earlycrop.structure.operators.closed import contract
from earlycrop.structure.operators.ties import input_reason
from earlycrop.structure.registry import Kind, rule
from earlycrop.structure.walk import Walk


@rule("scaled_dot_product_attention", kind=Kind.ATTENTION)
def attention(walk: Walk, node: Any) -> Any:
    """softmax(q kᵀ scale + mask) v over the last two dimensions; along all others the products are independent.

    By default the scale is computed from the width of q, so that width must stay; a given scale frees it. Where several
    heads of q share one head of k and v, all of them leave with it.
    """
    q, k, v = node.args[:3]
    mask, scale = argument(node, 3, "attn_mask"), argument(node, 6, "scale")
    walk.fix(q, [-1, -2])
    walk.fix(k, [-1, -2])
    walk.fix(v, [-1, -2])
    reason = f"the number of these channels scales the attention ({walk.where(node)})"
    if scale is None:
        walk.freeze(q, reason, [-1])
        walk.freeze(k, reason, [-1])
    else:
        contract(walk, node, (q, -1), (k, -1))
        walk.tie(walk.dims(q)[-1], walk.dims(k)[-1], input_reason(walk, node))
    for one in (q, k, v):
        walk.freeze(one, f"mixed over positions ({walk.where(node)})", [-2])
    result = walk.dims(q)
    for dim in range(-len(result), -2):
        theirs = []
        for one in (k, v):
            labels = walk.dims(one)[dim] if len(walk.dims(one)) >= -dim else None
            sharing = shape_of(q)[dim] // shape_of(one)[dim] if labels is not None else 1
            theirs.append(labels if labels is None or sharing == 1 else labels.repeat_interleave(sharing))
        if result[dim] is None and theirs == [None, None]:
            continue
        for labels in theirs:
            walk.tie(result[dim], labels, input_reason(walk, node))
        if result[dim] is not None:  # heads: the softmax is not linear in q and k, so gate them where they are read
            walk.recreated.append(result[dim])
    if mask is not None:  # a mask with an entry for each head loses the entries of heads that leave
        scores = [*result[:-1], None]
        shape = (*shape_of(q)[:-1], shape_of(k)[-2])
        aligned = walk.align([(scores, shape), (walk.raw(mask), shape_of(mask))])[1]
        for dim in range(-len(aligned), 0):
            if shape_of(mask)[dim] > 1 and (scores[dim] is not None or aligned[dim] is not None):
                walk.tie(scores[dim], aligned[dim], input_reason(walk, node))  # type: ignore[arg-type] - plain by now
    return [*result[:-1], walk.dims(v)[-1]]
