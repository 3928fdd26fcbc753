"""Gates placed by hand, against gates written out: recurrent layers, attention heads, several gates on one weight."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop.evaluation import MeanLoss
from earlycrop.structure import Gate
from tests import dense
from tests.units.gates import Functional, agrees, at_gates, by_hand


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
