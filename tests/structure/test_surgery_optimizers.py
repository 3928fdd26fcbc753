"""What optimizers make of a cut."""

import copy

import pytest
import torch

from earlycrop.errors import OptimizerError
from earlycrop.structure import cut
from tests.oracles import all_survivors, entries, step_of_gated, tensors
from tests.structure.cuts import assert_unchanged, prepared, random_keep, squares, state_of

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
