"""The oracle, tested on cuts by hand: it accepts right ones and rejects each kind of wrong one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.cases import CASES, conv
from tests.oracles import (
    NotASubnetwork,
    attribute_faults,
    choose,
    disagreement,
    entries,
    make_unique,
    survivors,
    tensors,
)


def narrow_linear(dense: nn.Linear, rows: list[int], columns: list[int]) -> nn.Linear:
    """A layer cut by hand, for the tests of the oracle itself."""
    result = nn.Linear(len(columns), len(rows), dense.bias is not None, dtype=dense.weight.dtype)
    with torch.no_grad():
        result.weight.copy_(dense.weight[rows][:, columns])
        if dense.bias is not None:
            result.bias.copy_(dense.bias[rows])
    return result


def rebuilt(model, **indices):
    """A copy in which each named tensor (dots written as `__`) holds the given indices, dimension by dimension."""
    model = copy.deepcopy(model)
    for name, index in indices.items():
        path, _, leaf = name.replace("__", ".").rpartition(".")
        module = model.get_submodule(path)
        data = entries(getattr(module, leaf).detach(), tuple(torch.tensor(one) for one in index))
        setattr(module, leaf, nn.Parameter(data) if isinstance(getattr(module, leaf), nn.Parameter) else data)
    return model


def norm_indices(name, kept):
    return {f"{name}__{leaf}": (kept,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def both_modes(dense, cut, *inputs):
    return max(disagreement(dense, cut, inputs, training) for training in (False, True))


@pytest.fixture
def chain():
    return make_unique(nn.Sequential(conv(3, 5), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)))


IMAGE = torch.randn(3, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def features(kept, places=4):
    return [channel * places + place for channel in kept for place in range(places)]


def test_survivors_are_found_by_value_in_every_dimension():
    dense = torch.randperm(60).double().reshape(3, 4, 5)
    rows, columns, depths = survivors(dense, dense[:, [1, 3]][..., [0, 2, 4]])
    assert rows.tolist() == [0, 1, 2]
    assert columns.tolist() == [1, 3]
    assert depths.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w[[2, 0]], "order"),
        (lambda w: w[[1, 1]], "order"),
        (lambda w: w + 1, "value"),
        (lambda w: w[:0], "nothing"),
        (lambda w: w[0], "became"),
        (lambda w: w.float(), "became"),
        (lambda w: torch.stack([w[0, [0, 1]], w[1, [0, 2]]]), "several"),
    ],
)
def test_survivors_of_what_is_no_block_are_refused(change, complaint):
    dense = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    with pytest.raises(NotASubnetwork, match=complaint):
        survivors(dense, change(dense))


def test_a_right_cut_of_convolution_norm_and_flatten_agrees(chain):
    kept = [0, 2, 3]
    cut = rebuilt(
        chain,
        **{"0__weight": (kept, [0, 1, 2], [0, 1, 2], [0, 1, 2])},
        **norm_indices("1", kept),
        **{"4__weight": ([0, 1], features(kept))},
    )
    assert both_modes(chain, cut, IMAGE) <= 1e-12


@pytest.mark.parametrize("wrong", [features([0, 2, 4]), features([1, 2, 3]), [*features([0, 2]), 12, 13, 14, 16]])
def test_wrong_columns_behind_a_flatten_disagree(chain, wrong):
    kept = [0, 2, 3]
    cut = rebuilt(
        chain,
        **{"0__weight": (kept, [0, 1, 2], [0, 1, 2], [0, 1, 2])},
        **norm_indices("1", kept),
        **{"4__weight": ([0, 1], wrong)},
    )
    assert both_modes(chain, cut, IMAGE) > 1e-3


def test_a_norm_with_another_channels_statistics_disagrees_in_eval_mode(chain):
    kept = [0, 2, 3]
    norms = norm_indices("1", kept) | {"1__running_var": ([0, 1, 3],)}
    cut = rebuilt(
        chain,
        **{"0__weight": (kept, [0, 1, 2], [0, 1, 2], [0, 1, 2])},
        **norms,
        **{"4__weight": ([0, 1], features(kept))},
    )
    assert disagreement(chain, cut, (IMAGE,), training=False) > 1e-3


def test_a_norm_with_another_channels_shift_disagrees_in_train_mode(chain):
    kept = [0, 2, 3]
    norms = norm_indices("1", kept) | {"1__bias": ([0, 1, 3],)}
    cut = rebuilt(
        chain,
        **{"0__weight": (kept, [0, 1, 2], [0, 1, 2], [0, 1, 2])},
        **norms,
        **{"4__weight": ([0, 1], features(kept))},
    )
    assert disagreement(chain, cut, (IMAGE,), training=True) > 1e-3


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x) + self.branch(x)))


@pytest.mark.parametrize(("branch", "agrees"), [([1, 3], True), ([0, 1], False), ([1, 4], False)])
def test_branches_of_a_sum_must_keep_the_same_channels(branch, agrees):
    """The public code's coupling by number, not by index, is what this catches."""
    dense = make_unique(Stream())
    cut = copy.deepcopy(dense)
    cut.stem = narrow_linear(dense.stem, [1, 3], [0, 1, 2, 3])
    cut.branch = narrow_linear(dense.branch, branch, [0, 1, 2, 3])
    cut.head = narrow_linear(dense.head, [0, 1], [1, 3])
    error = disagreement(dense, cut, (torch.randn(3, 4, dtype=torch.float64),), training=False)
    assert error <= 1e-12 if agrees else error > 1e-3


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.LayerNorm(6, bias=False)])
def test_norms_count_the_survivors_only(norm):
    dense = make_unique(nn.Sequential(nn.Linear(4, 6), norm, nn.GELU(), nn.Linear(6, 2)))
    kept = [0, 2, 5]
    vectors = {f"1__{leaf}": (kept,) for leaf in ("weight", "bias") if getattr(norm, leaf, None) is not None}
    cut = rebuilt(
        dense, **vectors, **{"0__weight": (kept, [0, 1, 2, 3]), "0__bias": (kept,), "3__weight": ([0, 1], kept)}
    )
    x = torch.randn(3, 4, dtype=torch.float64)
    cut[1].normalized_shape = (6,)
    with pytest.raises(NotASubnetwork, match="does not run"):
        disagreement(dense, cut, (x,), training=False)
    cut[1].normalized_shape = (3,)
    assert disagreement(dense, cut, (x,), training=False) <= 1e-12
    swapped = rebuilt(cut, **{"1__weight": ([0, 2, 1],)})
    with pytest.raises(NotASubnetwork, match=r"1\.weight.*order"):
        disagreement(dense, swapped, (x,), training=False)


