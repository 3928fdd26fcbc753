"""The removal: what it keeps, what it refuses, what the optimizer makes of it, and the proof on the user's model."""

import copy
import dataclasses
import functools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from earlycrop import Pruner, harvest
from earlycrop.errors import EarlyCropError, OptimizerError, TraceError
from earlycrop.structure import cut, trace, verify
from tests.cases import CASES, conv, pooled_head
from tests.cases.joined import SplitByList
from tests.oracles import (
    all_survivors,
    attribute_faults,
    choose,
    disagreement,
    entries,
    make_unique,
    step_of_gated,
    tensors,
)


@functools.cache
def traced(name):
    case = CASES[name]
    model = make_unique(case.build())
    return model, case.inputs(), trace(model, case.inputs())


def prepared(name):
    """A network of the zoo, of which the test may do what it likes, its inputs and its structure."""
    model, inputs, structure = traced(name)
    return copy.deepcopy(model), inputs, structure


def random_keep(structure, model, part=0.6, seed=0):
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    return choose(sizes, [[(m.tensor, m.dim, m.index) for m in one.members] for one in structure.classes], part, seed)


def squares(inputs):
    return lambda model: sum(y.square().mean() for y in torch.utils._pytree.tree_leaves(model(*inputs)))


def state_of(model, optimizer=None):
    """Everything that a failed cut must not have changed, as copies."""
    found = {name: (id(t), t.clone(), None if t.grad is None else t.grad.clone()) for name, t in tensors(model).items()}
    modules = [repr(module) for module in model.modules()]
    state = copy.deepcopy(optimizer.state_dict()) if optimizer else None
    return found, modules, state


def assert_unchanged(model, before, optimizer=None):
    found, modules, state = before
    now = tensors(model)
    assert list(now) == list(found)
    for name, (identity, value, grad) in found.items():
        assert id(now[name]) == identity
        assert torch.equal(now[name], value)
        assert (now[name].grad is None) == (grad is None)
        assert grad is None or torch.equal(now[name].grad, grad)
    assert [repr(module) for module in model.modules()] == modules
    if optimizer:
        assert str(optimizer.state_dict()) == str(state)


# ------------------------------------------------------------------------------------------------- residual streams


class Constants(nn.Module):
    """A residual stream whose channel i carries the number i, whatever the input."""

    def __init__(self, width, kind):
        super().__init__()
        layer = (
            (lambda inside: nn.Linear(inside, width))
            if kind == "linear"
            else (lambda inside: conv(inside, width, bias=True))
        )
        self.stem = layer(3)
        self.blocks = nn.ModuleList(layer(width) for _ in range(3))
        self.head = nn.Linear(width, 2) if kind == "linear" else pooled_head(width, 2)
        with torch.no_grad():
            for module in (self.stem, *self.blocks):
                module.weight.zero_()
                module.bias.zero_()
            self.stem.bias.copy_(torch.arange(width))

    def stream(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x

    def forward(self, x):
        return self.head(self.stream(x))


@pytest.mark.parametrize("gone", [{0, 2}, {1, 5, 6}, {0, 1, 2, 3, 4, 5, 6}, {7}])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_residual_stream_keeps_its_channels_in_their_order(kind, gone):
    model = Constants(8, kind)
    x = torch.randn(2, 3) if kind == "linear" else torch.randn(2, 3, 4, 4)
    structure = trace(model, x)
    assert len(structure) == 8
    keep = torch.tensor(
        [
            not any(m.tensor == "stem.bias" and set(m.index.tolist()) & gone for m in one.members)
            for one in structure.classes
        ]
    )
    cut(structure, model, keep, None)
    stream = model.stream(x).movedim(1, -1).flatten(0, -2)
    expected = torch.tensor([float(channel) for channel in range(8) if channel not in gone])
    assert torch.equal(stream, expected.expand_as(stream))


# --------------------------------------------------------------------------------------------- gradients and graphs


@pytest.mark.parametrize("name", ["mlp", "resnet", "mobilenet", "convnext", "shared_block", "unet"])
@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.01, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.01)]
)
def test_training_goes_on_while_an_old_loss_is_alive(name, make):
    model, inputs, structure = prepared(name)
    model.train()
    optimizer = make(model.parameters())
    loss = squares(inputs)
    for _ in range(2):
        optimizer.zero_grad()
        old = loss(model)
        old.backward(retain_graph=True)
        optimizer.step()
    cut(structure, model, random_keep(structure, model), optimizer)
    assert all(parameter.grad is None or parameter.grad.shape == parameter.shape for parameter in model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        new = loss(model)
        new.backward()
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        optimizer.step()
        assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
        assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if p.grad.abs().max() > 1e-9)
    assert old.grad_fn is not None
    assert torch.isfinite(new)


