"""Where gates sit, against gates written out by hand: every kind of place, g_c and H_c g_c in float64."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.structure import Gate, Structure, cut, trace
from earlycrop.units import Channels, GateCoordinates
from tests import dense


def at_gates(net: nn.Module, batch, gate: str = "post_norm") -> tuple[Evaluation, Structure]:
    units = Channels(gate).of(net, batch[0], None, ())
    return Evaluation(
        MeanLoss(net, dense.cross_entropy, [batch], "running", micro_batch=2), units.coordinates
    ), units.structure


def by_hand(net: nn.Module, batch, *gates: Gate, count: int) -> Evaluation:
    coordinates = GateCoordinates(gates, count, torch.zeros(1, dtype=torch.float64))
    return Evaluation(MeanLoss(net, dense.cross_entropy, [batch], "running", micro_batch=2), coordinates)


def agrees(at: Evaluation, batch, logits: Callable[[Tensor], Tensor]) -> None:
    """Gradient and product are those of a network in which the gates are written out."""

    def loss(c: Tensor) -> Tensor:
        return F.cross_entropy(logits(c), batch[1])

    ones = torch.ones(len(at.values), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(loss, ones)
    hessian = torch.autograd.functional.hessian(loss, ones)
    assert gradient.abs().min() > 0
    torch.testing.assert_close(at.gradient(), gradient, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ gradient, atol=1e-12, rtol=1e-9)


def places(gates: tuple[Gate, ...]) -> list[tuple[str, str]]:
    return [(gate.where, gate.side) for gate in gates]


# Found in the graph ------------------------------------------------------------------------------------------


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


class Functional(nn.Module):
    """Layers whose parameters are the network's own; the second weight is (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.w2 = nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.tanh(F.linear(x, self.w1, self.b1)) @ self.w2))


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


# Said by a rule: gates by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_units(kind):
    """The gate multiplies h_t: columns of W_hh, the outputs, and columns of the next layer's W_ih."""
    rnn, head = kind(3, 4, num_layers=2, batch_first=True).double(), nn.Linear(8, 3).double()
    net = dense.Net(lambda n, x: n.head(torch.cat([n.rnn(x)[0].sum(1), last(n.rnn(x)[1])[1]], 1)), rnn=rnn, head=head)
    batch = torch.randn(5, 6, 3).double(), torch.randint(3, (5,))
    lower, upper = torch.arange(4), torch.arange(4, 8)
    at = by_hand(
        net,
        batch,
        Gate("rnn.weight_hh_l0", "parameter", 1, lower),
        Gate("rnn.weight_ih_l1", "parameter", 1, lower),
        Gate("rnn.weight_hh_l1", "parameter", 1, upper),
        Gate("rnn", "output", -1, upper, item=0),
        Gate("rnn", "output", -1, upper, item=1),
        count=8,
    )

    def logits(c: Tensor) -> Tensor:
        x = batch[0]
        for layer, part in enumerate((c[:4], c[4:])):
            h, state, outputs = torch.zeros(5, 4).double(), torch.zeros(5, 4).double(), []
            for t in range(6):
                h, state = step(rnn, x[:, t], h, state, f"_l{layer}")
                h = h * part
                outputs.append(h)
            x = torch.stack(outputs, 1)
        return head(torch.cat([x.sum(1), x[:, -1]], 1))

    agrees(at, batch, logits)
    assert rnn._flat_weights[1] is rnn.weight_hh_l0
    # in the graph: units of both layers leave together, for a module has one width
    agrees(at_gates(net, batch)[0], batch, lambda c: logits(torch.cat([c, c])))


def step(rnn: nn.Module, x: Tensor, h: Tensor, state: Tensor, layer: str = "") -> tuple[Tensor, Tensor]:
    """One step, h being what the others read (gated) and `state` what the unit keeps for itself."""
    w_x, w_h, b_x, b_h = (getattr(rnn, f"{name}{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    a, b = F.linear(x, w_x, b_x), F.linear(h, w_h, b_h)
    if isinstance(rnn, nn.RNN | nn.RNNCell):
        return (new := torch.tanh(a + b)), new
    if isinstance(rnn, nn.GRU | nn.GRUCell):
        r, z, _ = torch.sigmoid(a + b).chunk(3, 1)
        candidate = torch.tanh(a.chunk(3, 1)[2] + r * b.chunk(3, 1)[2])
        return (new := (1 - z) * candidate + z * state), new
    i, f, _, o = torch.sigmoid(a + b).chunk(4, 1)
    memory = f * state + i * torch.tanh((a + b).chunk(4, 1)[2])
    return o * torch.tanh(memory), memory


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(kind):
    """The gate multiplies h where it is read: the columns of W_hh and of the head."""
    cell, head = kind(3, 4).double(), nn.Linear(4, 3).double()

    def forward(n, x):
        h = x.new_zeros(len(x), n.cell.hidden_size)
        state = (h, h) if kind is nn.LSTMCell else h
        for t in range(4):
            state = n.cell(x[:, t], state)
        return n.head(last(state))

    batch = torch.randn(5, 4, 3).double(), torch.randint(3, (5,))

    def logits(c: Tensor) -> Tensor:
        h = state = torch.zeros(5, 4).double()
        for t in range(4):
            h, state = step(cell, batch[0][:, t], h, state)
            h = h * c
        return head(h)

    agrees(at_gates(dense.Net(forward, cell=cell, head=head), batch)[0], batch, logits)


def last(state):
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("where", ["out_proj.weight", "q.input"])
def test_attention_heads(where):
    """A head's gate multiplies its columns of the output projection, or that projection's input."""
    attention, head = nn.MultiheadAttention(6, 3, batch_first=True).double(), nn.Linear(6, 3).double()
    net = dense.Net(
        lambda n, x: n.head(n.attention(x, x, x, need_weights=False)[0].sum(1)), attention=attention, head=head
    )
    batch, heads = (torch.randn(5, 4, 6).double(), torch.randint(3, (5,))), torch.arange(3).repeat_interleave(2)

    def attend(x: Tensor, c: Tensor) -> Tensor:
        q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).view(5, 4, 3, 3, 2).unbind(2)
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2**0.5, -1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v) * c[:, None]
        return F.linear(mixed.reshape(5, 4, 6), attention.out_proj.weight, attention.out_proj.bias)

    if where == "q.input":  # the same network, with a projection that is called
        spelled = dense.Net(
            lambda n, x: n.head(n.out(mixed_of(attention, x)).sum(1)),
            attention=attention,
            out=attention.out_proj,
            head=head,
        )
        at = by_hand(spelled, batch, Gate("out", "input", -1, heads), count=3)
    else:
        at = by_hand(net, batch, Gate("attention.out_proj.weight", "parameter", 1, heads), count=3)
    agrees(at, batch, lambda c: head(attend(batch[0], c).sum(1)))
    if where != "q.input":  # in the graph: the heads, and what the output projection writes
        agrees(at_gates(net, batch)[0], batch, lambda c: head((attend(batch[0], c[:3]) * c[3:]).sum(1)))


