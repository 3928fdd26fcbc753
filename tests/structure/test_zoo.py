"""Every network of the zoo: what must be able to leave can, and what is left computes what the gated network did."""

import copy
import functools

import pytest
import torch
from torch.utils._pytree import tree_leaves

from earlycrop.structure import trace
from tests.cases import CASES
from tests.oracles import all_survivors, attribute_faults, choose, disagreement, make_unique, tensors

PARTS = (0.3, 0.7, 0.9)
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if case.slow else []) for name, case in CASES.items()]


@functools.cache
def traced(name, seed=0):
    case = CASES[name]
    torch.manual_seed(0)
    model = make_unique(case.build(), seed)
    return model, case.inputs(), trace(model, case.inputs())


def kept_classes(structure, model, part, seed):
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    return choose(sizes, classes, part, seed)


def cut_copy(name, part, seed=0):
    """The dense network, a cut copy, the inputs, and the structure of what is left."""
    model, inputs, structure = traced(name)
    smaller = copy.deepcopy(model)
    left = structure.cut(smaller, kept_classes(structure, model, part, seed))
    return model, smaller, inputs, left


@pytest.mark.parametrize("name", NAMES)
def test_what_can_leave_is_found(name):
    case = CASES[name]
    _, _, structure = traced(name)
    assert len(structure) >= case.least
    assert case.most is None or len(structure) <= case.most
    assert len(structure.classes) == len(structure)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_classes_share_an_entry_and_all_indices_exist(name):
    model, _, structure = traced(name)
    seen = set()
    for one in structure.classes:
        for member in one.members:
            size = tensors(model)[member.tensor].shape[member.dim]
            for index in member.index.tolist():
                assert 0 <= index < size
                assert (member.tensor, member.dim, index) not in seen
                seen.add((member.tensor, member.dim, index))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.named])
def test_what_cannot_leave_is_named(name):
    _, _, structure = traced(name)
    told = " ".join(f"{frozen.where} {frozen.reason}" for frozen in structure.frozen)
    for word in CASES[name].named:
        assert word in told


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_cut_network_is_the_gated_one(name, part, training):
    case = CASES[name]
    model, smaller, inputs, left = cut_copy(name, part, seed=round(10 * part))
    assert disagreement(model, smaller, inputs, training, case.norms) <= 1e-9
    assert len(left) < len(traced(name)[2]) or not len(left)
    for tensor in case.whole:
        assert tensors(smaller)[tensor].shape == tensors(model)[tensor].shape


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.slow])
def test_the_cut_network_is_the_gated_one_for_more_choices(name, seed):
    part = (0.05, 0.2, 0.5, 0.6, 0.8, 0.95, 0.98, 1.0)[seed - 1]
    model, smaller, inputs, _ = cut_copy(name, part, seed)
    for training in (False, True):
        assert disagreement(model, smaller, inputs, training, CASES[name].norms) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.slow])