def test_gradients_that_were_there_do_not_break_the_next_backward():
    model, inputs, structure = prepared("chain")
    loss = squares(inputs)
    loss(model).backward()
    wide = {name: parameter.shape for name, parameter in model.named_parameters()}
    cut(structure, model, random_keep(structure, model), None)
    loss(model).backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    assert any(parameter.shape != wide[name] for name, parameter in model.named_parameters())


def test_flags_of_every_parameter_survive():
    model, _, structure = prepared("resnet")
    frozen = [name for number, (name, _) in enumerate(model.named_parameters()) if number % 2]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    cut(structure, model, random_keep(structure, model), None)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == frozen


def test_channels_last_memory_stays_channels_last():
    model, inputs, structure = prepared("resnet")
    model = model.to(memory_format=torch.channels_last)
    cut(structure, model, random_keep(structure, model, 0.3), None)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(model(*inputs)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_stay(dtype):
    model, inputs, structure = prepared("chain")
    model = model.to(dtype)
    cut(structure, model, random_keep(structure, model), None)
    assert {tensor.dtype for tensor in tensors(model).values() if tensor.is_floating_point()} == {dtype}
    assert torch.isfinite(model(*(x.to(dtype) for x in inputs))).all()


def test_keeping_everything_changes_nothing():
    model, _, structure = prepared("resnet")
    before = state_of(model)
    left = cut(structure, model, torch.ones(len(structure), dtype=torch.bool), None)
    assert len(left) == len(structure)
    assert_unchanged(model, before)


def test_hooks_and_own_attributes_survive():
    model, inputs, structure = prepared("chain")
    seen = []
    model[0].register_forward_hook(lambda module, arguments, result: seen.append(result.shape[1]))
    model.note = "mine"
    keep = random_keep(structure, model)
    assert seen == []
    cut(structure, model, keep, None)
    model(*inputs)
    assert seen == [model[0].out_channels]
    assert model.note == "mine"


class Sizes(NamedTuple):
    left: int
    right: int


@pytest.mark.parametrize("sizes", [[3, 5], torch.Size([3, 5]), Sizes(3, 5)])
def test_sizes_of_a_module_stay_of_their_kind(sizes):
    model = make_unique(SplitByList(sizes))
    inputs = CASES["split_by_list"].inputs()
    structure = trace(model, inputs)
    assert len(structure) == 8 + 5
    cut(structure, model, random_keep(structure, model), None)
    assert type(model.sizes) is type(sizes)
    assert (model.left.in_channels, model.right.in_channels) == tuple(model.sizes) != (3, 5)
    model(*inputs)


def test_ignored_layers_stay_whole():
    model = make_unique(CASES["resnet"].build())
    inputs = CASES["resnet"].inputs()
    everything = trace(model, inputs)
    structure = trace(model, inputs, ignore=("3.conv1", "4"))
    assert len(structure) < len(everything)
    assert any("ignore" in frozen.reason for frozen in structure.frozen)
    dense = copy.deepcopy(model)
    cut(structure, model, random_keep(structure, model, 1.0), None)
    for name, tensor in tensors(model).items():
        if name.startswith(("3.conv1.", "4.")):
            assert tensor.shape == tensors(dense)[name].shape
    assert disagreement(dense, model, inputs, True) <= 1e-9


def test_a_single_name_is_ignored_as_one():
    """That of the thirteenth, not of the second and the third."""
    model = make_unique(nn.Sequential(*(nn.Linear(4, 4) for _ in range(14))))
    x = torch.randn(2, 4, dtype=torch.float64)
    alone = [one.where for one in trace(model, x, ignore=("12",)).frozen]
    assert {where.split(".")[0] for where in alone} == {"11", "12"}
    assert [one.where for one in trace(model, x, ignore="12").frozen] == alone
    pruner = Pruner(model, "random-s", 0.3, example_inputs=x, ignore="12")
    assert [one.where for one in pruner.units.frozen] == alone
    with torch.no_grad():
        for layer in (model[2], model[12]):
            layer.weight[0] = layer.bias[0] = 0
    report = harvest(model, x, ignore="12")
    assert {width.layer for width in report.widths if width.after < width.before} == {"2"}


def test_ignoring_a_name_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="layer9"):
        trace(make_unique(CASES["mlp"].build()), CASES["mlp"].inputs(), ignore=("layer9",))


