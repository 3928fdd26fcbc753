"""Channels as units: what a description refuses, what a state carries over."""

import pytest
import torch
from torch import nn

from earlycrop.allocation import Global
from earlycrop.budget import Budget
from earlycrop.errors import EarlyCropError
from earlycrop.units import Channels
from tests import dense


def units_of(net: nn.Module):
    return Channels().of(net, dense.images()[0], None, ())


def test_each_step_is_told_of_the_classes_that_are_left():
    units = units_of(dense.residual_net())
    first = torch.tensor([True, False, True, True, True, False, True])
    units.keep_only(first)
    assert len(units.structure) == len(units.units.values) == 5
    assert len(units.made_of.total(units.made_of.leaves(units.model))) == 5
    units.keep_only(torch.tensor([True, True, False, True, True]))
    assert units.keep.tolist() == [True, False, True, False, True, False, True]


def test_counts_and_widths_follow():
    net = dense.residual_net()
    units = units_of(net)
    assert dict(units.widths()) == {"stem": 4, "conv1": 3, "conv2": 4, "head": 3}
    keep = torch.ones(7, dtype=torch.bool)
    keep[units.structure.tensors["conv1.weight"].classes[0][0]] = False
    units.keep_only(keep)
    assert dict(units.widths()) == {"stem": 4, "conv1": 2, "conv2": 4, "head": 3}
    assert units.counts().params == sum(p.numel() for p in net.parameters())
    assert units.counts().prunable == sum(net.get_parameter(name).numel() for name in dense.prunable(net))
    assert units.counts().nodes == 4 + 2 + 4


def test_a_state_cuts_a_network_built_anew():
    net = dense.residual_net()
    units = units_of(net)
    units.keep_only(units.choose(Budget(0.5), torch.rand(7), Global()))
    twin = dense.residual_net()
    other = units_of(twin)
    other.load_state_dict(units.state_dict())
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}
    twin.load_state_dict(net.state_dict())
    x = dense.images()[0]
    assert torch.equal(twin.eval()(x), net.eval()(x))


def test_a_state_of_another_network_is_refused():
    state = units_of(dense.residual_net()).state_dict()
    twin = dense.conv_norm_net()
    other = Channels().of(twin, dense.images()[0], None, ("conv1",))
    before = dense.everything(twin)
    with pytest.raises(EarlyCropError, match="7"):
        other.load_state_dict(state)
    assert dense.everything(twin) == before


def test_a_state_for_a_network_that_is_cut_already_is_refused():
    units = units_of(dense.residual_net())
    state = units.state_dict()
    units.keep_only(torch.tensor([True, False, True, True, True, True, True]))
    with pytest.raises(EarlyCropError, match="Build"):
        units.load_state_dict(state)


def test_gates_follow_the_models_precision():
    net = dense.residual_net().float()
    assert Channels().of(net, dense.images()[0].float(), None, ()).units.values.dtype == torch.float32
