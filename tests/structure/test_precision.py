"""The proof in the precision that a model really uses: no false alarm, and every wrong cut is found."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from earlycrop.structure import trace, verify
from tests.loops import half
from tests.structure.cuts import random_keep
from tests.structure.test_verify import swapped_labels

IMAGES, ROWS = torch.rand(2, 3, 12, 12), torch.randn(2, 10)


class Normalises(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.d, self.o = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Linear(24, 4)

    def forward(self, x):
        mean, deviation = (torch.tensor(t).view(1, 3, 1, 1) for t in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return self.o(F.relu(self.d(F.relu(self.c((x - mean) / deviation)))).mean((2, 3)))


class Rows(nn.Module):
    """Two hidden layers; the relatives differ in what happens between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def between(self, h):
        return h

    def forward(self, x):
        return self.o(F.relu(self.b(self.between(F.relu(self.a(x))))))


class Epsilons(Rows):
    """An epsilon that is large in float32."""

    def between(self, h):
        return h * (1 + torch.finfo(h.dtype).eps ** 0.5)


class Table(Rows):
    def __init__(self):
        super().__init__()
        self.table = torch.randn(4, 4)

    def forward(self, x):
        return super().forward(x) @ self.table


class Branches(Rows):
    def between(self, h):
        return h * 0.3 if h.dtype == torch.float32 else h


class Factor(Rows):
    def between(self, h):
        return h * torch.tensor(0.3, dtype=h.dtype)


ROUNDED = [(Normalises, IMAGES), (Epsilons, ROWS), (Table, ROWS), (Branches, ROWS), (Factor, ROWS)]


@pytest.mark.parametrize(("kind", "inputs"), ROUNDED)
def test_what_differs_in_float64_is_compared_as_it_is(kind, inputs):
    report = half(kind(), inputs).report
    assert report.verification.precision == "float32"
    assert report.verification.tolerance == pytest.approx(torch.finfo(torch.float32).eps ** 0.5)
    assert "(float32)" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_tolerance_follows_the_precision(dtype):
    found = half(Factor().to(dtype), ROWS.to(dtype)).report.verification
    assert f"torch.{found.precision}" == str(dtype)
    assert found.tolerance == pytest.approx(torch.finfo(dtype).eps ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float64_wherever_it_can_be_had(dtype):
    assert half(Rows().to(dtype), ROWS.to(dtype)).report.verification.precision == "float64"


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize(("kind", "inputs"), ROUNDED)
def test_a_wrong_cut_is_found(kind, inputs, scale):
    model = kind().eval()
    name = next(name for name, _ in model.named_modules() if name in ("b", "d"))
    with torch.no_grad():  # what the wrong channels change is small beside the bias of the outputs
        model.o.weight.mul_(scale)
        model.o.bias.fill_(1.0)
    structure = trace(model, inputs)
    keep = torch.ones(len(structure), dtype=torch.bool)
    keep[structure.tensors[f"{name}.weight"].classes[1][0]] = False
    assert verify(structure, model, inputs, keep).exact
    wrong = verify(swapped_labels(structure, f"{name}.weight", 1), model, inputs, keep)
    assert not wrong.exact


class Hidden(Rows):
    """Reads a weight where no graph shows it."""

    def between(self, h):
        return (
            h * torch.tensor(0.3) + float(self.a.weight.detach().abs().sum())
            if not torch.compiler.is_compiling()
            else h
        )


def test_what_no_graph_shows_is_found_in_the_models_own_precision():
    model = Hidden().eval()
    structure = trace(model, ROWS)
    assert not verify(structure, model, ROWS, random_keep(structure, model)).exact


class Off(Rows):
    def between(self, h):
        with torch.autocast(h.device.type, enabled=False):
            return F.relu(self.b(h.float()))


class On(Rows):
    def between(self, h):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.relu(self.b(h)).float()


class Decorated(Rows):
    @torch.autocast("cpu", enabled=False)
    def between(self, h):
        return F.relu(self.b(h))


class OnAndOff(Rows):
    def between(self, h):
        with torch.amp.autocast("cpu"):
            h = F.relu(self.b(h))
            with torch.amp.autocast(h.device.type, enabled=False):
                return self.b(h.float())


@pytest.mark.parametrize("kind", [Off, On, Decorated, OnAndOff])
def test_regions_of_autocast_are_looked_through(kind):
    pruner = half(kind(), ROWS)
    assert not pruner.units.frozen
    assert pruner.report.verification.precision == "float64"
    with torch.autocast("cpu"):
        assert torch.is_autocast_enabled("cpu")  # PyTorch's own is as it was


def test_a_trace_within_a_region_is_that_without():
    with torch.autocast("cpu"):
        inside = trace(On(), ROWS)
    assert len(inside) == len(trace(On(), ROWS))


class Needed(Rows):
    """Weights in bfloat16 that meet float32 inputs: without the region it does not run."""

    def __init__(self):
        super().__init__()
        self.b.to(torch.bfloat16)

    def between(self, h):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.linear(h, self.b.weight).float()

    def forward(self, x):
        return self.o(F.relu(self.between(F.relu(self.a(x)))))


def test_a_region_that_is_needed_stays():
    model = Needed()
    structure = trace(model, ROWS)
    assert verify(structure, model, ROWS, random_keep(structure, model)).exact


@pytest.mark.parametrize("names", [("block1-0", "block1-1"), ("a b", "1"), ("größe", "class"), ("x/y", "p[0]")])
def test_any_text_is_the_name_of_a_module(names):
    model = nn.Sequential()
    model.add_module(names[0], nn.Linear(10, 32))
    model.add_module("act", nn.ReLU())
    model.add_module(names[1], nn.Linear(32, 4))
    assert half(model, ROWS).report.after.nodes < 32
