"""Channels as units: what a description refuses, what a state carries over."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from earlycrop.allocation import Global
from earlycrop.budget import Budget
from earlycrop.errors import EarlyCropError
from earlycrop.structure import Verifier, trace
from earlycrop.units import Channels
from tests import dense
from tests.pruners import make_pruner


def units_of(net: nn.Module):
    return Channels().of(net, dense.images()[0], None, ())


def test_each_step_is_told_of_the_classes_that_are_left():
    units = units_of(dense.residual_net())
    first = torch.tensor([True, False, True, True, True, False, True])
    units.keep_only(first)
    assert len(units.structure) == len(units.coordinates.values) == 5
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


class Offset(nn.Module):
    """A fixed offset for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 1), nn.Linear(5, 3)
        self.register_buffer("offset", torch.randn(1, 6, 1, 1))

    def forward(self, x):
        x = torch.relu(self.first(x) + self.offset)
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("name", ["crop-s", "earlycrop-s", "magnitude-s", "efficient-convnets"])
def test_a_buffer_that_is_added_is_scaled_with_its_channels_and_is_no_filter(name):
    net, batch = Offset().double(), dense.images()
    pruner = make_pruner(
        net, name, 0.5, example_inputs=batch[0], loss=dense.cross_entropy, batches=[batch], epochs=8, verify=True
    )
    assert pruner.units.made_of.names == ("first.weight", "first.bias", "second.weight", "second.bias")
    before = dense.everything(net)
    pruner.scores()
    assert dense.everything(net) == before
    assert pruner._prune(0, "init").verification.exact
    assert net.offset.shape[1] == net.first.out_channels < 6


# The graph of what is left ----------------------------------------------------------------------------------


def narrow(units, layer: str) -> torch.Tensor:
    """All classes but those of a layer, of which one stays."""
    classes = units.structure.tensors[f"{layer}.weight"].classes[0]
    keep = torch.ones(len(units.structure), dtype=torch.bool)
    keep[classes] = False
    keep[classes[0]] = True
    return keep


@pytest.mark.parametrize(
    ("net", "layer", "other"),
    [
        (dense.residual_net(), "conv1", "stem"),
        (dense.residual_net(), "stem", "conv1"),
        (dense.concat_net(), "right", "left"),
        (dense.concat_net(), "left", "merge"),
        (dense.depthwise_net(), "expand", "project"),
    ],
)
def test_the_proof_goes_on_behind_a_layer_of_a_single_channel(net, layer, other):
    x = dense.images()[0]
    units = units_of(net)
    units.keep_only(narrow(units, layer))
    assert net.get_submodule(layer).weight.shape[0] == 1
    units.retrace()
    verifier, keep = Verifier(units.structure, net, x), narrow(units, other)
    wrong = torch.ones_like(keep)
    units.keep_only(keep)
    assert verifier.compare(net, keep).exact
    assert not verifier.compare(net, wrong).exact


def test_another_coupling_is_not_taken_for_this_one():
    net = dense.residual_net()
    units = units_of(net)
    units.keep_only(torch.arange(7) > 0)
    swapped = trace(net, dense.images()[0])
    layout = swapped.tensors["stem.weight"]
    flipped = replace(layout, classes=(layout.classes[0].flip(0), *layout.classes[1:]))
    found = replace(swapped, tensors={**swapped.tensors, "stem.weight": flipped})
    assert units.structure.with_graph_of(swapped).graph.program is swapped.graph.program
    assert units.structure.with_graph_of(found) is units.structure


def test_gates_follow_the_models_precision():
    net = dense.residual_net().float()
    assert Channels().of(net, dense.images()[0].float(), None, ()).coordinates.values.dtype == torch.float32
