"""The removal: residual streams, gradients, types, and what is kept whole."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn

from earlycrop import Pruner, harvest
from earlycrop.structure import cut, trace
from tests.cases import CASES, conv, pooled_head
from tests.cases.joined import SplitByList
from tests.oracles import disagreement, make_unique, tensors
from tests.structure.cuts import assert_unchanged, prepared, random_keep, squares, state_of


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