# -------------------------------------------------------------------------------------------------------- optimizers

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "sgd-momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adam-decay": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2, amsgrad=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "groups": lambda p: torch.optim.AdamW(
        [{"params": p[::2], "lr": 0.02}, {"params": p[1::2], "weight_decay": 0.0}], 0.01
    ),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in OPTIMIZERS for name in ("mlp", "resnet")]
    + [("adam", name) for name in ("depthwise_multiplier", "convnext", "shared_block", "flatten_after_norm", "unet")],
)
def test_a_step_after_the_cut_is_the_gated_networks_step(kind, name):
    model, inputs, structure = prepared(name)
    model.train()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    loss = squares(inputs)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    dense = copy.deepcopy(model)
    keep = random_keep(structure, model)
    # The twin's optimizer is built on the dense copy, from the state before the cut.
    parameters = dict(zip(model.parameters(), dense.parameters(), strict=True))
    groups = [{**group, "params": [parameters[p] for p in group["params"]]} for group in optimizer.param_groups]
    twin = type(optimizer)(groups)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    cut(structure, model, keep, optimizer)
    assert held == [id(p) for group in optimizer.param_groups for p in group["params"]]
    expected = step_of_gated(dense, model, twin, loss)
    optimizer.zero_grad()
    loss(model).backward()
    optimizer.step()
    for tensor, value in expected.items():
        assert (tensors(model)[tensor] - value).abs().max() <= 1e-9


def test_state_is_cut_like_its_parameter():
    model, inputs, structure = prepared("chain")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    squares(inputs)(model).backward()
    optimizer.step()
    dense = copy.deepcopy(model)
    state = {
        name: {key: value.clone() for key, value in optimizer.state[p].items()} for name, p in model.named_parameters()
    }
    cut(structure, model, random_keep(structure, model), optimizer)
    kept = all_survivors(dense, model)
    for name, parameter in model.named_parameters():
        assert torch.equal(optimizer.state[parameter]["step"], state[name]["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[parameter][key], entries(state[name][key], kept[name]))


def test_state_saved_after_a_cut_can_be_loaded_into_a_copy():
    model, inputs, structure = prepared("chain")
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    loss = squares(inputs)
    loss(model).backward()
    optimizer.step()
    cut(structure, model, random_keep(structure, model), optimizer)
    twin = copy.deepcopy(model)
    again = torch.optim.AdamW(twin.parameters(), 0.01)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (twin, again)):
        its.zero_grad()
        loss(one).backward()
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def closure_steps(model, optimizer, loss, steps=2):
    def closure():
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: torch.optim.Adafactor(p, 0.01), "Adafactor"),
        (lambda p: torch.optim.LBFGS(p, 0.01, max_iter=3), "LBFGS"),
        (lambda p: torch.optim.LBFGS(list(reversed(p)), 0.01, max_iter=3), "LBFGS"),
    ],
    ids=["adafactor", "lbfgs", "lbfgs-state-at-a-parameter-that-stays"],
)
def test_state_that_cannot_be_cut_is_refused_and_nothing_is_touched(make, word):
    model, inputs, structure = prepared("mlp")
    optimizer = make(list(model.parameters()))
    closure_steps(model, optimizer, squares(inputs))
    before = state_of(model, optimizer)
    with pytest.raises(OptimizerError, match=word):
        cut(structure, model, random_keep(structure, model), optimizer)
    assert_unchanged(model, before, optimizer)
    closure_steps(model, optimizer, squares(inputs))


