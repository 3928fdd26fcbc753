"""The graph that is noted while a copy runs, held against the one that PyTorch exports."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.structure import trace
from earlycrop.structure.trace import Call, Program, _shadow, _traced, as_inputs, export, module_of
from earlycrop.structure.walk import canonical_names
from tests.cases import CASES

OLD = torch.__version__ < "2.9"
"""PyTorch 2.8 exports the states of an LSTM with a dimension too many, and some operators without their module."""

# `hf_vit` makes an empty attention mask only where it is exported; PyTorch 2.8 exports `token_types` in another order
ELSEWHERE = {"hf_vit", "token_types"} if OLD else {"hf_vit"}
NAMES = [name for name, case in CASES.items() if not case.slow and name not in ELSEWHERE]


def operators(program: Program, names: dict[str, str]) -> list[tuple]:
    """Operator, arguments, shapes and module of every node; nodes by their number, tied tensors by their first name."""
    known: dict[Node, object] = {}
    for spec, node in zip(program.graph_signature.input_specs, program.graph.nodes, strict=False):
        known[node] = names.get(str(spec.target), spec.target) or spec.kind.name
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and "_assert_tensor_metadata" not in str(node.target):
            known[node] = len(found)
            arguments = pytree.tree_map_only(Node, known.get, given(node))
            shapes = [tuple(t.shape) for t in pytree.tree_leaves(node.meta["val"]) if isinstance(t, Tensor)]
            found.append((str(node.target), str(arguments), shapes, module_of(node)))
        elif node.op == "output":
            found.append(tuple(pytree.tree_map_only(Node, known.get, tuple(node.args[0]))))
    return found


def given(node: Node) -> dict[str, object]:
    """Every argument by its name, also at its default, which a graph may leave out; cuDNN's flag aside."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {"args": node.args, **node.kwargs}
    known = node.target._schema.arguments
    defaults = {one.name: one.default_value for one in known if one.has_default_value()}
    found = defaults | dict(zip((one.name for one in known), node.args, strict=False)) | dict(node.kwargs)
    if node.target is torch.ops.aten.slice.Tensor:  # the whole has two spellings
        found |= {"start": found["start"] or 0, "end": sys.maxsize if found["end"] is None else found["end"]}
    return {name: value for name, value in found.items() if not name.startswith("cudnn_enable")}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_noted_is_what_is_exported(name):
    model, call = CASES[name].build().double().eval(), Call(as_inputs(CASES[name].inputs()))
    try:
        exported = _traced("exported", _shadow("exported", model, call), call, [])
        noted = _traced("recorded", _shadow("recorded", model, call), call, [])
    except Exception:
        pytest.skip("only one of the ways leads there, so nothing can differ")
    names = canonical_names(model)
    paths = {id(module): path for path, module in reversed([*model.named_modules(remove_duplicate=False)])}
    first = {path: paths[id(module)] for path, module in model.named_modules(remove_duplicate=False)}

    def named(rows):
        if OLD:
            return [row[:2] if len(row) == 4 else row for row in rows]
        return [(*row[:3], first.get(row[3], row[3])) if len(row) == 4 else row for row in rows]

    assert named(operators(noted, names)) == named(operators(exported, names))


def test_most_networks_need_no_export():
    ways = {}
    for name in [name for name in NAMES if not CASES[name].refused][::6]:
        ways[name] = export(CASES[name].build().double(), CASES[name].inputs()).tracing
    assert sum(way == "recorded" for way in ways.values()) >= 0.8 * len(ways), ways


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_a_compiled_layer_is_seen_through():
    model = nn.Sequential(nn.Linear(4, 5), torch.compile(nn.Linear(5, 6)), nn.Linear(6, 3))
    structure = trace(model, torch.zeros(2, 4))
    assert len(structure) == 5 + 6


class Values(nn.Module):
    """Branches on a value: nothing may be noted of one branch as if it were all."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden if hidden.sum() > 0 else -hidden)


class Aside(nn.Module):
    """Reads a weight behind autograd's back."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.first.bias.data)


@pytest.mark.parametrize("model", [Values(), Aside()])
def test_what_comes_from_elsewhere_is_refused(model):
    call = Call((torch.zeros(2, 4),))
    with pytest.raises((ValueError, RuntimeError)):
        _traced("recorded", _shadow("recorded", model, call), call, [])
