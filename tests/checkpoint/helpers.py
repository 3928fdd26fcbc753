"""What the tests of saving and loading have in common."""

from pathlib import Path

import pytest
from torch import nn

from earlycrop import CheckpointError, Pruner, load, save
from tests import dense


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
