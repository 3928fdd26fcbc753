"""The oracle, tested on cuts by hand: it accepts right ones and rejects each kind of wrong one."""

import copy

import pytest
import torch
from torch import nn

from tests.cases import CASES, conv
from tests.oracles import (
    NotASubnetwork,
    attribute_faults,
    choose,
    disagreement,
    entries,
    make_unique,
    narrow_linear,
    survivors,
    tensors,
)


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
    """The public code's coupling by number, not by index, is what this catches (methods.md 2.9)."""
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
    error = disagreement(dense, cut, (torch.randn(3, 4, dtype=torch.float64),), training=False)
    assert error <= 1e-10 if agrees else error > 1e-3


def test_a_norm_without_weight_must_be_described():
    dense = make_unique(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)))
    cut = copy.deepcopy(dense)
    x = (torch.randn(3, 4, dtype=torch.float64),)
    with pytest.raises(NotImplementedError, match="norms"):
        disagreement(dense, cut, x, training=False)
    assert disagreement(dense, cut, x, False, {"1": ("0.weight", 0)}) <= 1e-12


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
