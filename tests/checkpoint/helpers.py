"""What the tests of saving and loading have in common."""

import math
from pathlib import Path

import pytest
from torch import nn

from earlycrop import CheckpointError, Pruner, load, save
from tests import dense

STRANGE = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 5e-324, -5e-324, 1.0, 1e-45, 1e38]
"""Numbers that a careless way of storing them would change."""


def state(net: nn.Module):
    return {name: dense.bits(tensor) for name, tensor in net.state_dict().items()}


def attributes(net: nn.Module):
    return {name: {k: v for k, v in vars(m).items() if isinstance(v, int | tuple)} for name, m in net.named_modules()}


def there_and_back(net: nn.Module, anew: nn.Module, path: Path) -> None:
    size = save(net, path)
    assert size == path.stat().st_size
    objects = [id(t) for t in (*anew.parameters(), *anew.buffers())]
    load(anew, path)
    assert [id(t) for t in (*anew.parameters(), *anew.buffers())] == objects
    assert state(anew) == state(net)
    assert attributes(anew) == attributes(net)


def refused(path: Path, message: str | None = None, net: nn.Module | None = None) -> None:
    net = net if net is not None else masked()
    before = dense.everything(net)
    with pytest.raises(CheckpointError, match=message):
        load(net, path)
    assert dense.everything(net) == before


def masked() -> nn.Module:
    net = dense.residual_net().float()
    Pruner(net, "magnitude-u", 0.7, example_inputs=dense.images()[0].float()).check(0)
    return net


def tied(net: nn.Module) -> nn.Module:
    net.conv2.weight = net.conv1.weight
    return net.float()
