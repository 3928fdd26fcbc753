"""Gates found in a network or placed by hand, held against gates written out: g_c and H_c g_c in float64."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earlycrop.evaluation import Evaluation, MeanLoss
from earlycrop.structure import Gate, Structure
from earlycrop.units import Channels, GateCoordinates
from tests import dense


def at_gates(net: nn.Module, batch, gate: str = "post_norm") -> tuple[Evaluation, Structure]:
    units = Channels(gate).of(net, batch[0], None, ())
    return Evaluation(
        MeanLoss(net, dense.cross_entropy, [batch], "running", micro_batch=2), units.coordinates
    ), units.structure


def by_hand(net: nn.Module, batch, *gates: Gate, count: int) -> Evaluation:
    coordinates = GateCoordinates(gates, count, torch.zeros(1, dtype=torch.float64))
    return Evaluation(MeanLoss(net, dense.cross_entropy, [batch], "running", micro_batch=2), coordinates)


def agrees(at: Evaluation, batch, logits: Callable[[Tensor], Tensor]) -> None:
    """Gradient and product are those of a network in which the gates are written out."""

    def loss(c: Tensor) -> Tensor:
        return F.cross_entropy(logits(c), batch[1])

    ones = torch.ones(len(at.values), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(loss, ones)
    hessian = torch.autograd.functional.hessian(loss, ones)
    assert gradient.abs().min() > 0
    torch.testing.assert_close(at.gradient(), gradient, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(at.hessian_gradient(), hessian @ gradient, atol=1e-12, rtol=1e-9)


def places(gates: tuple[Gate, ...]) -> list[tuple[str, str]]:
    return [(gate.where, gate.side) for gate in gates]


class Functional(nn.Module):
    """Layers whose parameters are the network's own; the second weight is (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.w2 = nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.tanh(F.linear(x, self.w1, self.b1)) @ self.w2))
