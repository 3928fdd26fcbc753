"""Every network of the zoo: what must be able to leave can, and what is left computes what the gated network did."""

import copy
import functools
import importlib.util
import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from earlycrop.errors import TraceError
from earlycrop.structure import cut, trace, verify
from tests.cases import CASES
from tests.oracles import all_survivors, attribute_faults, choose, disagreement, make_unique, tensors

PARTS = (0.3, 0.7, 0.9)


def present(case):
    return case.needs is None or importlib.util.find_spec(case.needs) is not None


def marks(case):
    missing = pytest.mark.skipif(not present(case), reason=f"needs {case.needs}")
    return [missing, pytest.mark.slow] if case.slow else [missing]


NAMES = [pytest.param(name, marks=marks(case)) for name, case in CASES.items() if not case.refused]
QUICK = [name for name, case in CASES.items() if not case.refused and not case.slow and present(case)]
TRACED_ANEW = ["chain", "resnet", "mobilenet", "unet", "lenet_view_literal", "transposed_groups", "group_norm_two"]


def everything_of(model):
    """All that a look at a model could change, tensors as copies."""
    seen = {name: (id(t), t._version, t.requires_grad, t.grad, t.dtype) for name, t in tensors(model).items()}
    modules = [
        (id(module), module.training, {key: value for key, value in vars(module).items() if key[0] != "_"})
        for module in model.modules()
    ]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return (seen, modules, hooks, torch.get_rng_state().tolist()), {
        name: t.clone() for name, t in tensors(model).items()
    }


@functools.cache
def traced(name):
    """The network, its inputs, its structure, and what the network was before and after it was traced."""
    case = CASES[name]
    torch.manual_seed(0)
    model = make_unique(case.build())
    for number, module in enumerate(model.modules()):
        module.training = number % 3 == 0
    before = everything_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        structure = trace(model, case.inputs())
    return model, case.inputs(), structure, before, everything_of(model)


def kept_classes(structure, model, part, seed):
    sizes = {(name, dim): size for name, tensor in tensors(model).items() for dim, size in enumerate(tensor.shape)}
    classes = [[(member.tensor, member.dim, member.index) for member in one.members] for one in structure.classes]
    return choose(sizes, classes, part, seed)


def cut_copy(name, part, seed):
    """The dense network, a cut copy, the inputs, and the structure of what is left."""
    model, inputs, structure, _, _ = traced(name)
    smaller = copy.deepcopy(model)
    left = cut(structure, smaller, kept_classes(structure, model, part, seed), None)
    return model, smaller, inputs, left


@pytest.mark.parametrize("name", NAMES)
def test_what_can_leave_is_found(name):
    case = CASES[name]
    structure = traced(name)[2]
    assert len(structure) >= case.least
    assert case.most is None or len(structure) <= case.most
    assert len(structure.classes) == len(structure)


