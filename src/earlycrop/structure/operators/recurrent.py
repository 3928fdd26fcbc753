"""Recurrent layers: a hidden unit is its row in every inner gate, and its column wherever it is read.

All layers and directions of one module have the same number of units, so they lose the same ones. The pruning gate of a
unit multiplies h where it is read: the columns of W_hh and of all other readers. It does not multiply the state that a
unit carries on by itself, since it would do so again at every step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from earlycrop.structure.graph import argument, name_of, shape_of, tensor_nodes
from earlycrop.structure.operators.ties import input_reason, same_in_each_group
from earlycrop.structure.registry import Factors, Kind, Zero, rule, unknown
from earlycrop.structure.trace import module_of
from earlycrop.structure.walk import Place, Walk

BLOCKS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""The number of blocks of rows in the weights: one for each inner gate of a unit."""


def _unit(
    walk: Walk, node: Any, kind: str, parameters: list[Any], read: Tensor | None, biased: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Tie the parameters of one layer and direction; return the labels of its cell state and of its output."""
    w_ih, w_hh, *others = parameters
    biases, projections = (others[:2], others[2:]) if biased else ([], others)
    rows = walk.dims(w_ih)[0]
    for one in (w_hh, *biases):
        rows = walk.tie(rows, walk.dims(one)[0], input_reason(walk, node))
    same_in_each_group(walk, rows, BLOCKS[kind])
    hidden = out = None if rows is None else rows.view(BLOCKS[kind], -1)[0]
    for projection in projections:
        out = walk.dims(projection)[0]
        walk.tie(hidden, walk.dims(projection)[1], input_reason(walk, node))
        walk.labels.freeze(hidden, f"torch recognises a projection by its smaller width ({walk.where(node)})")
    walk.read(node, w_ih, 1, walk.tie(read, walk.dims(w_ih)[1], input_reason(walk, node)))
    walk.tie(out, walk.dims(w_hh)[1], input_reason(walk, node))
    uses = math.prod(shape_of(node.args[0])[:-1])
    for one in (w_ih, w_hh, *projections):
        walk.count(one, uses)
    return hidden, out


def _matrices(node: Node) -> Factors:
    """The input, and all matrices: a state has three dimensions, or stands before them."""
    arguments = tensor_nodes(node.args[2:])
    return [(node.args[0], ()), *((one, (0,)) for one in arguments if len(shape_of(one)) == 2)]  # type: ignore[list-item]


@rule("lstm", "gru", "rnn_tanh", "rnn_relu", kind=Kind.RECURRENT, zero=Zero.PARAMETERS, factors=_matrices)
def layers(walk: Walk, node: Any) -> Any:
    """Takes (x, h₀, parameters, has_biases, num_layers, dropout, train, bidirectional, batch_first)."""
    if node.target._overloadname != "input":
        return unknown(walk, node)  # a packed sequence
    kind, (x, state, parameters, biased, count) = name_of(node), node.args[:5]
    directions, states = (2 if argument(node, 7, "bidirectional") else 1), list(state) if kind == "lstm" else [state]
    each = len(parameters) // (count * directions)
    walk.freeze(x, f"mixed over time ({walk.where(node)})", range(len(shape_of(x)) - 1))
    read = walk.dims(x)[-1]
    walk.attribute(node, "input_size", read)
    hidden = out = None
    places: list[Place] = []
    for layer in range(count):
        outs: list[Tensor] = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            mine = parameters[start : start + each]
            cells, put_out = _unit(walk, node, kind, mine, read, biased)
            hidden = cells if hidden is None else walk.tie(hidden, cells, input_reason(walk, node))
            out = put_out if out is None else walk.tie(out, put_out, input_reason(walk, node))
            outs += [] if put_out is None else [put_out]
            for weight, dim, labels in ((mine[1], 1, put_out), (mine[0], 1, read if layer else None)):
                if weight in walk.origin and labels is not None:
                    places.append(Place(walk.origin[weight], "parameter", dim, labels))
        read = torch.cat(outs) if len(outs) == directions else None
    path = module_of(node)
    # h is read by the weights in `places` and through the module's outputs. Where no such module ran the operator, its
    # outputs cannot be gated, so the units are gated at their readers, as heads are.
    if isinstance(walk.modules.get(path), nn.RNNBase) and read is not None and out is not None:
        places += [Place(path, "output", -1, read, 0), Place(path, "output", -1, out, 1)]
    else:
        places = []
        walk.recreated += [] if out is None else [out]
    made = [(one, 0) for one in parameters]
    walk.create(node, *made, gates=tuple(places))
    for one, labels in zip(states, (out, hidden), strict=False):
        walk.freeze(one, f"one state for each layer ({walk.where(node)})", range(len(shape_of(one)) - 1))
        walk.tie(walk.dims(one)[-1], labels, input_reason(walk, node))
    walk.attribute(node, "hidden_size", hidden)
    if each > (4 if biased else 2):
        walk.attribute(node, "proj_size", out)
    # PyTorch 2.8 exports the states of several layers with a dimension too many
    before = [[None] * (value.ndim - 1) for value in node.meta["val"]]
    ends = (read, out, hidden)[: 1 + len(states)]
    return tuple([*sizes, labels] for sizes, labels in zip(before, ends, strict=True))


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", kind=Kind.RECURRENT, factors=_matrices)
def cell(walk: Walk, node: Any) -> Any:
    """One step: takes (x, h, W_ih, W_hh, b_ih, b_hh)."""
    kind, (x, state, *parameters) = name_of(node).removesuffix("_cell"), node.args
    states = list(state) if kind == "lstm" else [state]
    parameters = [one for one in (*parameters, *node.kwargs.values()) if one is not None]
    walk.fix(x, [-1])
    hidden, _ = _unit(walk, node, kind, parameters, walk.dims(x)[-1], len(parameters) > 2)
    for one in states:
        walk.fix(one, [-1])
        hidden = walk.tie(hidden, walk.dims(one)[-1], input_reason(walk, node))
    walk.create(node, *((one, 0) for one in parameters))
    walk.read(node, parameters[1], 1, hidden)
    walk.recreated += [] if hidden is None else [hidden]
    walk.attribute(node, "input_size", walk.dims(x)[-1])
    walk.attribute(node, "hidden_size", hidden)
    result = [*walk.dims(x)[:-1], hidden]
    return result if kind != "lstm" else (list(result), list(result))
