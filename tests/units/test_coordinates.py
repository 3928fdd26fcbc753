"""Gates over the whole zoo: each channel is scaled where it is created, and nowhere again."""

import copy

import pytest
import torch
from torch import nn

from earlycrop.structure import cut
from earlycrop.units import Channels
from tests import dense
from tests.cases import CASES

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
ZOO = [
    *("mlp_batch_norm", "mlp_residual", "chain_with_bias", "conv1d", "resnext", "densenet", "mobilenet", "unet"),
    *("depthwise_multiplier", "transposed", "squeeze_conv", "shared_block", "double_use", "grouped"),
]
WITHOUT_CARRIED_SHIFTS = [  # no norm behind a depthwise layer or a concatenation, whose shift would stay
    *("mlp_batch_norm", "mlp_residual", "conv3d", "resnet", "resnext", "unet", "transposed_groups", "inception"),
    *("shared_block", "grouped", "concat", "positions", "positions_sliced", "positions_fixed"),
]


def units_of(name: str, gate: str):
    net, inputs = dense.awake(CASES[name].build()).eval(), CASES[name].inputs()
    return net, inputs, Channels(gate).of(net, inputs, None, ())


def at_gates(net: nn.Module, inputs, units, c: torch.Tensor) -> torch.Tensor:
    """What the network computes with these gates."""
    coordinates = units.coordinates
    factors = [one + move for one, move in zip(coordinates.leaves(net), coordinates.push(net, c - 1), strict=True)]
    with torch.no_grad(), coordinates.placed(net, factors):
        return first(net(*inputs))


def first(outputs) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


QUICK = ("chain_with_bias", "resnext", "mobilenet", "transposed", "shared_block", "concat", "mlp_batch_norm")
QUICK += ("positions_sliced", "positions_fixed")


@pytest.mark.parametrize("name", dense.some_of(ZOO, [name for name in QUICK if name in ZOO]))
def test_a_gate_before_the_norm_multiplies_the_output_of_its_layers(name):
    net, inputs, units = units_of(name, "pre_norm")
    places = {}
    for path, module in net.named_modules():
        if isinstance(module, LAYERS):
            layout = units.structure.tensors[f"{path}.weight" if path else "weight"]
            dim = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
            weight = units.structure.names.get(f"{path}.weight", f"{path}.weight")
            if (weight, dim) in units.structure.creators and layout.classes[dim] is not None:
                found = layout.classes[dim]
                places[path] = torch.where(found < 0, len(units.keep), found)
    c = 0.5 + torch.rand(len(units.keep), dtype=torch.float64)
    with torch.no_grad():
        with dense.gated(net, places, torch.cat([c, torch.ones(1).double()])):
            expected = first(net(*inputs))
        before = first(net(*inputs))
    torch.testing.assert_close(at_gates(net, inputs, units, c), expected, atol=1e-10, rtol=1e-9)
    assert not torch.allclose(expected, before)


@pytest.mark.parametrize(
    "name", dense.some_of(WITHOUT_CARRIED_SHIFTS, [name for name in QUICK if name in WITHOUT_CARRIED_SHIFTS])
)
def test_closing_gates_is_cutting(name):
    """Behind the norm a closed gate takes scale and shift away, so nothing of the channel is left."""
    net, inputs, units = units_of(name, "post_norm")
    keep = torch.rand(len(units.keep)) < 0.6
    for space in units.structure.spaces().unique():
        keep[(units.structure.spaces() == space).nonzero()[0]] = True
    closed = at_gates(net, inputs, units, keep.double())
    smaller = copy.deepcopy(net)
    cut(units.structure, smaller, keep, None)
    with torch.no_grad():
        torch.testing.assert_close(closed, first(smaller(*inputs)), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("gate", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("name", ["mobilenet", "shared_block", "mlp_functional"])
def test_collecting_is_the_transpose_of_pushing(name, gate):
    net, _, units = units_of(name, gate)
    coordinates = units.coordinates
    v = torch.randn(len(units.keep), dtype=torch.float64)
    slopes = [[torch.randn_like(leaf) for leaf in coordinates.leaves(net)] for _ in range(2)]
    pushed = [sum((a * b).sum() for a, b in zip(coordinates.push(net, v), one, strict=True)) for one in slopes]
    collected = coordinates.collect(net, [(slopes[0], 0.25), (slopes[1], 0.75)])
    torch.testing.assert_close(0.25 * pushed[0] + 0.75 * pushed[1], v @ collected, atol=1e-10, rtol=1e-10)


def test_totals_by_hand():
    net = dense.mlp(4, 6, 3)
    units = Channels().of(net, dense.vectors()[0], None, ())
    ones = [torch.ones_like(p) for p in units.made_of.leaves(net)]
    assert units.made_of.total(ones).tolist() == [5] * 6
    weights = units.weights
    assert torch.equal(weights.values, torch.cat([net[0].weight.reshape(-1), net[2].weight.reshape(-1)]).detach())