@pytest.mark.parametrize(
    ("kept", "groups", "agrees"),
    [([0, 1, 2, 3], 2, True), ([1, 2, 5, 6], 2, True), ([0, 1, 2, 5, 6, 7], 2, True), ([0, 1, 2, 4], 2, False)],
)
def test_group_norm_counts_the_survivors_of_each_group(kept, groups, agrees):
    dense = make_unique(nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 2)))
    if kept == [0, 1, 2, 3]:
        groups = 1  # a whole group has left
    cut = rebuilt(
        dense,
        **{"0__weight": (kept, [0, 1, 2, 3]), "0__bias": (kept,), "3__weight": ([0, 1], kept)},
        **{"1__weight": (kept,), "1__bias": (kept,)},
    )
    cut[1].num_groups, cut[1].num_channels = groups, len(kept)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    error = disagreement(dense, cut, (x,), training=False)
    assert error <= 1e-10 if agrees else error > 1e-3


def test_a_norm_without_weight_must_be_described():
    dense = make_unique(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)))
    cut = copy.deepcopy(dense)
    x = (torch.randn(3, 4, dtype=torch.float64),)
    with pytest.raises(NotImplementedError, match="norms"):
        disagreement(dense, cut, x, training=False)
    assert disagreement(dense, cut, x, False, {"1": ("0.weight", 0)}) <= 1e-12


# --------------------------------------------------------------------------- recurrent units, heads, parametrizations


