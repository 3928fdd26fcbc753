"""The language models against loops over positions and tokens, in float64."""

import pytest
import torch
from torch import Tensor, nn

from earlycrop.counting import Counter, size_of
from earlycrop.scores import Crop, Snip
from earlycrop.structure import cut, trace, verify
from earlycrop.units import Channels, Weights
from earlycrop_lab.models.lstm import LstmLanguageModel
from earlycrop_lab.models.psmm import Psmm
from tests.scores.worth import worth

V, WIDTH, MODELS = 7, 4, (Psmm, LstmLanguageModel)


def model_of(kind, vocabulary: int = V, width: int = WIDTH, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = kind(vocabulary, width, dropout=0.0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that the pointer and the gates have something to say
    return model


def tokens_of(*shape: int, vocabulary: int = V, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def distributions(w: dict[str, Tensor], read: list[int], gates: dict[str, Tensor] | None = None) -> list[Tensor]:
    """For each position the probabilities of all tokens, written as the papers have them, one step after the other.

    Args:
        w: The parameters of a language model, by name.
        read: The tokens that are read.
        gates: Factors of the embedding, and of the hidden units where they are read; rows of the query have the latter.
    """
    size = w["lstm.weight_hh_l0"].shape[1]
    embedding, unit = (1.0, 1.0) if gates is None else (gates["embedding"], gates["hidden"])
    h, c = torch.zeros(size).double(), torch.zeros(size).double()
    hidden, found = [], []
    for token in read:
        x = embedding * w["embedding.weight"][token]
        z = w["lstm.weight_ih_l0"] @ x + w["lstm.bias_ih_l0"] + w["lstm.weight_hh_l0"] @ h + w["lstm.bias_hh_l0"]
        i, f, g, o = z[:size], z[size : 2 * size], z[2 * size : 3 * size], z[3 * size :]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = unit * (torch.sigmoid(o) * torch.tanh(c))
        hidden.append(h)
        said = torch.exp(w["decoder.weight"] @ h + w["decoder.bias"])
        said = said / said.sum()
        if "sentinel" in w:
            query = torch.tanh(unit * (w["query.weight"] @ h + w["query.bias"]))
            shares = torch.stack([torch.exp(query @ one) for one in hidden] + [torch.exp(query @ w["sentinel"])])
            shares = shares / shares.sum()
            said = shares[-1] * said
            for share, pointed in zip(shares[:-1], read, strict=False):
                said = said + share * torch.eye(len(said)).double()[pointed]
        found.append(said)
    return found


def slow_loss(w: dict[str, Tensor], chunks: Tensor, gates: dict[str, Tensor] | None = None) -> Tensor:
    terms = []
    for row in chunks.tolist():
        said = distributions(w, row[:-1], gates)
        terms += [-torch.log(p[token]) for p, token in zip(said, row[1:], strict=True)]
    return sum(terms) / len(terms)


def loss(model: nn.Module, chunks: Tensor) -> Tensor:
    return -model(chunks).mean()


@pytest.mark.parametrize("kind", MODELS)
def test_the_loop_over_positions_and_tokens(kind):
    model, chunks = model_of(kind), tokens_of(3, 10)
    for row, found in zip(chunks.tolist(), model(chunks).exp(), strict=True):
        said = distributions(dict(model.named_parameters()), row[:-1])
        assert all(abs(float(p.detach().sum()) - 1) < 1e-12 for p in said)
        expected = torch.stack([p[token] for p, token in zip(said, row[1:], strict=True)])
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_its_own_probabilities_of_all_tokens_add_up_to_one(kind):
    model, row = model_of(kind), tokens_of(1, 6)
    every = torch.cat([row.expand(V, -1), torch.arange(V).unsqueeze(1)], 1)
    assert float(model(every)[:, -1].exp().sum().detach()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_slopes_are_those_of_the_loop(kind):
    model, chunks = model_of(kind), tokens_of(2, 8)
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss(model, chunks), parameters)
    for one, expected in zip(
        found, torch.autograd.grad(slow_loss(dict(model.named_parameters()), chunks), parameters), strict=True
    ):
        torch.testing.assert_close(one, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_is_known_of_a_token_before_it_is_read(kind):
    model, chunks = model_of(kind), tokens_of(1, 9)
    before = model(chunks)[0]
    for place in range(1, 9):
        other = chunks.clone()
        other[0, place] = (chunks[0, place] + 1) % V
        after = model(other)[0]
        assert torch.equal(before[: place - 1], after[: place - 1])  # entry k is of the token at k + 1
        assert not torch.equal(before[place - 1 :], after[place - 1 :])


def test_the_pointer_points_at_what_was_read():
    """With a query that meets one hidden state far more than all else, that token has all the probability."""
    model = model_of(Psmm)
    with torch.no_grad():
        model.sentinel.fill_(-100).mul_(torch.sign(model.query.bias))
        model.query.weight.zero_()
        model.query.bias.mul_(10)  # whatever is read the query is the same, and it refuses the sentinel
    chunks = torch.tensor([[3, 3, 3, 3, 5]])
    found = model(chunks)[0].exp()
    torch.testing.assert_close(found, torch.tensor([1.0, 1, 1, 0]).double(), atol=1e-12, rtol=0)


def test_without_the_sentinel_what_was_not_read_cannot_come():
    model, chunks = model_of(Psmm), torch.tensor([[0, 1, 2, 3, 4]])
    with torch.no_grad():
        model.query.weight.zero_()
        model.query.bias.zero_()  # all shares are alike: 1 / (t + 1)
        vocabulary = model.decoder(model.lstm(model.embedding(chunks[:, :-1]))[0]).softmax(-1)[0]
    expected = [vocabulary[t, t + 1] / (t + 2) for t in range(4)]
    torch.testing.assert_close(model(chunks)[0].exp(), torch.stack(expected), atol=1e-12, rtol=0)


def test_the_sentinel_is_trained():
    model, chunks = model_of(Psmm), tokens_of(4, 10)
    before = model.sentinel.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model, chunks).backward()
    assert bool((model.sentinel.grad != 0).all())
    optimizer.step()
    assert bool((model.sentinel != before).all())
    assert "sentinel" in model.state_dict()


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_is_of_training_alone_and_never_of_logits(kind):
    torch.manual_seed(0)
    model, chunks = kind(V, WIDTH, dropout=0.5).double(), tokens_of(2, 9)
    assert not torch.equal(model(chunks), model(chunks))
    model.eval()
    assert torch.equal(model(chunks), model(chunks))
    model.train()
    seen = []
    model.drop.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    model(chunks)
    assert seen == [WIDTH, WIDTH]


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_slopes_are_finite_where_a_target_was_never_read_or_always(precision):
    model = model_of(Psmm).to(precision)
    chunks = torch.tensor([[0, 0, 0, 0, 0], [0, 1, 2, 3, 4]])
    loss(model, chunks).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_parameters_by_hand():
    lstm = 4 * 300 * (300 + 300) + 2 * 4 * 300
    with torch.device("meta"):
        psmm, plain = Psmm(10_000), LstmLanguageModel(10_000)
    common = 10_000 * 300 + lstm + 300 * 10_000 + 10_000
    assert sum(p.numel() for p in psmm.parameters()) == common + 300 * 300 + 300 + 300
    assert sum(p.numel() for p in plain.parameters()) == common


# Scores ----------------------------------------------------------------------------------------------------------


def dense_hessian(f, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of f at a vector, row by row."""
    vector = vector.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(f(vector), vector, create_graph=True)
    return gradient.detach(), torch.stack([torch.autograd.grad(one, vector, retain_graph=True)[0] for one in gradient])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("embeddings", [True, False])
def test_crop_and_snip_of_weights_by_the_dense_hessian_of_the_loop(kind, embeddings):
    """Embedding and recurrence are among the weights: in the gradient, and so in the product."""
    model, chunks = model_of(kind, 4, 2), tokens_of(2, 4, vocabulary=4)
    names = [name for name, _ in model.named_parameters() if "weight" in name and (embeddings or "emb" not in name)]
    sizes = [model.get_parameter(name).numel() for name in names]
    vector = torch.cat([model.get_parameter(name).detach().flatten() for name in names])

    def f(vector):
        parts = zip(names, vector.split(sizes), strict=True)
        placed = {name: part.view_as(model.get_parameter(name)) for name, part in parts}
        return slow_loss({**dict(model.named_parameters()), **placed}, chunks)

    gradient, hessian = dense_hessian(f, vector)
    units, options = Weights(embeddings=embeddings), {"loss": loss, "example_inputs": chunks[:2], "micro_batch": 1}
    found = worth(model, Crop(), units, [chunks], **options)
    torch.testing.assert_close(found, (vector * (hessian @ gradient)).abs(), atol=1e-10, rtol=0)
    found = worth(model, Snip(), units, [chunks], **options)
    torch.testing.assert_close(found, (vector * gradient).abs(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_crop_and_snap_of_channels_by_gates_in_the_loop(kind):
    """A hidden unit's gate multiplies it where it is read, and the rows of the query that meet it."""
    model, chunks = model_of(kind, 4, 2), tokens_of(2, 5, vocabulary=4)
    structure = trace(model, chunks[:2])
    embedding = structure.tensors["embedding.weight"].classes[1]
    hidden = structure.tensors["decoder.weight"].classes[1]
    assert sorted([*embedding.tolist(), *hidden.tolist()]) == list(range(4))

    def f(gates):
        placed = {"embedding": gates[embedding], "hidden": gates[hidden]}
        return slow_loss(dict(model.named_parameters()), chunks, placed)

    gradient, hessian = dense_hessian(f, torch.ones(4).double())
    options = {"loss": loss, "example_inputs": chunks[:2], "micro_batch": 1}
    found = worth(model, Crop(), Channels(), [chunks], **options)
    torch.testing.assert_close(found, (hessian @ gradient).abs(), atol=1e-10, rtol=0)
    found = worth(model, Snip(), Channels(), [chunks], **options)
    torch.testing.assert_close(found, gradient.abs(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_what_a_random_cut_leaves(kind, seed):
    """Every tensor shrinks with the hidden units and the embedding, but the vocabulary stays."""
    model, chunks = model_of(kind, width=6), tokens_of(2, 8)
    structure = trace(model, chunks)
    keep = torch.rand(len(structure), generator=torch.Generator().manual_seed(seed)) < 0.6
    columns, units = (structure.tensors[f"{name}.weight"].classes[1] for name in ("embedding", "decoder"))
    e, h = int(keep[columns].sum()), int(keep[units].sum())
    assert 0 < e < 6 or 0 < h < 6
    assert verify(structure, model, chunks, keep).max_error < 1e-10
    cut(structure, model, keep, None)
    shapes = {"embedding.weight": (V, e), "decoder.weight": (V, h), "decoder.bias": (V,)}
    shapes |= {"lstm.weight_ih_l0": (4 * h, e), "lstm.weight_hh_l0": (4 * h, h)}
    shapes |= {"lstm.bias_ih_l0": (4 * h,), "lstm.bias_hh_l0": (4 * h,)}
    if kind is Psmm:
        shapes |= {"query.weight": (h, h), "query.bias": (h,), "sentinel": (h,)}
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == shapes
    assert (model.lstm.input_size, model.lstm.hidden_size) == (e, h)
    for row, found in zip(chunks.tolist(), model(chunks).exp(), strict=True):
        said = distributions(dict(model.named_parameters()), row[:-1])
        expected = torch.stack([p[token] for p, token in zip(said, row[1:], strict=True)])
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_the_vocabulary_is_the_output_and_hidden_units_are_nodes(kind):
    model, chunks = model_of(kind), tokens_of(2, 5)
    structure = trace(model, chunks)
    assert structure.outputs == {"decoder.weight", "decoder.bias"}
    nodes = WIDTH * (2 if kind is Psmm else 1)  # the query's rows
    assert Counter(structure, model)().nodes == nodes
    assert Counter(structure, model, embeddings=True)().nodes == nodes + WIDTH
    weights = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    assert size_of(model, embeddings=True)[0] == weights
    assert size_of(model)[0] == weights - V * WIDTH
