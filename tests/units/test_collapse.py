"""Masks that cut off a layer or every path: it is reported, and looking for it changes nothing."""

import torch
from torch import nn

from earlycrop.units import Weights
from tests import dense
from tests.pruners import make_pruner
from tests.units.masks import network


def test_an_empty_layer_is_reported():
    net, x = network(), dense.vectors(12)[0]
    units = Weights().of(net, x, None, ())
    assert units.collapsed() == []
    keep = torch.ones(144, dtype=torch.bool)
    keep[40:120] = False
    units.keep_only(keep)
    assert units.collapsed() == ["2 keeps no weight", "the output no longer depends on the input"]


def test_a_broken_path_is_reported_even_if_no_layer_is_empty():
    net, x = network(), dense.vectors(12)[0]
    units = Weights().of(net, x, None, ())
    keep = torch.ones(144, dtype=torch.bool)
    keep[40:120] = False
    keep[40] = True  # hidden unit 0 to hidden unit 0 ...
    keep[120:] = False
    keep[121] = True  # ... and from hidden unit 1 on
    units.keep_only(keep)
    assert units.collapsed() == ["the output no longer depends on the input"]


def test_looking_for_collapse_leaves_the_model_alone():
    net, batch = dense.conv_norm_net(), dense.images()
    net.train()
    net.norm2.eval()
    units = Weights().of(net, batch[0], None, ())
    before = dense.everything(net)
    assert units.collapsed() == []
    assert dense.everything(net) == before


class Restive(nn.Module):
    """Counts its calls in a buffer, makes another anew, and adds noise whatever its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3).double())

    def forward(self, x):
        self.calls += 1
        self.last = self.layer(x)[0].detach() + self.last
        return self.layer(x) + torch.randn(3) + self.last


def test_looking_for_collapse_leaves_counts_and_chance_alone_and_is_not_deceived_by_them():
    net = Restive()
    units = Weights().of(net, dense.vectors()[0], None, ())
    before = dense.everything(net)
    assert units.collapsed() == []
    assert dense.everything(net) == before
    units.keep_only(torch.zeros(12, dtype=torch.bool))
    assert units.collapsed() == ["layer keeps no weight", "the output no longer depends on the input"]


def test_a_model_that_takes_more_than_the_example_inputs_can_lose_weights():
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.table, self.head = nn.Linear(4, 5), nn.Embedding(9, 5), nn.Linear(5, 9)

        def forward(self, features, decoder_input_ids=None):
            if decoder_input_ids is None:
                raise ValueError("You have to specify decoder_input_ids")
            return self.head(self.encoder(features) + self.table(decoder_input_ids))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(*batch), batch[1])

    net, batch = Translator(), (torch.randn(6, 4), torch.randint(9, (6,)))
    report = make_pruner(net, "snip", 0.9, example_inputs=batch[0], loss=loss, batches=[batch]).check(0)
    assert report.after.prunable == 65 - round(0.9 * 65)
    assert report.collapsed == ()
