"""How outputs are compared: complex ones and integers, masks and infinities, and outputs of different sizes."""

import pytest
import torch
from torch import Tensor, nn

from earlycrop import Pruner, VerificationError, harvest
from earlycrop.structure import Kind, Zero, pointwise, rule, trace, verify
from earlycrop.structure.distance import distance, leaves
from tests.loops import half
from tests.structure.cuts import random_keep


@torch.library.custom_op("distance::flip", mutates_args=())
def flip(x: Tensor) -> Tensor:
    return x.flip(-1)


@flip.register_fake
def _(x):
    return torch.empty_like(x)


rule("distance::flip", kind=Kind.ENTRYWISE, zero=Zero.FIRST)(pointwise)  # wrong: it mixes up channels

OUTPUTS = {
    "real": lambda y: y,
    "complex": lambda y: torch.complex(y[:, :3], y[:, 3:]),
    "integers": lambda y: y.argmax(1),
    "truth values": lambda y: (y > 0).flatten(),
    "−∞": lambda y: y.masked_fill(torch.eye(8)[:, :6] > 0, -torch.inf),
    "−1e9": lambda y: 1e-5 * y.masked_fill(torch.arange(48).view(8, 6) % 5 > 0, -1e9),
    "added −1e9": lambda y: y - 1e9 * (torch.arange(48).view(8, 6) % 2),
    "nan": lambda y: y.masked_fill(torch.eye(8)[:, :6] > 0, torch.nan),
    "a small one beside a large one": lambda y: (1e-9 * y, torch.full((3,), 1e9) + 0 * y.sum()),
}


class Net(nn.Module):
    def __init__(self, outputs, wrong=False):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.outputs, self.wrong = nn.Linear(4, 16), nn.Linear(16, 6), outputs, wrong

    def forward(self, x):
        h = self.a(x).relu()
        return self.outputs(self.b(torch.ops.distance.flip(h) if self.wrong else h))


ROWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_a_right_cut_is_exact_and_a_wrong_one_is_found(outputs):
    assert half(Net(outputs), ROWS).report.unverified is None
    with pytest.raises(VerificationError):
        Pruner(Net(outputs, wrong=True), "random-s", 0.5, example_inputs=ROWS).check(0)


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_harvests_with_such_outputs_are_exact(outputs):
    model = Net(outputs)
    with torch.no_grad():
        model.a.weight[:5] = 0
        model.a.bias[:5] = 0
    report = harvest(model, ROWS)
    assert report.channels == 5
    assert report.verification.exact


def test_complex_layers_are_compared_in_double_precision():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 16, dtype=torch.cfloat), nn.Linear(16, 3, dtype=torch.cfloat)

        def forward(self, x):
            h = self.a(x.to(torch.cfloat))
            return self.b(torch.complex(h.real.relu(), h.imag.relu()))

    model = Complex()
    structure = trace(model, ROWS)
    found = verify(structure, model, ROWS, random_keep(structure, model))
    assert found.exact
    assert found.precision == "float64"


@pytest.mark.parametrize("outputs", [lambda y: y[:0], lambda y: ()])
def test_where_nothing_is_compared_nothing_is_verified(outputs):
    pruner = Pruner(Net(outputs), "random-s", 0.5, example_inputs=ROWS)
    report = pruner.check(0)
    assert report.verification is None
    assert "nothing was compared" in report.unverified
    assert "UNVERIFIED" in str(report)


def test_a_harvest_that_nothing_can_verify_is_refused():
    model = Net(lambda y: y[:0])
    with torch.no_grad():
        model.a.weight[:5] = 0
        model.a.bias[:5] = 0
    with pytest.raises(VerificationError, match="nothing was compared"):
        harvest(model, ROWS)
    assert model.a.out_features == 16


def test_outputs_without_a_finite_entry_prove_nothing():
    with pytest.raises(VerificationError, match="no entry of the outputs is finite"):
        Pruner(Net(lambda y: y * torch.inf), "random-s", 0.5, example_inputs=ROWS).check(0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 1.0], 1.0),
        ([4.0, 2.0], [4.0, 1.0], 0.25),
        ([-1e9, 2.0, 1.0], [-1e9, 1.0, 1.0], 1.0),  # of the largest entry that is none of a mask
        ([-1e9 - 1, 1.0, 1.0, 1.0], [-1e9, 1.0, 1.0, 1.0], 1e-9),  # of itself
        ([torch.inf, 1.0], [torch.inf, 1.0], 0.0),
        ([torch.inf, 1.0], [-torch.inf, 1.0], torch.inf),
        ([torch.nan, 1.0], [1.0, 1.0], torch.inf),
        ([1.0, 1.0], [torch.nan, 1.0], torch.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-3, 0.0], [0.0, 0.0], 1e-3),
    ],
)
def test_distances_by_hand(a, b, expected):
    assert distance([torch.tensor(a, dtype=torch.float64)], [torch.tensor(b, dtype=torch.float64)]) == pytest.approx(
        expected
    )


def test_what_cancels_out_is_measured_by_the_other_outputs():
    ones, noise = torch.ones(4, dtype=torch.float64), torch.full((4,), 1e-17, dtype=torch.float64)
    assert distance([ones * (1 + 1e-16), -noise], [ones * (1 + 1e-15), noise]) < 1e-12
    small = torch.full((4,), 1e-6, dtype=torch.float64)
    assert distance([ones * (1 + 1e-15), 2 * small], [ones, small]) > 1e-5


def test_integers_count_only_where_there_is_nothing_else():
    outputs = {"logits": torch.ones(2), "class": torch.ones(2, dtype=torch.int64), "count": 3}
    assert [one.dtype for one in leaves(outputs)] == [torch.float32]
    assert [one.dtype for one in leaves(outputs["class"])] == [torch.int64]
    assert distance([torch.tensor([2**40, 1])], [torch.tensor([2**40 + 1, 1])]) == 1
