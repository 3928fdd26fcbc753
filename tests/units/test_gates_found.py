"""Where gates are found in the graph, against gates written out: ties, functions, streams, shared layers, norms."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.structure import cut, trace
from tests import dense
from tests.units.gates import Functional, agrees, at_gates, places


class Tied(nn.Module):
    """An embedding whose table is also the output head's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x).mean(1)
        return self.head(h + torch.tanh(self.body(h)))


def test_a_tied_embedding_is_gated_where_it_creates_and_not_where_it_reads():
    net = Tied().double()
    batch = torch.randint(7, (5, 4)), torch.randint(7, (5,))
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [("table", "output"), ("body", "output")]
    of = structure.tensors["table.weight"].classes[1]

    def logits(c: Tensor) -> Tensor:
        h = (net.table(batch[0]) * c[of]).mean(1)
        return net.head(h + torch.tanh(net.body(h) * c[of]))

    agrees(at, batch, logits)


def test_functional_layers_are_gated_on_their_parameters():
    net, batch = Functional().double(), dense.vectors()
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [("w1", "parameter"), ("b1", "parameter"), ("w2", "parameter")]
    first, second = structure.tensors["w1"].classes[0], structure.tensors["w2"].classes[1]

    def logits(c: Tensor) -> Tensor:
        h = torch.tanh(F.linear(batch[0], net.w1, net.b1) * c[first])
        return net.head(torch.tanh((h @ net.w2) * c[second]))

    agrees(at, batch, logits)


class FlatLinear(nn.Module):
    """A linear layer as GPT-2 has it: (in, out), on flattened tokens, and a view in the end."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inside, outside)), nn.Parameter(torch.randn(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], y.size(-1))


def test_a_module_that_only_reshapes_its_result_is_gated_on_its_output():
    net = nn.Sequential(FlatLinear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(5, 2, 4).double(), torch.randint(3, (5, 2))
    at, structure = at_gates(nn.Sequential(*net, nn.Flatten(0, 1)), (x, y.flatten()))
    assert places(at.coordinates.gates) == [("0", "output")]
    of = structure.tensors["0.weight"].classes[1]
    loss = MeanLoss(at.loss.model, lambda model, b: F.cross_entropy(model(b[0]), b[1].flatten()), [(x, y)])
    agrees(Evaluation(loss, at.coordinates), (x, y.flatten()), lambda c: net[1:](net[0](x) * c[of]).flatten(0, 1))


class Written(nn.Module):
    """A stream that a token begins and to which something is added that no layer makes; a norm reads it."""

    def __init__(self, added: Callable[["Written"], Tensor]) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.token, self.gamma = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(6))
        self.positions, self.first = nn.Embedding(9, 6), nn.Parameter(torch.randn(1, 6))
        self.register_buffer("fixed", torch.randn(1, 5, 6))
        self.added = added

    def forward(self, x: Tensor, c: Tensor | float = 1.0) -> Tensor:
        """With gates written out where each of the stream's writers ends."""
        x = torch.cat([self.token.expand(len(x), -1, -1) * c, self.embed(x) * c], 1)
        return self.head(torch.tanh(self.norm(x + self.added(self) * c)).sum(1))


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        (lambda n: n.fixed, ["fixed"]),
        (lambda n: n.positions.weight[:5], ["positions.weight"]),
        (lambda n: n.fixed + n.positions.weight[:5], ["positions.weight", "fixed"]),
        (lambda n: torch.cat([n.first, n.positions.weight[:4]]), ["positions.weight", "first"]),
        (lambda n: n.gamma * n.positions.weight[:5], ["gamma"]),
        (lambda n: n.gamma * (n.fixed + n.positions.weight[:5]), ["gamma"]),
    ],
)
def test_what_parameters_and_buffers_write_to_a_stream_is_gated_before_it(added, expected):
    net = Written(added).double()
    batch = torch.randn(5, 4, 4).double(), torch.randint(3, (5,))
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [
        ("embed", "output"), ("token", "parameter"), *((name, "parameter") for name in expected)
    ]  # fmt: skip
    of = structure.tensors["embed.weight"].classes[0]
    agrees(at, batch, lambda c: net(batch[0], c[of]))


