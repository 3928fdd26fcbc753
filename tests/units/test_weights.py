"""Weights as units: what counts, what is refused, what a state carries over, recurrent layers and embeddings."""

import copy

import pytest
import torch
from torch import nn

from earlycrop.errors import EarlyCropError
from earlycrop.harvesting import harvest
from earlycrop.units import Channels, Weights
from tests import dense
from tests.units.masks import keep_random, network

# What counts ---------------------------------------------------------------------------------------------------


def test_counts_are_of_the_masks_and_not_of_accidental_zeros():
    net, x = network(), dense.vectors(12)[0]
    with torch.no_grad():
        net[0].weight[0].zero_()
    units = Weights().of(net, x, None, ())
    assert units.counts().prunable == 40 + 80 + 24
    keep = torch.ones(144, dtype=torch.bool)
    keep[40:50] = False
    units.keep_only(keep)
    assert units.counts().prunable == 134
    assert units.counts().params == 144 + 21 - 10
    assert units.widths() == [("0", 40), ("2", 70), ("4", 24)]


def test_biases_and_norms_are_not_prunable():
    units = Weights().of(dense.conv_norm_net(), dense.images()[0], None, ())
    assert units.names == ("conv1.weight", "conv2.weight", "head.weight")


def test_a_tied_weight_is_one():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    units = Weights().of(nn.Sequential(first, nn.ReLU(), second), torch.zeros(1, 4), None, ())
    assert len(units.keep) == 16
    keep = torch.rand(16) < 0.5
    units.keep_only(keep)
    assert torch.equal(second.weight.reshape(-1) != 0, keep)


def test_what_is_ignored_is_neither_scored_nor_masked():
    net, x = network(), dense.vectors(12)[0]
    before = net[2].weight.clone()
    units = Weights().of(net, x, None, ("2",))
    assert units.names == ("0.weight", "4.weight")
    units.keep_only(torch.zeros(64, dtype=torch.bool))
    assert torch.equal(net[2].weight, before)


@pytest.mark.parametrize("units", [Weights(), Channels()])
def test_ignoring_what_is_not_there_is_an_error_that_names_the_nearest(units):
    with pytest.raises(EarlyCropError, match=r"conv3.*conv"):
        units.of(dense.conv_norm_net(), dense.images()[0], None, ("conv3",))


def test_a_model_without_weights_that_could_leave_is_refused():
    with pytest.raises(EarlyCropError, match="ReLU"):
        Weights().of(nn.ReLU(), torch.zeros(1, 4), None, ())


# Saving -----------------------------------------------------------------------------------------------------------


def test_masks_are_carried_over():
    net, x = network(), dense.vectors(12)[0]
    keep = keep_random(net)
    units = Weights().of(net, x, None, ())
    units.keep_only(keep)
    twin = network()
    other = Weights().of(twin, x, None, ())
    other.load_state_dict(units.state_dict())
    assert torch.equal(other.coordinates.values != 0, keep)


def test_a_state_from_before_the_cut_holds_nothing_yet():
    net, batch = network(), dense.vectors(12)
    optimizer = torch.optim.Adam(net.parameters())
    units = Weights().of(net, batch[0], optimizer, ())
    before, data = dense.everything(net, optimizer), [p.data_ptr() for p in net.parameters()]
    units.load_state_dict(units.state_dict())
    assert dense.everything(net, optimizer) == before  # no hook
    assert [p.data_ptr() for p in net.parameters()] == data


def test_masks_of_another_network_are_refused():
    x = dense.vectors(12)[0]
    state = Weights().of(network(), x, None, ()).state_dict()
    twin = dense.mlp(4, 9, 3)
    other = Weights().of(twin, x, None, ())
    before = dense.everything(twin)
    with pytest.raises(EarlyCropError, match="144"):
        other.load_state_dict(state)
    assert dense.everything(twin) == before


# Recurrent layers and embeddings ------------------------------------------------------------------------------


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.layer, self.head = nn.Embedding(9, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.layer(self.table(x))[0])


@pytest.mark.parametrize("embeddings", [False, True])
def test_weights_of_a_recurrent_layer_leave_and_stay_away(embeddings):
    torch.manual_seed(0)
    net, x = Reader().double(), torch.randint(9, (6, 7))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=0.01)
    units = Weights(embeddings=embeddings).of(net, x, optimizer, ())
    weights = ("table.weight",) * embeddings + ("layer.weight_ih_l0", "layer.weight_hh_l0", "head.weight")
    assert units.names == weights
    layers = ("table",) * embeddings + ("layer.weight_ih_l0", "layer.weight_hh_l0", "head")
    assert [layer for layer, _ in units.widths()] == list(layers)
    units.keep_only(torch.rand(len(units.keep), generator=torch.Generator().manual_seed(0)) < 0.4)
    masks = units.masks()
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        if name in masks:
            assert torch.equal(parameter != 0, masks[name])
        else:
            assert bool((parameter != 0).any(-1).all())
    parts = [mask for name, mask in masks.items()]
    assert [width for _, width in units.widths()] == [int(part.sum()) for part in parts]
    twin = copy.deepcopy(net)
    report = harvest(net, x)  # no zero of a recurrent layer is judged, and nothing is spoilt
    assert report.verification.exact
    torch.testing.assert_close(net(x), twin(x), atol=1e-12, rtol=0)
