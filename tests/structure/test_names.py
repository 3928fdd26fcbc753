"""Any text without a dot may be the name of a module, a parameter or a buffer."""

import pytest
import torch
from torch import nn

from earlycrop.structure import cut, trace
from earlycrop.structure.trace import Call, _shadow, _traced
from tests.cases import CASES
from tests.oracles import disagreement, make_unique
from tests.structure.cuts import random_keep

NAMES = [
    ("a-b", "a_b", "a b", "a+b"),  # the same once they are made identifiers
    ("block-1", "block_1", "block-1_scale", "block_1-scale"),
    ("class", "lambda", "None", "self"),
    ("args", "kwargs", "p_args", "b_input_0"),
    ("größe", "über-1", "π", "🙂"),
    ("1", "-", "%s", "{}"),
]
INPUTS = (torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)


class Named(nn.Module):
    """A layer and its norm, a scale and a buffer, under any names."""

    def __init__(self, names):
        super().__init__()
        self.called = names
        layer, norm, scale, buffer = names
        self.add_module(layer, nn.Linear(10, 8))
        self.add_module(norm, nn.BatchNorm1d(8))
        self.register_parameter(scale, nn.Parameter(torch.ones(8)))
        self.register_buffer(buffer, torch.ones(8))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        layer, norm, scale, buffer = self.called
        x = self._modules[norm](self._modules[layer](x)).relu()
        return self.head(x * self._parameters[scale] * self._buffers[buffer])


@pytest.mark.parametrize("names", NAMES)
def test_a_network_with_odd_names_is_cut(names):
    model = make_unique(Named(names))
    structure = trace(model, INPUTS)
    assert len(structure) == 8
    smaller = make_unique(Named(names))
    cut(structure, smaller, random_keep(structure, smaller), None)
    assert max(disagreement(model, smaller, INPUTS, training) for training in (False, True)) <= 1e-9


@pytest.mark.parametrize("tracing", ["recorded", "exported", "exported with data"])
@pytest.mark.parametrize("names", NAMES)
def test_each_way_of_tracing_knows_them(names, tracing):
    model, call = Named(names), Call((INPUTS[0].float(),))
    program = _traced(tracing, _shadow(tracing, model, call), call, [])
    found = {spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    assert found == {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}


def test_a_residual_network_whose_blocks_are_numbered_with_hyphens():
    """As in torchvision's RegNet."""
    plain, inputs = CASES["resnet"].build(), CASES["resnet"].inputs()
    hyphened = CASES["resnet"].build()
    for module in hyphened.modules():
        for name in list(module._modules):
            if name.isdigit():
                module._modules[f"block-{name}"] = module._modules.pop(name)
    assert len(trace(hyphened.double(), inputs)) == len(trace(plain.double(), inputs))