class Sequence(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(layer.proj_size or 5, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def cut_units(dense, kept, gates, rows=None):
    """Hidden units outside `kept` leave a recurrent layer of 5 units: their row in every gate, their column."""
    rows = [gate * 5 + unit for gate in range(gates) for unit in kept] if rows is None else rows
    projected = {"layer__weight_hr_l0": ([0, 1, 2, 3], kept)} if dense.layer.proj_size else {}
    recurred = [0, 1, 2, 3] if projected else kept
    biases = {f"layer__bias_{which}_l0": (rows,) for which in ("ih", "hh")} if dense.layer.bias else {}
    cut = rebuilt(
        dense,
        layer__weight_ih_l0=(rows, [0, 1, 2]),
        layer__weight_hh_l0=(rows, recurred),
        **biases,
        **projected,
    )
    cut.head = narrow_linear(dense.head, [0, 1], recurred)
    cut.layer.hidden_size = len(kept)
    return cut


RECURRENT = [
    (4, lambda: nn.LSTM(3, 5, batch_first=True)),
    (4, lambda: nn.LSTM(3, 5, batch_first=True, proj_size=4)),
    (3, lambda: nn.GRU(3, 5, batch_first=True, bias=False)),
    (3, lambda: nn.GRU(3, 5, batch_first=True)),
    (1, lambda: nn.RNN(3, 5, batch_first=True)),
    (1, lambda: nn.RNN(3, 5, batch_first=True, nonlinearity="relu")),
]
STEPS = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(("gates", "make"), RECURRENT)
def test_a_hidden_unit_leaves_with_its_row_in_every_gate_and_its_column(gates, make):
    dense = make_unique(Sequence(make()))
    cut = cut_units(dense, [0, 2, 3], gates)
    assert both_modes(dense, cut, STEPS) <= 1e-12
    assert attribute_faults(cut) == []


@pytest.mark.parametrize(("gates", "make"), [pair for pair in RECURRENT if pair[0] > 1])
def test_a_gate_that_loses_another_units_row_disagrees(gates, make):
    dense = make_unique(Sequence(make()))
    rows = [gate * 5 + unit for gate in range(gates) for unit in ([0, 2, 3] if gate else [0, 2, 4])]
    assert disagreement(dense, cut_units(dense, [0, 2, 3], gates, rows), (STEPS,), training=False) > 1e-3


def test_a_recurrence_that_loses_another_units_column_disagrees():
    dense = make_unique(Sequence(nn.LSTM(3, 5, batch_first=True)))
    cut = cut_units(dense, [0, 2, 3], 4)
    other = cut_units(dense, [0, 2, 4], 4)
    cut.layer.weight_hh_l0 = rebuilt(
        dense, layer__weight_hh_l0=([g * 5 + u for g in range(4) for u in (0, 2, 3)], [0, 2, 4])
    ).layer.weight_hh_l0
    assert disagreement(dense, cut, (STEPS,), training=False) > 1e-3
    assert disagreement(dense, other, (STEPS,), training=False) <= 1e-12


class Attention(nn.Module):
    """Three heads of two channels, in one projection."""

    def __init__(self, head_dim: int = 2):
        super().__init__()
        self.qkv, self.out, self.head_dim = nn.Linear(3, 18), nn.Linear(6, 3), head_dim

    def forward(self, x):
        q, k, v = (one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kept", "head_dim", "agrees"), [([0, 1, 4, 5], 2, True), ([2, 3], 2, True), ([0, 2, 4], 1, False)]
)
def test_whole_heads_leave_and_halves_of_heads_change_the_scale(kept, head_dim, agrees):
    dense = make_unique(Attention())
    rows = [6 * part + channel for part in range(3) for channel in kept]
    cut = rebuilt(dense, qkv__weight=(rows, [0, 1, 2]), qkv__bias=(rows,), out__weight=([0, 1, 2], kept))
    cut.head_dim = head_dim
    error = both_modes(dense, cut, STEPS)
    assert error <= 1e-12 if agrees else error > 1e-3


def test_rows_of_a_normalised_weight_may_leave_and_columns_may_not():
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 2))
    dense, kept = make_unique(layers), [0, 1, 3]
    original = "2__parametrizations__weight__original"
    rows = rebuilt(
        dense,
        **{f"{original}0": (kept, [0]), f"{original}1": (kept, [0, 1, 2, 3])},
        **{"2__bias": (kept,), "3__weight": ([0, 1], kept)},
    )
    assert both_modes(dense, rows, STEPS) <= 1e-12
    columns = rebuilt(
        dense,
        **{"0__weight": (kept, [0, 1, 2]), "0__bias": (kept,), f"{original}1": ([0, 1, 2, 3, 4], kept)},
    )
    assert columns[2].weight.shape == (5, 3)
    assert both_modes(dense, columns, STEPS) > 1e-3  # each row's length is that of what stays