# ---------------------------------------------------------------------------------------------------- what is refused


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


# -------------------------------------------------------------------------------------------------------------- proof


def swapped_labels(structure, tensor, dim):
    """The structure with two classes' entries of one dimension exchanged: a wrong map from channels to weights."""
    layout = structure.tensors[tensor]
    classes = layout.classes[dim].clone()
    free = (classes >= 0).nonzero().flatten()
    pair = free[[0, -1]]
    assert classes[pair[0]] != classes[pair[1]]
    classes[pair] = classes[pair.flip(0)]
    dims = tuple(classes if number == dim else old for number, old in enumerate(layout.classes))
    return dataclasses.replace(
        structure, tensors={**structure.tensors, tensor: dataclasses.replace(layout, classes=dims)}
    )


@pytest.mark.parametrize(
    ("name", "tensor", "dim"),
    [
        ("mlp", "2.weight", 1),
        ("mlp", "0.bias", 0),
        ("chain", "1.running_var", 0),
        ("chain", "4.weight", 1),
        ("resnet", "3.conv2.weight", 0),
        ("flatten_after_norm", "5.weight", 1),
        ("convnext", "gamma", 0),
        ("mlp_layer_norm", "1.weight", 0),
        ("depthwise", "2.weight", 0),
    ],
)
def test_verify_finds_a_wrong_label(name, tensor, dim):
    model, inputs, structure = prepared(name)
    classes = structure.tensors[tensor].classes[dim]
    keep = torch.ones(len(structure), dtype=torch.bool)
    keep[classes[classes >= 0][0]] = False
    right = verify(structure, model, inputs, keep)
    wrong = verify(swapped_labels(structure, tensor, dim), model, inputs, keep)
    assert right.max_error <= 1e-9
    assert right.exact
    assert wrong.max_error > 1e-3
    assert not wrong.exact


@pytest.mark.parametrize("name", ["mlp_layer_norm", "mlp_rms_norm", "convnext", "group_norm_one"])
def test_verify_tells_how_far_plain_gating_is_where_norms_mix_channels(name):
    model, inputs, structure = prepared(name)
    found = verify(structure, model, inputs, random_keep(structure, model))
    assert found.max_error <= 1e-9
    assert found.gating_shift > 1e-3


@pytest.mark.parametrize("name", ["mlp", "resnet", "group_norm_each"])
def test_verify_tells_no_shift_where_norms_do_not_mix(name):
    model, inputs, structure = prepared(name)
    assert verify(structure, model, inputs, random_keep(structure, model)).gating_shift <= 1e-9


def test_verify_of_a_cut_that_keeps_everything():
    model, inputs, structure = prepared("mlp_layer_norm")
    found = verify(structure, model, inputs, torch.ones(len(structure), dtype=torch.bool))
    assert max(found.max_error, found.gating_shift) <= 1e-9


def test_verify_works_on_a_float32_network_in_train_mode():
    model, inputs, structure = prepared("resnet")
    model.float().train()
    before = state_of(model)
    found = verify(structure, model, tuple(x.float() for x in inputs), random_keep(structure, model))
    assert found.max_error <= 1e-9
    assert_unchanged(model, before)
