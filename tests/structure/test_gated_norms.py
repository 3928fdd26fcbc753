"""Norms with one number that opens and closes a channel compute what they did."""

import pytest
import torch
from torch import nn

from earlycrop.structure.gated_norms import GatedNorm, gate_norms, norm_scales, plain_norms

NORMS = {
    "1d": (nn.BatchNorm1d, (6, 5)),
    "2d": (nn.BatchNorm2d, (6, 5, 4, 3)),
    "3d": (nn.BatchNorm3d, (6, 5, 2, 3, 2)),
}


def norm_and_input(kind):
    make, shape = NORMS[kind]
    torch.manual_seed(0)
    norm = make(5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.5, 2.0, 0.3, -0.7]))
        norm.bias.copy_(torch.tensor([0.1, 2.0, -3.0, 0.0, -0.4]))
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_outputs_slopes_and_statistics_are_the_same(kind, training):
    plain, x = norm_and_input(kind)
    gated, _ = norm_and_input(kind)
    gate_norms(gated)
    assert isinstance(gated, GatedNorm)
    assert isinstance(gated, NORMS[kind][0])
    results = []
    for norm in (plain.train(training), gated.train(training)):
        y = norm(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(norm.parameters()))))
    (y, g_scale, g_shift), (again, g_phi, g_ratio) = results
    scale, shift = plain.weight.detach(), plain.bias.detach()
    torch.testing.assert_close(again, y, atol=1e-12, rtol=0)
    # φ (x̂ + β'): ∂/∂φ = ∂γ + β' ∂β and ∂/∂β' = φ ∂β
    torch.testing.assert_close(g_phi, g_scale + shift / scale * g_shift, atol=1e-11, rtol=0)
    torch.testing.assert_close(g_ratio, scale * g_shift, atol=1e-11, rtol=0)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(gated, name), getattr(plain, name))


def test_there_and_back():
    norm, x = norm_and_input("2d")
    norm.eval()
    before, weight = norm(x), norm.weight
    gate_norms(norm)
    plain_norms(norm)
    assert type(norm) is nn.BatchNorm2d
    assert norm.weight is weight
    torch.testing.assert_close(norm(x), before, atol=1e-14, rtol=0)
    plain_norms(norm)  # nothing to do
    torch.testing.assert_close(norm(x), before, atol=1e-14, rtol=0)


def test_a_gate_of_zero_closes_its_channel():
    norm, x = norm_and_input("2d")
    gate_norms(norm)
    with torch.no_grad():
        norm.weight[1] = 0
    assert not norm(x)[:, 1].any()


def test_shifts_beyond_ten_scales_are_cut():
    norm, _ = norm_and_input("1d")
    with torch.no_grad():
        norm.weight[:3] = torch.tensor([0.01, -0.01, 0.0])
        norm.bias[:3] = torch.tensor([1.0, 1.0, 0.0])
    gate_norms(norm)
    assert norm.bias[:3].tolist() == [10, -10, 0]


def test_others_stay_as_they_are():
    net = nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4))
    kinds = [type(module) for module in net]
    gate_norms(net)
    assert [type(module) for module in net] == kinds
    assert norm_scales(net) == ["0.weight", "2.weight"]
