"""What is refused, and that a failure leaves model and optimizer as they were."""

import pytest
import torch
from torch import nn

from earlycrop.errors import EarlyCropError, TraceError
from earlycrop.structure import cut, trace
from tests.cases import CASES, conv, pooled_head
from tests.oracles import attribute_faults, make_unique
from tests.structure.cuts import assert_unchanged, prepared, random_keep, squares, state_of


@pytest.mark.parametrize(
    ("keep", "error", "words"),
    [
        (lambda n: torch.ones(n - 1, dtype=torch.bool), EarlyCropError, "`keep`"),
        (lambda n: torch.ones(n + 1, dtype=torch.bool), EarlyCropError, "`keep`"),
        (lambda n: torch.zeros(n, dtype=torch.bool), EarlyCropError, "`keep`"),
        # Where annotations are checked, as in this suite, they speak first.
        (lambda n: torch.ones(n), (EarlyCropError, TypeError), "keep"),
        (lambda n: torch.ones(n, 1, dtype=torch.bool), (EarlyCropError, TypeError), "keep"),
        (lambda n: torch.arange(n), (EarlyCropError, TypeError), "keep"),
    ],
    ids=["short", "long", "nothing-left", "float", "matrix", "indices"],
)
def test_a_choice_that_does_not_fit_is_refused_and_nothing_is_touched(keep, error, words):
    model, _, structure = prepared("resnet")
    optimizer = torch.optim.Adam(model.parameters())
    before = state_of(model, optimizer)
    with pytest.raises(error, match=words):
        cut(structure, model, keep(len(structure)), optimizer)
    assert_unchanged(model, before, optimizer)


def test_emptying_one_layer_is_refused_by_name():
    model, _, structure = prepared("mlp")
    keep = torch.tensor(
        [not any(m.tensor == "2.weight" and m.dim == 0 for m in one.members) for one in structure.classes]
    )
    assert keep.any()
    before = state_of(model)
    with pytest.raises(EarlyCropError, match=r"2\.weight"):
        cut(structure, model, keep, None)
    assert_unchanged(model, before)


def test_another_model_is_refused():
    _, _, structure = prepared("mlp")
    other = make_unique(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)))
    before = state_of(other)
    with pytest.raises(EarlyCropError, match=r"0\.weight"):
        cut(structure, other, torch.arange(len(structure)) % 2 == 0, None)
    assert_unchanged(other, before)


def test_cutting_twice_with_the_old_structure_is_refused():
    model, _, structure = prepared("resnet")
    keep = random_keep(structure, model)
    cut(structure, model, keep, None)
    before = state_of(model)
    with pytest.raises(EarlyCropError, match="structure"):
        cut(structure, model, keep, None)
    assert_unchanged(model, before)


class Stubborn(nn.Conv2d):
    """A layer that refuses a new width, after its tensors have been cut."""

    @property
    def out_channels(self):
        return vars(self)["out_channels"]

    @out_channels.setter
    def out_channels(self, value):
        if vars(self).setdefault("out_channels", value) != value:
            raise RuntimeError("this layer does not change its width")


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_a_failure_half_way_leaves_everything_as_it_was(place, with_optimizer):
    layers = [conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 5), nn.ReLU(), pooled_head(5)]
    inside, outside = layers[place].in_channels, layers[place].out_channels
    layers[place] = Stubborn(inside, outside, 3, padding=1, bias=False)
    model = make_unique(nn.Sequential(*layers))
    inputs = (torch.randn(3, 3, 8, 8, dtype=torch.float64),)
    # The structure is found on a twin of ordinary layers: the stubborn one would not stand the rehearsal.
    twin = nn.Sequential(*layers)
    twin[place] = conv(inside, outside)
    structure = trace(twin.double(), inputs)
    optimizer = torch.optim.Adam(model.parameters()) if with_optimizer else None
    old = squares(inputs)(model)
    old.backward()
    if optimizer:
        optimizer.step()
    before = state_of(model, optimizer)
    with pytest.raises(RuntimeError, match="does not change its width"):
        cut(structure, model, random_keep(structure, model), optimizer)
    assert_unchanged(model, before, optimizer)
    assert attribute_faults(model) == []
    squares(inputs)(model).backward()


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.other(x)


def test_a_network_that_cannot_be_exported_is_refused_with_its_module_and_untouched():
    model = make_unique(nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"a": Undecided()})["a"], nn.Linear(4, 2)))
    model.train()
    before = state_of(model)
    with pytest.raises(TraceError, match=r"`1`"):
        trace(model, torch.randn(2, 3, dtype=torch.float64))
    assert_unchanged(model, before)
    assert all(module.training for module in model.modules())


def test_inputs_that_do_not_fit_are_refused_with_the_module():
    model = make_unique(CASES["mlp"].build())
    with pytest.raises(TraceError, match=r"`0`"):
        trace(model, torch.randn(2, 7, dtype=torch.float64))