def test_each_class_alone_can_leave(name):
    model, inputs, structure = traced(name)
    for number in range(min(len(structure), 40)):
        keep = torch.ones(len(structure), dtype=torch.bool)
        keep[number] = False
        smaller = copy.deepcopy(model)
        structure.cut(smaller, keep)
        assert disagreement(model, smaller, inputs, False, CASES[name].norms) <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_can_be_cut_again(name):
    """With the structure that the first cut returned, and with one that is traced anew."""
    case = CASES[name]
    model, once, inputs, left = cut_copy(name, 0.5, seed=1)
    for structure in (left, trace(once, inputs)):
        twice = copy.deepcopy(once)
        structure.cut(twice, kept_classes(structure, twice, 0.6, seed=2))
        assert disagreement(model, twice, inputs, False, case.norms) <= 1e-9
        assert attribute_faults(twice) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_keeps_objects_names_types_and_modes(name):
    model, _, structure = traced(name)
    model = copy.deepcopy(model)
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for tensor in list(model.parameters())[::3]:
        tensor.requires_grad_(False)
    held = tensors(model)
    told = {name: (tensor.requires_grad, tensor.dtype, type(tensor), tensor.dim()) for name, tensor in held.items()}
    modes = [module.training for module in model.modules()]
    structure.cut(model, kept_classes(structure, model, 0.7, seed=3))
    now = tensors(model)
    assert list(now) == list(held)
    assert all(now[name] is tensor for name, tensor in held.items())
    assert {name: (t.requires_grad, t.dtype, type(t), t.dim()) for name, t in now.items()} == told
    assert [module.training for module in model.modules()] == modes
    assert all(tensor.is_contiguous() and tensor.grad is None for tensor in now.values())
    assert attribute_faults(model) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_copies_saves_loads_and_trains(name):
    model, smaller, inputs, _ = cut_copy(name, 0.7, seed=4)
    twin = copy.deepcopy(smaller)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(smaller.state_dict())
    assert disagreement(model, twin, inputs, False, CASES[name].norms) <= 1e-9
    twin.train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = [y for y in tree_leaves(twin(*inputs)) if isinstance(y, torch.Tensor)]
        sum(output.square().mean() for output in outputs).backward()
        optimizer.step()
    moved = {name for name, parameter in twin.named_parameters() if not torch.equal(parameter, tensors(smaller)[name])}
    assert moved >= {
        name for name, parameter in twin.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert moved


@pytest.mark.parametrize("name", NAMES)
def test_verify_agrees(name):
    model, inputs, structure = traced(name)
    keep = kept_classes(structure, model, 0.6, seed=5)
    before = copy.deepcopy(model.state_dict())
    assert structure.verify(model, inputs, keep).max_error <= 1e-9
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert structure.verify(model, inputs, torch.ones_like(keep)).max_error <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_tracing_leaves_the_model_as_it_was(name):
    case = CASES[name]
    model = make_unique(case.build())
    model.train()
    for number, module in enumerate(model.modules()):
        module.training = number % 3 == 0
    modes = [module.training for module in model.modules()]
    held = tensors(model)
    told = {name: (id(t), t._version, t.requires_grad, t.grad, t.clone()) for name, t in held.items()}
    attributes = [{key: value for key, value in vars(module).items() if key[0] != "_"} for module in model.modules()]
    random = torch.get_rng_state()
    inputs = case.inputs()
    trace(model, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert attributes == [{k: v for k, v in vars(module).items() if k[0] != "_"} for module in model.modules()]
    for name, (identity, version, grad_wanted, grad, value) in told.items():
        tensor = tensors(model)[name]
        assert (id(tensor), tensor._version, tensor.requires_grad, tensor.grad) == (
            identity,
            version,
            grad_wanted,
            grad,
        )
        assert torch.equal(tensor, value)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inputs, case.inputs(), strict=True))


@pytest.mark.parametrize("name", ["chain", "resnet", "unet", "convnext", "mobilenet", "mlp_layer_norm"])
def test_float32_and_a_batch_of_another_size(name):
    """Nothing of the cut hangs on the example's batch size or precision."""
    case = CASES[name]
    model, inputs, _ = traced(name)
    structure = trace(copy.deepcopy(model).float(), tuple(x.float()[:2] for x in inputs))
    smaller = copy.deepcopy(model)
    structure.cut(smaller, kept_classes(structure, model, 0.7, seed=6))
    more = tuple(torch.cat([x, x.flip(-1), 0.5 * x]) for x in inputs)
    assert disagreement(model, smaller, more, True, case.norms) <= 1e-9


@pytest.mark.parametrize("name", ["chain", "resnet", "mlp", "unet"])
def test_survivors_are_those_of_the_kept_classes(name):
    """What the engine says of its classes is what it does."""
    model, _, structure = traced(name)
    keep = kept_classes(structure, model, 0.7, seed=7)
    smaller = copy.deepcopy(model)
    structure.cut(smaller, keep)
    kept = all_survivors(model, smaller)
    gone = {}
    for one in (one for one, stays in zip(structure.classes, keep.tolist(), strict=True) if not stays):
        for member in one.members:
            gone.setdefault((member.tensor, member.dim), set()).update(member.index.tolist())
    for tensor, index in kept.items():
        for dim, survivors in enumerate(index):
            everything = set(range(tensors(model)[tensor].shape[dim]))
            assert set(survivors.tolist()) == everything - gone.get((tensor, dim), set())
