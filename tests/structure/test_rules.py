"""Rules that the zoo cannot test alone: operators that PyTorch has in some precisions only, and what harvest knows."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop import harvest
from earlycrop.structure import Zero, cut, trace, verify
from earlycrop.structure.registry import operator_for
from tests.cases import CASES
from tests.oracles import make_unique


class Experts(nn.Module):
    """Rows go to one of four experts, whose matrices are one tensor."""

    def __init__(self, width: int = 16, hidden: int = 32) -> None:
        super().__init__()
        self.enter, self.router, self.leave = nn.Linear(8, width), nn.Linear(width, 4), nn.Linear(width, 3)
        self.up = nn.Parameter(0.2 * torch.randn(4, 2 * hidden, width))
        self.down = nn.Parameter(0.2 * torch.randn(4, hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        chosen, order = self.router(x).argmax(-1).sort()
        ends = torch.histc(chosen.float(), 4, 0, 3).cumsum(0).to(torch.int32)
        a, b = F.grouped_mm(x[order], self.up.transpose(1, 2), offs=ends).chunk(2, -1)
        y = F.grouped_mm(F.silu(a) * b, self.down, offs=ends)
        return self.leave(x + torch.zeros_like(y).index_put((order,), y))


def choice(structure, each: int) -> Tensor:
    """So many of each space leave."""
    keep, spaces = torch.ones(len(structure), dtype=torch.bool), structure.spaces()
    for space in spaces.unique():
        inside = (spaces == space).nonzero().flatten()
        keep[inside[torch.randperm(len(inside), generator=torch.Generator().manual_seed(0))[:each]]] = False
    return keep


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="new in PyTorch 2.10")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_units_of_experts_leave(dtype):
    """The width of the stream and the hidden units of all experts at once; PyTorch's kernel asks for aligned rows."""
    torch.manual_seed(0)
    model, x = Experts().to(dtype), torch.randn(12, 8, dtype=dtype)
    structure = trace(model, (x,))
    assert len(structure) == 16 + 32
    keep = choice(structure, 8)
    found = verify(structure, model, (x,), keep)
    assert found.exact
    assert found.precision == str(dtype).removeprefix("torch.")
    smaller = copy.deepcopy(model)
    cut(structure, smaller, keep, None)
    assert (smaller.up.shape, smaller.down.shape) == ((4, 48, 8), (4, 24, 8))
    out = smaller(x)
    out.float().square().mean().backward()
    assert smaller.up.grad is not None


def test_the_product_of_groups_in_plain_operators():
    x, w = torch.randn(7, 8), torch.randn(3, 8, 4)
    ends = torch.tensor([2, 2, 6], dtype=torch.int32)
    stand_in = operator_for(torch.ops.aten._grouped_mm.default).stand_in
    expected = torch.cat([x[:2] @ w[0], x[2:6] @ w[2], torch.zeros(1, 4)])
    torch.testing.assert_close(stand_in(x, w, ends), expected)
    if hasattr(F, "grouped_mm"):  # PyTorch 2.10
        torch.testing.assert_close(F.grouped_mm(x, w, offs=ends)[:6], expected[:6])
    assert stand_in(x.to("meta"), w.to("meta"), ends.to("meta")).shape == (7, 4)


@pytest.mark.filterwarnings("ignore:index_reduce")
def test_the_largest_messages():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor, to: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x.index_reduce(0, to, x.tanh(), "amax"))

    model, inputs = make_unique(Net()), (torch.randn(6, 5).double(), torch.randint(6, (6,)))
    structure = trace(model, inputs)
    assert len(structure) == 7
    assert verify(structure, model, inputs, choice(structure, 4)).exact


def made_silent(model: nn.Module, *places: str, rows: tuple[int, ...] = (1, 4)) -> None:
    """These rows of layers are zero, so that their channels are."""
    with torch.no_grad():
        for place in places:
            layer = model.get_submodule(place)
            layer.weight[list(rows)] = 0
            if getattr(layer, "bias", None) is not None:
                layer.bias[list(rows)] = 0


@pytest.mark.parametrize(
    ("name", "layers", "dead"),
    [
        ("edges_index_add", ["first"], 2),
        ("edges_scatter_add", ["first"], 0),  # numbers of channels are not known to be no channels
        ("edges_sparse", ["first"], 2),
        ("sum_of_products", ["left", "right"], 2),
        ("sum_of_products", ["left"], 2),  # then nobody reads the other factor
        ("norm_of_difference", ["left"], 0),  # the other term still has them
        ("letters_tensordot", ["left", "right"], 2),
        ("angle", ["left", "right"], 2),
        ("norm_largest", ["left"], 2),
        ("product_transposed", ["0"], 2),
        ("product_transposed_first", ["0"], 0),  # only weights that come second are looked into
        ("windows_and_back", ["first"], 2),
        ("spectrum_of_places", ["first"], 2),
    ],
)
def test_harvest_knows_what_adds_nothing(name, layers, dead):
    model, inputs = make_unique(CASES[name].build()), CASES[name].inputs()
    made_silent(model, *layers)
    before = model.eval()(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert harvest(model, inputs).channels == dead
    torch.testing.assert_close(model(*inputs), before, atol=1e-12, rtol=0)


def test_what_a_view_overwrites_is_not_dead():
    """Zeros of which a part gets a layer's channels, in place: the graph shows no result of it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            out = torch.zeros_like(x)
            out[:2] = x[:2]
            return self.last(out)

    model, x = make_unique(Net()), torch.randn(4, 5).double()
    made_silent(model, "first")
    before = model(x)
    harvest(model, x)
    torch.testing.assert_close(model(x), before, atol=1e-12, rtol=0)
    assert operator_for(torch.ops.aten.zeros_like.default).zero is Zero.EVERYWHERE