def test_torchs_own_encoder_is_run_with_and_without_its_fast_path(monkeypatch):
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    dense = make_unique(nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)))
    cut = copy.deepcopy(dense)
    cut[1].linear1, cut[1].linear2 = (
        narrow_linear(dense[1].linear1, [0, 2, 5], [0, 1, 2, 3]),
        narrow_linear(dense[1].linear2, [0, 1, 2, 3], [0, 2, 5]),
    )
    assert both_modes(dense, cut, STEPS) <= 1e-12
    fast = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: 1.5 * fast(*args))
    assert disagreement(dense, cut, (STEPS,), training=False) > 1e-3
    assert disagreement(dense, cut, (STEPS,), training=True) <= 1e-12


def test_choices_leave_every_dimension_an_entry():
    classes = [[("a", 0, torch.tensor([i]))] for i in range(4)] + [
        [("b", 0, torch.tensor([2 * i, 2 * i + 1]))] for i in range(3)
    ]
    keep = choose({("a", 0): 4, ("b", 0): 6}, classes, 1.0, 0)
    assert keep[:4].sum() == 1
    assert keep[4:].sum() == 1
    assert choose({("a", 0): 4, ("b", 0): 6}, classes, 0.3, 0).sum() == 5


def test_attributes_that_lie_are_found():
    model = nn.Sequential(conv(4, 4, groups=2), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 3), nn.GroupNorm(2, 4))
    assert attribute_faults(model) == []
    model[0].groups = 1
    model[1].num_features = 3
    model[2].normalized_shape = (5,)
    model[3].out_features = 4
    model[4].num_groups = 3
    faults = " ".join(attribute_faults(model))
    for module, attribute in (
        ("0", "in_channels"),
        ("1", "num_features"),
        ("2", "normalized_shape"),
        ("3", "out_features"),
    ):
        assert f"{module}.{attribute}" in faults
    assert "4: 4 channels do not divide into 3 groups" in faults


def test_attributes_of_torchs_recurrent_and_attention_layers_that_lie_are_found():
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
            "gru": nn.GRU(3, 4, 2),
            "cell": nn.LSTMCell(3, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "other": nn.MultiheadAttention(4, 2, kdim=3),
            "bag": nn.EmbeddingBag(5, 4),
            "bilinear": nn.Bilinear(2, 3, 4),
        }
    )
    assert attribute_faults(model) == []
    lies = {
        "lstm": {"proj_size": 3, "hidden_size": 5},
        "gru": {"input_size": 4},
        "cell": {"hidden_size": 3},
        "attention": {"num_heads": 3},
        "other": {"embed_dim": 5},
        "bag": {"embedding_dim": 3},
        "bilinear": {"in2_features": 2},
    }
    for module, attributes in lies.items():
        for attribute, value in attributes.items():
            setattr(model[module], attribute, value)
    model["gru"].weight_ih_l1 = nn.Parameter(torch.randn(12, 3))
    faults = " ".join(attribute_faults(model))
    for module, attributes in lies.items():
        for attribute in attributes:
            assert f"{module}.{attribute} " in faults
    assert "gru.weight_ih_l1 has shape (12, 3) instead of (12, 4)" in faults


ORDINARY = [name for name, case in CASES.items() if not (case.slow or case.refused or case.needs)]


@pytest.mark.parametrize("family", sorted({CASES[name].family for name in ORDINARY}))
def test_the_networks_under_test_are_far_from_initialisation(family):
    """Norms with weights near one and shifts near zero would forgive a permuted cut; these do not."""
    for name in ORDINARY:
        if CASES[name].family == family:
            torch.manual_seed(0)
            model = CASES[name].build().double()
            before = {leaf: tensor.detach().clone() for leaf, tensor in tensors(model).items()}
            after = {leaf: t for leaf, t in tensors(make_unique(model)).items() if t.is_floating_point()}
            assert all(tensor.unique().numel() == tensor.numel() for tensor in after.values())
            for leaves in ([leaf for leaf in after if after[leaf].dim() < 2], list(after)):
                moved = sum((after[leaf] - before[leaf]).square().sum() for leaf in leaves)
                assert moved >= 0.3**2 * sum(before[leaf].square().sum() for leaf in leaves)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not (case.slow or case.refused or case.needs)]
)
def test_every_model_of_the_zoo_runs_and_is_its_own_subnetwork(name):
    case = CASES[name]
    model = make_unique(case.build())
    assert {"float64"} >= {
        str(t.dtype).removeprefix("torch.") for t in tensors(model).values() if t.is_floating_point()
    }
    for training in (False, True):
        assert disagreement(model, copy.deepcopy(model), case.inputs(), training, case.norms) <= 1e-12
