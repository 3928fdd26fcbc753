"""1×1 convolutions with a stride and few channels: the same numbers, and no step that never ends."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from earlycrop.structure import cut, trace, verify
from earlycrop.structure.strided import SubsampledConv2d, subsample
from earlycrop_lab.models import build


@pytest.mark.parametrize("stride", [2, 3, (2, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_computes_what_the_layer_did(stride, groups, layout):
    layer = nn.Conv2d(4, 6, 1, stride, groups=groups).double()
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    wanted = layer(x)
    direction = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, [x, *layer.parameters()], direction)
    subsample(layer)
    assert type(layer) is SubsampledConv2d
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(found, [x, *layer.parameters()], direction), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 3, 1, 2),
        nn.Conv2d(3, 3, 1),
        nn.Conv2d(3, 3, 3, 2),
        nn.Conv2d(3, 3, 1, 2, padding=1),
        nn.Conv2d(3, 3, 1, 2, padding=1, padding_mode="circular"),
    ],
)
def test_all_other_layers_stay_what_they_are(layer):
    subsample(layer)
    assert type(layer) is nn.Conv2d


def test_a_cut_changes_the_layers_that_it_makes_narrow_and_they_can_be_traced_and_cut_again():
    net, x = build("resnet18", classes=10, size=16, width=8, seed=0).double(), torch.randn(2, 3, 16, 16).double()
    structure = trace(net, x)
    keep = torch.ones(len(structure), dtype=torch.bool)
    for name in ("layer1.0.conv2.weight", "layer2.0.conv2.weight"):
        keep[structure.tensors[name].classes[0][5:]] = False
    assert verify(structure, net, x, keep).exact
    cut(structure, net, keep, None)
    kinds = [type(net.get_submodule(f"layer{stage}.0.downsample.0")) for stage in (2, 3, 4)]
    assert kinds == [SubsampledConv2d, SubsampledConv2d, nn.Conv2d]
    again = trace(net, x)
    assert len(again) == int(keep.sum())
    less = torch.ones(len(again), dtype=torch.bool)
    less[again.tensors["layer2.0.conv2.weight"].classes[0][1:]] = False
    assert verify(again, net, x, less).exact


STEPS = """
import sys, torch
from torch import nn
from earlycrop.structure.strided import subsample
torch.set_num_threads(2)
for inside in range(1, 9):
    for outside in (1, 3, 5, 8, 16):
        layer = nn.Sequential(nn.Conv2d(inside, outside, 1, 2, bias=False)).to(memory_format=torch.channels_last)
        subsample(layer)
        x = torch.randn(32, inside, 32, 32).to(memory_format=torch.channels_last)
        for _ in range(40):
            layer(x).square().mean().backward()
print("done")
"""


@pytest.mark.timeout(150)
def test_no_width_hangs_in_channels_last_with_two_threads():
    """Without the other way round, 2→8, 3→3, 4→5 and 5→5 channels never returned from a step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", STEPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "done\n"
