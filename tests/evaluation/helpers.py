"""What the tests of the loss at a vector have in common."""

import torch
from torch import Tensor, nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.units import Channels, Weights
from tests import dense


def at_weights(net: nn.Module, loss, batches, **options) -> Evaluation:
    units = Weights().of(net, example(batches), None, ())
    return Evaluation(MeanLoss(net, loss, batches, **options), units.coordinates)


def at_gates(net: nn.Module, loss, batches, gate: str = "post_norm", **options) -> Evaluation:
    units = Channels(gate).of(net, example(batches), None, ())
    at = Evaluation(MeanLoss(net, loss, batches, **options), units.coordinates)
    at.structure = units.structure  # which says what class each channel is in
    return at


def example(batches) -> Tensor:
    return batches[0][0]


def classes_of(at: Evaluation, layer: str) -> Tensor:
    return at.structure.tensors[f"{layer}.weight"].classes[0]


def cut(batch, *sizes):
    return list(zip(*(part.split(list(sizes)) for part in batch), strict=True))


def tagged(batches):
    """With a string in each batch, so that they cannot be joined and are worked through as given."""
    return [(x, y, "as given") for x, y in batches]


def untagged_loss(model, batch):
    return dense.cross_entropy(model, batch[:2])


class Noisy(nn.Module):
    """Dropout, a norm, a frozen part, a part in eval mode, and a buffer that counts forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def lived_in() -> nn.Module:
    net = Noisy().double()
    dense.cross_entropy(net, dense.images()).backward()
    net.head.bias.grad = None
    net.conv.weight.requires_grad_(False)
    net.train()
    net.norm.eval()
    return net
