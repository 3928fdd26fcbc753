"""The reference of the proof where closed channels are divided by: it is finite, and hides nothing."""

import pytest
import torch
from torch import Tensor, nn

from earlycrop import harvest
from earlycrop.structure import Kind, Zero, pointwise, rule, trace, verify
from tests.loops import half
from tests.structure.cuts import random_keep
from tests.structure.test_verify import swapped_labels

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Between(nn.Module):
    """Two convolutions, and what happens between them."""

    def __init__(self, between, buffers=False):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.between = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3), between
        for name in "smvw":
            tensor = torch.rand(16, 1, 1) + 0.5
            if buffers:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


DIVISORS = {
    "quotient": lambda m, h: (h / m.s).relu(),
    "norm by hand": lambda m, h: (h - m.m) / (m.v + 1e-5).sqrt() * m.w,
    "exponential": lambda m, h: h / m.s.exp(),
    "snake": lambda m, h: h + torch.sin(h * m.s) ** 2 / (m.s + 1e-9),
    "in place": lambda m, h: (h * 1).div_(m.s),
    "logarithm": lambda m, h: h / m.s.log(),
    "addcdiv": lambda m, h: torch.addcdiv(h, h, m.s),
    "remainder": lambda m, h: torch.fmod(h, m.s),
}
STATISTICS = {
    "deviation": lambda m, h: h / h.std((2, 3), keepdim=True),
    "largest": lambda m, h: h / h.abs().amax((2, 3), keepdim=True),
    "length": lambda m, h: h / h.norm(dim=(2, 3), keepdim=True),
    "logarithm": lambda m, h: h.abs().log(),
    "reciprocal": lambda m, h: h.reciprocal(),
    "then a mean": lambda m, h: h + (h / h.std((2, 3), keepdim=True)).mean((2, 3), keepdim=True),
    "in place": lambda m, h: (h * 1).div_(h.std((2, 3), keepdim=True)),
    "through a view": lambda m, h: _divided_in_part(h * 1),
}


def _divided_in_part(h):
    h[:, :, 1:].div_(h.std((2, 3), keepdim=True))
    return h


@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.parametrize("between", DIVISORS.values(), ids=DIVISORS)
def test_channels_that_a_parameter_divides(between, buffers):
    model = half(Between(between, buffers), IMAGES).model
    assert model.a.out_channels < 16


@pytest.mark.parametrize("between", STATISTICS.values(), ids=STATISTICS)
def test_channels_that_are_divided_by_their_own_statistic(between):
    model = half(Between(between), IMAGES).model
    assert model.a.out_channels < 16


@pytest.mark.parametrize("between", DIVISORS.values(), ids=DIVISORS)
def test_harvest_of_channels_that_a_parameter_divides(between):
    model = Between(between)
    with torch.no_grad():
        for tensor in (model.a.weight, model.a.bias, model.m):
            tensor[:5] = 0
    report = harvest(model, IMAGES)
    assert report.verification.exact


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("quotient", "s"), ("quotient", "a.bias"), ("quotient", "b.weight"), ("norm by hand", "v"), ("exponential", "s")],
)
def test_a_wrong_label_beside_a_division_is_found(name, tensor):
    model = Between(DIVISORS[name]).eval()
    structure = trace(model, IMAGES)
    dim = 1 if tensor == "b.weight" else 0
    classes = structure.tensors[tensor].classes[dim]
    keep = torch.ones(len(structure), dtype=torch.bool)
    keep[classes[classes >= 0][0]] = False
    assert verify(structure, model, IMAGES, keep).exact
    assert not verify(swapped_labels(structure, tensor, dim), model, IMAGES, keep).exact


@torch.library.custom_op("closing::cosine", mutates_args=())
def cosine(x: Tensor) -> Tensor:
    return x.cos()


@cosine.register_fake
def _(x):
    return torch.empty_like(x)


rule("closing::cosine", kind=Kind.ENTRYWISE, zero=Zero.FIRST)(pointwise)  # wrong: the cosine of zero is one


class Summed(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.a, self.s, self.between = nn.Linear(4, 16), nn.Parameter(torch.rand(16) + 0.5), between
        self.t = nn.Parameter(torch.rand(16))

    def forward(self, x):
        h = self.between(self, torch.ops.closing.cosine(self.a(x)))
        return (h * torch.ops.closing.cosine(self.a(x))).sum(1, keepdim=True)


@pytest.mark.parametrize("between", [lambda m, h: h / m.s, lambda m, h: h, lambda m, h: torch.xlogy(h, m.s)])
def test_what_a_closed_divisor_would_hide_is_found(between):
    """A divisor of zero would make everything infinite, and an infinity in a closed channel counts as zero."""
    model, x = Summed(between), torch.randn(8, 4)
    structure = trace(model, x)
    assert len(structure)
    assert not verify(structure, model, x, random_keep(structure, model)).exact