def test_heads_by_hand_with_shared_keys_and_values():
    """Two heads of keys and values, each with two queries: they leave together, gated where the projection reads."""
    net = dense.Net(
        lambda n, x: n.head(torch.tanh(n.out(grouped(n, x).transpose(1, 2).flatten(2))).sum(1)),
        **{name: nn.Linear(5, width) for name, width in (("q", 12), ("k", 6), ("v", 6))},
        out=nn.Linear(12, 4),
        head=nn.Linear(4, 3),
    ).double()
    batch = torch.randn(5, 4, 5).double(), torch.randint(3, (5,))

    def grouped(n, x):
        q, k, v = (one(x).unflatten(-1, (-1, 3)).transpose(1, 2) for one in (n.q, n.k, n.v))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return torch.softmax(q @ k.transpose(2, 3) / 3**0.5, -1) @ v

    def logits(c: Tensor) -> Tensor:
        mixed = grouped(net, batch[0]) * c[:2].repeat_interleave(2).view(1, 4, 1, 1)
        return net.head(torch.tanh(net.out(mixed.transpose(1, 2).flatten(2)) * c[2:]).sum(1))

    agrees(at_gates(net, batch)[0], batch, logits)


def mixed_of(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).view(*x.shape[:2], 3, 3, 2).unbind(2)
    return (
        F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        .transpose(1, 2)
        .flatten(2)
    )


def test_a_weight_normed_convolution_is_gated_on_its_output():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3))
    net = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    batch = dense.images()
    at = by_hand(net, batch, Gate("0", "output", 1, torch.arange(4)), count=4)
    agrees(at, batch, lambda c: net[1:](net[0](batch[0]) * c[:, None, None]))


def test_two_gates_on_one_weight_multiply():
    """Rows of a layer's weight and columns of the same: bilinear, so the product sees both at once."""
    net, batch = Functional().double(), dense.vectors()
    rows = Gate("w2", "parameter", 1, torch.arange(6))
    columns = Gate("w2", "parameter", 0, torch.arange(6, 11))
    at = by_hand(net, batch, rows, columns, count=11)

    def logits(c: Tensor) -> Tensor:
        w = net.w2 * c[6:, None] * c[:6]
        return net.head(torch.tanh(torch.tanh(F.linear(batch[0], net.w1, net.b1)) @ w))

    agrees(at, batch, logits)


def test_a_class_without_a_place_is_worth_nothing_and_is_no_error():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    at = by_hand(net, batch, Gate("0", "output", -1, torch.tensor([0, 1, 2, -1, 4])), count=6)
    assert at.gradient()[[3, 5]].tolist() == [0, 0]
    assert at.hessian_gradient()[[3, 5]].tolist() == [0, 0]
    assert at.gradient()[[0, 1, 2, 4]].abs().min() > 0
    nowhere = by_hand(net, batch, count=2)
    assert nowhere.gradient().tolist() == nowhere.hessian_gradient().tolist() == [0, 0]


def test_a_parameter_of_two_names_is_scaled_under_both():
    net, batch = dense.mlp(4, 5, 3), dense.vectors()
    twin = dense.Net(
        lambda n, x: n.head(torch.tanh(n.a(x)) + torch.tanh(n.b(x))), a=net[0], b=nn.Linear(4, 5), head=net[2]
    )
    twin.double().b.weight = net[0].weight
    of = torch.arange(5)
    at = by_hand(twin, batch, Gate("a.weight", "parameter", 0, of), count=5)

    def logits(c: Tensor) -> Tensor:
        w, x = net[0].weight * c[:, None], batch[0]
        return net[2](torch.tanh(F.linear(x, w, net[0].bias)) + torch.tanh(F.linear(x, w, twin.b.bias)))

    agrees(at, batch, logits)
    assert twin.a.weight is twin.b.weight


def test_the_network_is_as_it_was():
    net, batch = Functional().double(), dense.vectors()
    before = dense.everything(net)
    at, _ = at_gates(net, batch)
    at.hessian_gradient()
    with pytest.raises(ZeroDivisionError):
        MeanLoss(net, lambda model, b: 1 / 0, [batch]).gradient(at.coordinates)
    assert dense.everything(net) == before