@pytest.mark.parametrize("name", NAMES)
def test_tracing_leaves_the_model_as_it_was(name):
    _, inputs, _, (before, old), (after, new) = traced(name)
    assert before == after
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inputs, CASES[name].inputs(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_two_classes_share_an_entry_and_all_indices_exist(name):
    model, _, structure, _, _ = traced(name)
    sizes = {name: tensor.shape for name, tensor in tensors(model).items()}
    seen = set()
    for one in structure.classes:
        for member in one.members:
            entries = {(member.tensor, member.dim, index) for index in member.index.tolist()}
            assert len(entries) == len(member.index)
            assert not entries & seen
            assert all(0 <= index < sizes[member.tensor][member.dim] for _, _, index in entries)
            seen |= entries


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_silently_left_uncut(name):
    """A layer with output channels that belong to no class is an output of the network, or is told with a reason."""
    model, _, structure, _, _ = traced(name)
    free = {}
    for one in structure.classes:
        for member in one.members:
            free[member.tensor, member.dim] = free.get((member.tensor, member.dim), 0) + len(member.index)
    told = [frozen.where for frozen in structure.frozen if frozen.reason]
    names = {id(tensor): name for name, tensor in reversed(tensors(model).items())}
    for module in model.modules():
        weight = module._parameters.get("weight")
        carries = getattr(module, "groups", 1) == getattr(module, "out_channels", 0)  # creates no channel of its own
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and weight is not None and not carries:
            dim = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
            found, weight = free.get((names[id(weight)], dim), 0), names[id(weight)]
            assert (
                found == tensors(model)[weight].shape[dim]
                or tensors(model)[weight].shape[dim] == 1
                or weight in structure.outputs
                or any(weight in where for where in told)
            )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_what_cannot_be_traced_is_refused_with_a_way_out(name):
    case = CASES[name]
    model = case.build().double()
    before, old = everything_of(model)
    with pytest.raises(TraceError, match="prune weights instead"):
        trace(model, case.inputs())
    after, new = everything_of(model)
    assert before == after
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.named])
def test_what_cannot_leave_is_named(name):
    told = " ".join(f"{frozen.where} {frozen.reason}" for frozen in traced(name)[2].frozen)
    for word in CASES[name].named:
        assert word in told


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_cut_network_is_the_gated_one(name, part):
    """Outputs, running statistics and gradients, with the norms' running statistics and with the batch's."""
    case = CASES[name]
    model, smaller, inputs, left = cut_copy(name, part, seed=round(10 * part))
    assert disagreement(model, smaller, inputs, False, case.norms) <= 1e-9
    assert disagreement(model, smaller, inputs, True, case.norms) <= 1e-9
    assert len(left) < len(traced(name)[2]) or not len(left)
    for tensor in case.whole:
        assert tensors(smaller)[tensor].shape == tensors(model)[tensor].shape


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("name", QUICK)
def test_the_cut_network_is_the_gated_one_for_more_choices(name, seed):
    part = (0.05, 0.2, 0.5, 0.6, 0.8, 0.95, 0.98, 1.0)[seed - 1]
    model, smaller, inputs, _ = cut_copy(name, part, seed)
    for training in (False, True):
        assert disagreement(model, smaller, inputs, training, CASES[name].norms) <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_each_class_alone_can_leave(name):
    model, inputs, structure, _, _ = traced(name)
    for number in range(min(len(structure), 40)):
        keep = torch.ones(len(structure), dtype=torch.bool)
        keep[number] = False
        smaller = copy.deepcopy(model)
        try:
            cut(structure, smaller, keep, None)
        except ValueError:  # it was the last one of a dimension
            assert number < 2
            continue
        assert disagreement(model, smaller, inputs, False, CASES[name].norms) <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_can_be_cut_again(name):
    """With the structure that the first cut returned."""
    case = CASES[name]
    model, smaller, inputs, left = cut_copy(name, 0.5, seed=1)
    cut(left, smaller, kept_classes(left, smaller, 0.6, seed=2), None)
    assert disagreement(model, smaller, inputs, False, case.norms) <= 1e-9
    assert attribute_faults(smaller) == []


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in TRACED_ANEW else [pytest.mark.slow]) for n in QUICK])
def test_a_cut_network_can_be_traced_and_cut_again(name):
    case = CASES[name]
    model, smaller, inputs, _ = cut_copy(name, 0.8, seed=1)
    anew = trace(smaller, inputs)
    cut(anew, smaller, kept_classes(anew, smaller, 0.6, seed=2), None)
    assert disagreement(model, smaller, inputs, False, case.norms) <= 1e-9
    assert attribute_faults(smaller) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_keeps_objects_names_types_and_modes(name):
    model, _, structure, _, _ = traced(name)
    model = copy.deepcopy(model)
    for tensor in list(model.parameters())[::3]:
        tensor.requires_grad_(False)
    held = tensors(model)
    told = {name: (tensor.requires_grad, tensor.dtype, type(tensor), tensor.dim()) for name, tensor in held.items()}
    modes = [module.training for module in model.modules()]
    cut(structure, model, kept_classes(structure, model, 0.7, seed=3), None)
    now = tensors(model)
    assert list(now) == list(held)
    assert all(now[name] is tensor for name, tensor in held.items())
    assert {name: (t.requires_grad, t.dtype, type(t), t.dim()) for name, t in now.items()} == told
    assert [module.training for module in model.modules()] == modes
    assert all(tensor.is_contiguous() and tensor.grad is None for tensor in now.values())
    assert attribute_faults(model) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_network_copies_saves_loads_and_trains(name):
    _, smaller, inputs, _ = cut_copy(name, 0.7, seed=4)
    twin = copy.deepcopy(smaller)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(smaller.state_dict())
    assert all(torch.equal(tensor, tensors(smaller)[name]) for name, tensor in tensors(twin).items())
    twin.train()
    before = {name: parameter.clone() for name, parameter in twin.named_parameters()}
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    outputs = [y for y in tree_leaves(twin(*inputs)) if isinstance(y, torch.Tensor)]
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()
    learns = {name for name, p in twin.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9}
    assert learns
    assert not any(
        torch.equal(parameter, before[name]) for name, parameter in twin.named_parameters() if name in learns
    )


@pytest.mark.parametrize("name", NAMES)
def test_verify_agrees(name):
    model, inputs, structure, _, _ = traced(name)
    keep = kept_classes(structure, model, 0.6, seed=5)
    before, old = everything_of(model)
    assert verify(structure, model, inputs, keep).max_error <= 1e-9
    after, new = everything_of(model)
    assert before == after
    assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("name", ["chain", "resnet", "unet", "convnext", "mobilenet", "mlp_layer_norm"])
def test_float32_and_a_batch_of_another_size(name):
    """Nothing of the cut hangs on the example's batch size or precision."""
    case = CASES[name]
    model, inputs, _, _, _ = traced(name)
    structure = trace(copy.deepcopy(model).float(), tuple(x.float()[:2] for x in inputs))
    smaller = copy.deepcopy(model)
    cut(structure, smaller, kept_classes(structure, model, 0.7, seed=6), None)
    more = tuple(torch.cat([x, x.flip(-1), 0.5 * x]) for x in inputs)
    assert disagreement(model, smaller, more, True, case.norms) <= 1e-9


@pytest.mark.parametrize("name", ["chain", "resnet", "mlp", "unet", "grouped", "chunk", "lenet_flatten"])
def test_survivors_are_those_of_the_kept_classes(name):
    """What the engine says of its classes is what it does."""
    model, _, structure, _, _ = traced(name)
    keep = kept_classes(structure, model, 0.7, seed=7)
    smaller = copy.deepcopy(model)
    cut(structure, smaller, keep, None)
    kept = all_survivors(model, smaller)
    gone = {}
    for one in (one for one, stays in zip(structure.classes, keep.tolist(), strict=True) if not stays):
        for member in one.members:
            gone.setdefault((member.tensor, member.dim), set()).update(member.index.tolist())
    for tensor, index in kept.items():
        for dim, survivors in enumerate(index):
            everything = set(range(tensors(model)[tensor].shape[dim]))
            assert set(survivors.tolist()) == everything - gone.get((tensor, dim), set())
