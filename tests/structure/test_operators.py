"""Operators are known in one place: their records say all that anybody asks, and nobody else knows them by name."""

import ast
import copy
import doctest
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import harvest
from earlycrop.structure import Kind, Zero, cut, pointwise, registry, rule, trace
from earlycrop.structure.registry import UNKNOWN, known, operator_for
from tests.oracles import attribute_faults, choose, disagreement, make_unique, tensors

LIBRARY = Path(earlycrop.__file__).parent
PAGE = LIBRARY.parents[1] / "docs" / "operators.md"

OTHER_MEANINGS = {"all", "amin", "real", "where"}
"""Words that are no operators there: part of a sentence, a reduction of `scatter_reduce_`, a mode of tracing, a field
of `Gate`."""

PLAIN = {"all", "slice", "to", "max", "sum", "amax"}
"""Words that are settings or reductions elsewhere."""

ELSEWHERE = {
    "hessian_products.py": "functions of Python that a TorchFunctionMode meets, before there is a graph",
    "scores/px.py": "the activations and pools for which PX is defined, as they are below autograd, not in a graph",
}
"""Tables of names of other things than the operators of a graph."""


def strings(tree):
    """Every string in code; prose is left out, which has other signs than names have."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w\s:]+", node.value):
            yield node


def names_in(source):
    """The names of operators in a source: in strings, one or many to a string, or as attributes of `aten`."""
    for node in strings(tree := ast.parse(source)):
        for word in node.value.split():
            if word.removeprefix("aten::") in known():
                yield word
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "aten":
            yield node.attr


def test_no_other_file_knows_operators_by_name():
    """What walks through the graph, no name; anything else, no table: three names, for "max" is also a plain word."""
    found = {}
    for path in LIBRARY.rglob("*.py"):
        name = path.relative_to(LIBRARY).as_posix()
        if not name.startswith("structure/operators/"):
            found[name] = set(names_in(path.read_text(encoding="utf-8")))
    assert len(found) > 50
    graph = {name for name in found if name.startswith("structure/")} | {"harvesting.py"}
    assert {name: left for name in graph if (left := found[name] - OTHER_MEANINGS)} == {}
    tables = {name: names for name, names in found.items() if len(names - PLAIN) > 2}
    assert tables.keys() == ELSEWHERE.keys(), tables


@pytest.mark.parametrize(
    "source",
    [
        'TABLE = ("relu", "tanh")',
        'if name == "conv2d": pass',
        'N = "linear matmul".split()',
        "torch.ops.aten.relu.default",
    ],
)
def test_the_search_finds_names(source):
    assert set(names_in(source)) & {"relu", "conv2d", "linear"}


def test_names_are_those_of_operators():
    """A record under a name that PyTorch does not have would do nothing."""
    there = {name.removeprefix("aten::").split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ours = {name for name in known() if ":" not in name}
    assert {name for name in ours - there if f"{name}_" not in there} == set()


class Divergence(nn.Module):
    """A sum over products of two activations: channels may leave only where one factor is zero without them."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.first, self.second = operator, nn.Linear(4, 9), nn.Linear(4, 9)
        self.last = nn.Linear(9, 2)

    def forward(self, x):
        a, b = torch.relu(self.first(x)), torch.sigmoid(self.second(x))
        made = self.operator(a, b)
        return self.last(made), torch.einsum("nc,nc->n", made, b)


X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_cuts_are_exact(model, inputs, least):
    structure = trace(make_unique(model), inputs)
    assert len(structure) >= least
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    for part in (0.3, 0.7):
        smaller = copy.deepcopy(model)
        cut(structure, smaller, choose(sizes, classes, part, seed=1), None)
        assert max(disagreement(model, smaller, inputs, training) for training in (False, True)) <= 1e-9
        assert attribute_faults(smaller) == []


