"""A small network and a random mask for it."""

import torch
from torch import Tensor, nn

from tests import dense


def network() -> nn.Module:
    return dense.mlp(4, 10, 8, 3)


def keep_random(net: nn.Module, density: float = 0.4) -> Tensor:
    size = sum(net.get_parameter(name).numel() for name in dense.prunable(net))
    return torch.rand(size, generator=torch.Generator().manual_seed(5)) < density
