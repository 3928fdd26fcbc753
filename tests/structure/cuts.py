"""What the tests of cuts have in common: networks of the zoo, choices, and what may not change."""

import copy
import functools

import torch

from earlycrop.structure import trace
from tests.cases import CASES
from tests.oracles import choose, make_unique, tensors


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