def test_xlogy_is_one_record():
    """Zero where its first argument is, so that channels behind it leave; one word in operators/pointwise.py."""
    assert operator_for(torch.ops.aten.xlogy.Tensor).zero is Zero.FIRST
    assert_cuts_are_exact(Divergence(torch.xlogy), (X,), 9)
    swapped = Divergence(lambda a, b: torch.xlogy(b, a + 1))  # a sigmoid is not zero on closed channels
    assert len(trace(swapped.double(), (X,))) == 0


class Weighed(nn.Module):
    """Channels of two layers meet in an operator, and one layer reads the result."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.first, self.second = operator, nn.Linear(4, 9), nn.Linear(4, 9)
        self.last = nn.Linear(9, 2)

    def forward(self, x):
        return self.last(self.operator(torch.relu(self.first(x)), torch.sigmoid(self.second(x))))


@pytest.mark.parametrize(
    ("operator", "dead"),
    [
        (torch.xlogy, 2),  # zero where the first is, and then the second does not matter
        (lambda a, b: torch.xlogy(b, a + 1), 0),  # b log 1 is zero too, but that is not known
        (lambda a, b: torch.xlogy(b, b + 1) * a, 2),
        (lambda a, b: torch.xlogy(a[:, :1].abs() + 1, b), 0),  # one entry of the first for all channels
        (lambda a, b: torch.xlogy(a, b.mean()), 2),
    ],
)
def test_harvest_knows_where_xlogy_is_zero(operator, dead):
    model = make_unique(Weighed(operator))
    with torch.no_grad():
        for row in (2, 5):
            model.first.weight[row], model.first.bias[row] = 0, 0
    before = model(X)
    assert harvest(model, X).channels == dead
    assert dead == 0 or model.last.in_features == 7
    torch.testing.assert_close(model(X), before, atol=1e-13, rtol=0)


@torch.library.custom_op("mine::softsign", mutates_args=())
def softsign(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + x.abs())


@softsign.register_fake
def _(x):
    return torch.empty_like(x)


def test_an_operator_without_a_record_freezes_and_one_more_record_frees(monkeypatch):
    monkeypatch.delitem(registry._OPERATORS, "mine::softsign", raising=False)  # the page on operators adds one
    model = nn.Sequential(nn.Linear(4, 8), nn.Module(), nn.Linear(8, 2)).double()
    model[1].forward = lambda x: torch.ops.mine.softsign(x)
    assert operator_for(torch.ops.mine.softsign.default) is UNKNOWN
    structure = trace(model, (X,))
    assert len(structure) == 0
    assert any("mine::softsign has no rule" in one.reason for one in structure.frozen)
    rule("mine::softsign", kind=Kind.ENTRYWISE, zero=Zero.FIRST)(pointwise)
    assert len(trace(model, (X,))) == 8


def test_records_speak_of_overloads_twins_tags_and_nothing_else():
    aten = torch.ops.aten
    assert operator_for(aten.relu_.default) is operator_for(aten.relu.default)
    assert operator_for(aten.erfc.default).kind is Kind.ENTRYWISE  # only PyTorch's own tag says so
    assert operator_for(aten.erfc.default).zero is Zero.UNKNOWN
    assert operator_for(aten.linalg_svd.default) is operator_for(len) is operator_for("relu") is UNKNOWN
    with pytest.raises(TypeError, match="colour"):
        rule("mine::nothing", colour="red")(pointwise)


def test_the_page_runs_as_it_stands():
    text, scope = PAGE.read_text(encoding="utf-8"), {}
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(code, PAGE.name, "exec"), scope)
    sessions = re.findall(r"```pycon\n(.*?)```", text, re.S)
    assert sessions
    test = doctest.DocTestParser().get_doctest("\n".join(sessions), scope, PAGE.name, str(PAGE), 0)
    complaints = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=complaints.append)
    assert not complaints, "".join(complaints)


def test_the_page_names_every_fact():
    text = PAGE.read_text(encoding="utf-8")
    for one in (*Kind, *Zero):
        assert f"`{one.name}`" in text, one