class Low(nn.Module):
    """A weight that is a sum and a product of parameters, of which each layer's channel takes its part once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(6, 3)
        self.weight, self.left, self.right = (nn.Parameter(torch.randn(shape)) for shape in ((6, 5), (6, 2), (2, 5)))

    def forward(self, x: Tensor, a: Tensor | float = 1.0, b: Tensor | float = 1.0) -> Tensor:
        h = torch.tanh(self.first(x) * a)
        return self.head(torch.tanh(F.linear(h, self.weight + self.left @ self.right) * b))


def test_a_weight_that_is_a_sum_creates_its_rows_and_not_its_columns():
    net, batch = Low().double(), dense.vectors()
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [("first", "output"), ("left", "parameter"), ("weight", "parameter")]
    a, b = structure.tensors["first.weight"].classes[0], structure.tensors["weight"].classes[0]
    agrees(at, batch, lambda c: net(batch[0], c[a], c[b]))


class Twice(nn.Module):
    """One block that runs twice; `norms` says which norm follows each run ('' for none)."""

    def __init__(self, *norms: str) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.a, self.b = nn.LayerNorm(5), nn.LayerNorm(5)
        self.norms = norms
        for norm in (self.a, self.b):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor, c: Tensor | float = 1.0) -> Tensor:
        """With gates written out after each norm, or after the block."""
        behind = all(self.norms)
        x = torch.tanh(self.stem(x) * c)
        for norm in self.norms:
            x = self.block(x)
            x = x if behind else x * c
            x = getattr(self, norm)(x) if norm else x
            x = torch.tanh(x * c if behind else x)
        return self.head(x)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (Twice("", ""), ["stem", "block"]),
        (Twice("a", "b"), ["stem", "a", "b"]),
        (Twice("a", "a"), ["stem", "a"]),
        (Twice("a", ""), ["stem", "block"]),  # one run has no norm, and the block has one gate
    ],
)
def test_a_block_that_runs_twice_is_gated_once_in_each_run(net, expected):
    net, batch = net.double(), dense.vectors()
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [(where, "output") for where in expected]
    of = structure.tensors["stem.weight"].classes[0]
    agrees(at, batch, lambda c: net(batch[0], c[of]))


class SharedNorm(nn.Module):
    """One norm behind a layer and behind a sum: a gate on it would scale the sum's channels a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head, self.norm = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.LayerNorm(5)

    def forward(self, x: Tensor, c: Tensor | float = 1.0) -> Tensor:
        h = torch.tanh(self.norm(self.stem(x) * c))
        return self.head(torch.tanh(self.norm(h + self.block(h) * c)))


def test_a_norm_that_reads_something_else_too_is_no_place_for_a_gate():
    net, batch = SharedNorm().double(), dense.vectors()
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [("stem", "output"), ("block", "output")]
    of = structure.tensors["stem.weight"].classes[0]
    agrees(at, batch, lambda c: net(batch[0], c[of]))


class FunctionalNorm(nn.Module):
    """A batch norm that is no module, with and without scale and shift."""

    def __init__(self, affine: bool) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.scale, self.shift = (nn.Parameter(torch.randn(5)) if affine else None for _ in range(2))
        self.register_buffer("mean", torch.randn(5))
        self.register_buffer("var", torch.rand(5) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.first(x))

    def after(self, h: Tensor, c: Tensor | float = 1.0) -> Tensor:
        return self.head(torch.tanh(F.batch_norm(h, self.mean, self.var, self.scale, self.shift) * c))


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_that_is_no_module_is_gated_on_scale_and_shift_if_it_has_them(affine):
    net, batch = FunctionalNorm(affine).double(), dense.vectors()
    at, structure = at_gates(net, batch)
    of = structure.tensors["first.weight"].classes[0]
    if affine:
        assert places(at.coordinates.gates) == [("scale", "parameter"), ("shift", "parameter")]
        agrees(at, batch, lambda c: net.after(net.first(batch[0]), c[of]))
    else:
        assert places(at.coordinates.gates) == [("first", "output")]
        agrees(at, batch, lambda c: net.after(net.first(batch[0]) * c[of]))


def test_a_norm_without_scale_is_gated_on_its_output():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    batch = dense.vectors()
    at, structure = at_gates(net, batch)
    assert places(at.coordinates.gates) == [("1", "output")]
    of = structure.tensors["0.weight"].classes[0]
    agrees(at, batch, lambda c: net[2:](net[:2](batch[0]) * c[of]))


def test_a_gate_that_batch_statistics_divide_out_names_its_norm():
    _, structure = at_gates(dense.residual_net(), dense.images())
    assert [gate.norm for gate in structure.gates] == [None] * 3
    assert [gate.norm for gate in structure.creating_gates] == ["norm0", "norm1", "norm2"]


def test_the_creators_of_a_stream_are_told_apart():
    _, structure = at_gates(dense.residual_net(), dense.images())
    assert [(gate.where, gate.creator) for gate in structure.gates] == [("norm0", 0), ("norm1", 1), ("norm2", 2)]


@pytest.mark.parametrize("net", [dense.residual_net(), dense.depthwise_net(), dense.concat_net()])
def test_gates_follow_a_cut(net):
    structure = trace(net, dense.images()[0])
    keep = torch.arange(len(structure)) > 0
    after = cut(structure, net, keep, None)
    for found, expected in ((after.gates, trace(net, dense.images()[0]).gates), (after.creating_gates, None)):
        for gate in found:
            assert 0 <= int(gate.classes.max()) < len(after)
        if expected is not None:
            assert places(found) == places(expected)
            assert [len(gate.classes) for gate in found] == [len(gate.classes) for gate in expected]
