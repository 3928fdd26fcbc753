"""Trial cuts: few of them, each a test of all channels at once, with the result of trying one group after another."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.structure import cut, progress, trace
from earlycrop.structure.attempts import Attempts, Copies, some, unemptied
from earlycrop.structure.builder import Builder
from earlycrop.structure.choosing import passing, together
from earlycrop.structure.following import result_shape
from earlycrop.structure.labelling import label, settled
from earlycrop.structure.trace import export
from tests.cases import CASES
from tests.oracles import disagreement, make_unique


class Block(nn.Module):
    """Takes the width of a head from the stream's, so both stay or leave together; its perceptron may shrink."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.parts, self.joined, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 5), nn.GELU(), nn.Linear(5, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.joined(x).reshape(b, n, 3, self.parts, c // self.parts).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(x)


class Literals(nn.Module):
    """Literal sizes in two places, and channels in between that may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).view(-1, 6)
        x = self.c(self.b(x).relu()).view(-1, 8)
        return self.d(x)


class Both(nn.Module):
    """Two layers, each of which may shrink as long as the other does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return (self.left(a) + self.right(b)) * (1 + (8 - a.shape[1]) * (8 - b.shape[1]))


class Asserted(Both):
    """The same, said by an error."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if a.shape[1] < 8 and b.shape[1] < 8:
            raise ValueError("both")
        return self.left(a) + self.right(b)


class Counting(nn.Module):
    """Divides by a width, and by its root."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        return self.b(a) / a.shape[-1] * a.shape[-1] ** -0.5


def deep(blocks: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 12), *[Block(12, 3) for _ in range(blocks)], nn.Linear(12, 2))


NETS = {
    "deep": (lambda: deep(3), torch.zeros(2, 7, 4)),
    "literals": (Literals, torch.zeros(3, 4)),
    "both": (Both, torch.zeros(3, 4)),
    "asserted": (Asserted, torch.zeros(3, 4)),
    "counting": (Counting, torch.zeros(3, 4)),
}


def attempts_of(model: nn.Module, x: Tensor) -> Attempts:
    program = export(model, x)
    (walk,) = settled(label(model, program))
    builder = Builder(walk, lambda _: False, len(x))
    return Attempts(builder.build(builder.guessed.__contains__), Copies(model))


@pytest.mark.parametrize("name", NETS)
def test_the_same_leaves_as_when_one_group_after_another_is_tried(name):
    build, x = NETS[name]
    attempts = attempts_of(build(), x)
    spaces = attempts.structure.spaces().unique().tolist()
    one_by_one: list[int] = []
    for space in spaces:
        if attempts.passes([*one_by_one, space]):
            one_by_one.append(space)
    assert 0 < len(one_by_one) < len(spaces) or name == "counting"
    assert together(attempts, spaces, attempts.faults(spaces, 0)) == one_by_one
    assert passing(attempts.passes, [], spaces) == one_by_one


def test_one_trial_cut_finds_every_place():
    attempts = attempts_of(*[one() if callable(one) else one for one in NETS["literals"]])
    spaces = attempts.structure.spaces().unique().tolist()
    faults = attempts.faults(spaces, 0)
    assert len(faults) == 2
    assert len({one for fault in faults for one in fault.blamed}) == 2
    assert len(attempts.faults(spaces, 0, goes_on=False)) == 1


def test_a_deeper_model_needs_no_more_trial_cuts(monkeypatch):
    cuts, faults = [], Attempts.faults
    monkeypatch.setattr(Attempts, "faults", lambda *args, **kwargs: (cuts.append(1), faults(*args, **kwargs))[1])
    numbers = []
    for blocks in (2, 8):
        cuts.clear()
        assert (
            len(trace(deep(blocks), torch.zeros(2, 7, 4))) == 3 + 5 * blocks
        )  # a head of all with its part of the stream
        numbers.append(len(cuts))
    assert max(numbers) < 12, numbers


def test_sizes_from_the_code_know_what_they_count():
    attempts = attempts_of(Counting(), torch.zeros(3, 4))
    (space,) = attempts.structure.spaces().unique().tolist()
    (known,) = attempts._origins
    assert [node.target.__name__ for node in known] == ["div.Tensor", "mul.Tensor"]
    assert set(known.values()) == {frozenset({space})}


class Prepared(Literals):
    """Registers a hook in its first call, fills a list and notes both in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs, self.e = [], nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "ready"):
            self.ready = True
            self.b.register_forward_hook(lambda module, args, output: self.outputs.append(len(self.outputs)))
        x = super().forward(x)
        return self.e(x) * len(self.outputs)


def test_a_copy_is_as_new_for_each_trial_cut():
    model = Prepared()
    plain, prepared = trace(Literals(), torch.zeros(3, 4)), trace(model, torch.zeros(3, 4))
    assert len(prepared) == len(plain) + 2
    assert not model.outputs
    assert not hasattr(model, "ready")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.slow and not case.refused][::9])
def test_records_say_what_shape_results_have(name):
    program = export(CASES[name].build().double(), CASES[name].inputs())
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = pytree.tree_map_only(Node, lambda one: one.meta["val"], (node.args, node.kwargs))
            shape = result_shape(node, args, kwargs)
            assert shape is None or shape == tuple(node.meta["val"].shape), node


def test_tracing_says_how_far_it_is_where_it_takes_long(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "earlycrop")
    monkeypatch.setattr(progress, "PATIENCE", 1e6)
    trace(deep(1), torch.zeros(2, 7, 4))
    assert not caplog.messages
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    trace(deep(1), torch.zeros(2, 7, 4))
    assert any("trial cut" in line for line in caplog.messages)
    assert all(line.startswith("Tracing Sequential, 0 s: ") for line in caplog.messages[:1])


@pytest.mark.parametrize(("width", "heads"), [(4, 1), (4, 2), (6, 2), (6, 3), (8, 2), (8, 4), (12, 2), (12, 6)])
def test_no_ratio_of_two_widths_holds_by_accident(width, heads):
    """A stream and its heads, cut apart, may have the old width of a head: 2 of 4 channels with 1 of 2 heads."""
    model = make_unique(nn.Sequential(nn.Linear(4, width), Block(width, heads), nn.Linear(width, 2)).double())
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    structure = trace(model, (x,))
    for seed in range(10):
        keep = torch.rand(len(structure), generator=torch.Generator().manual_seed(seed)) < 0.5
        smaller = copy.deepcopy(model)
        cut(structure, smaller, unemptied(structure, keep), None)
        assert disagreement(model, smaller, (x,), False) <= 1e-9


@pytest.mark.parametrize("name", ["deep", "literals"])
def test_two_trial_cuts_leave_every_space_at_different_widths(name):
    build, x = NETS[name]
    structure = attempts_of(build(), x).structure
    spaces = structure.spaces()
    first, second = (torch.bincount(spaces[some(structure, spaces.unique().tolist(), seed)]) for seed in (0, 1))
    assert bool((first != second).all())
