"""Recurrent layers: a hidden unit is its rows in every gate, and its column wherever it is read.

All layers and directions of one module have as many units, so they lose the same ones. The gate of a unit
multiplies h: the column of W_hh and of whatever reads h (methods of gating carry the state itself unscaled).
"""

from typing import Any

import torch
from torch import Tensor

from earlycrop.structure.rules.registry import argument, input_reason, rule, same_in_each_group, unknown
from earlycrop.structure.walk import Walk, shape_of, unlabelled

PARTS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Blocks of rows in the weights of a unit: the gates of its kind."""


def _unit(walk: Walk, node: Any, kind: str, parameters: list[Any], x: Tensor | None, biased: bool) -> Any:
    """Tie the parameters of one layer and direction; return the labels of its cell and of what it puts out."""
    w_ih, w_hh, *others = parameters
    biases, projection = (others[:2], others[2:]) if biased else ([], others)
    rows = walk.dims(w_ih)[0]
    for one in (w_hh, *biases):
        rows = walk.tie(rows, walk.dims(one)[0], input_reason(walk, node))
    same_in_each_group(walk, rows, PARTS[kind])
    hidden = None if rows is None else rows.view(PARTS[kind], -1)[0]
    out = hidden
    if projection:
        out = walk.dims(projection[0])[0]
        walk.tie(hidden, walk.dims(projection[0])[1], input_reason(walk, node))
        reason = f"torch tells a projection by its being narrower ({walk.where(node)})"
        walk.labels.freeze(hidden, reason)
    walk.read(node, w_ih, 1, walk.tie(x, walk.dims(w_ih)[1], input_reason(walk, node)))
    walk.tie(out, walk.dims(w_hh)[1], input_reason(walk, node))
    return hidden, out


def _count(walk: Walk, weights: list[Any], uses: int) -> None:
    walk.products.extend((walk.origin[one], uses) for one in weights if one in walk.origin and len(shape_of(one)) == 2)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def layers(walk: Walk, node: Any) -> Any:
    """(x, h₀, parameters, has_biases, num_layers, dropout, train, bidirectional, batch_first)."""
    kind = node.target.overloadpacket.__name__
    if node.target._overloadname != "input":
        return unknown(walk, node)  # a packed sequence
    x, state, parameters, biased, count = node.args[:5]
    directions = 2 if node.args[7] else 1
    states = list(state) if kind == "lstm" else [state]
    walk.freeze(x, f"mixed over time ({walk.where(node)})", range(len(shape_of(x)) - 1))
    read, each = walk.dims(x)[-1], len(parameters) // (count * directions)
    walk.attribute(node, "input_size", read)
    hidden = out = None
    gates: list[tuple[str, str, int, Tensor, int | None]] = []
    for layer in range(count):
        outs = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            mine = parameters[start : start + each]
            found = _unit(walk, node, kind, mine, read, biased)
            hidden = found[0] if hidden is None else walk.tie(hidden, found[0], input_reason(walk, node))
            out = found[1] if out is None else walk.tie(out, found[1], input_reason(walk, node))
            outs.append(found[1])
            if found[1] is not None and mine[1] in walk.origin:
                gates.append(("parameter", walk.origin[mine[1]], 1, found[1], None))
            walk.create(node, (mine[0], 0), *((one, 0) for one in mine[1 : 4 if biased else 2]))
            if each > (4 if biased else 2):
                walk.create(node, (mine[-1], 0))
        if layer and read is not None and parameters[layer * directions * each] in walk.origin:
            gates += [
                ("parameter", walk.origin[parameters[(layer * directions + d) * each]], 1, read, None)
                for d in range(directions)
            ]
        read = None if None in [*map(type, outs)] or any(one is None for one in outs) else torch.cat(outs)
    _count(walk, list(parameters), shape_of(x)[0] * (shape_of(x)[1] if len(shape_of(x)) == 3 else 1))
    for one, labels in zip(states, (out, hidden), strict=False):
        walk.freeze(one, f"one for each layer ({walk.where(node)})", range(len(shape_of(one)) - 1))
        walk.tie(walk.dims(one)[-1], labels, input_reason(walk, node))
    walk.attribute(node, "hidden_size", hidden)
    if each > (4 if biased else 2):
        walk.attribute(node, "proj_size", out)
    before = [None] * (len(shape_of(x)) - 1)
    return ([*before, read], *([*before, labels] for _, labels in zip(states, (out, hidden), strict=False)))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(walk: Walk, node: Any) -> Any:
    """(x, h, W_ih, W_hh, b_ih, b_hh): one step."""
    kind = node.target.overloadpacket.__name__.removesuffix("_cell")
    x, state, *parameters = node.args
    states = list(state) if kind == "lstm" else [state]
    parameters = [one for one in (*parameters, *node.kwargs.values()) if one is not None]
    walk.fix(x, [-1])
    hidden, _ = _unit(walk, node, kind, parameters, walk.dims(x)[-1], len(parameters) > 2)
    for one in states:
        walk.fix(one, [-1])
        hidden = walk.tie(hidden, walk.dims(one)[-1], input_reason(walk, node))
    walk.create(node, *((one, 0) for one in parameters))
    walk.read(node, parameters[1], 1, hidden)
    if hidden is not None:
        walk.recreated.append(hidden)
    walk.attribute(node, "input_size", walk.dims(x)[-1])
    walk.attribute(node, "hidden_size", hidden)
    _count(walk, parameters, shape_of(x)[0] if len(shape_of(x)) == 2 else 1)
    result = [*walk.dims(x)[:-1], hidden]
    return result if kind != "lstm" else (list(result), list(result))
