"""The proof on the user's model: what it finds, and what it measures."""

import dataclasses

import pytest
import torch

from earlycrop.structure import verify
from tests.structure.cuts import assert_unchanged, prepared, random_keep, state_of


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
