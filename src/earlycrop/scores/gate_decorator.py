"""Gates judged while they are trained: the sum over steps of what the loss feels of each (You et al., 2019)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

from earlycrop.evaluation import Evaluation
from earlycrop.scores.abstract import AbstractGatheredScore, AbstractGathering, Network, Vector
from earlycrop.scores.norm_scale import behind
from earlycrop.structure.gated_norms import GatedNorm


@dataclass(frozen=True)
class GateDecorator(AbstractGatheredScore):
    """Σ |φ ∂L/∂φ| over the steps since the last check and over the norms of a class of channels.

    φ multiplies what the norm returns, so that φ ∂L/∂φ is γ ∂L/∂γ + β ∂L/∂β where the norm is an ordinary one. Before
    any step it is |∂L/∂c| for gates c = 1, on the scoring set as one batch. Channels without a norm leave last; a
    network without any is refused.
    """

    needs_data: ClassVar[bool] = True
    needs_norms: ClassVar[bool] = True

    def gather(self, of: Network) -> "GateFlow":
        """Watch the norms' gradients from now on."""
        return GateFlow(of)

    def __call__(self, of: Network) -> Vector:
        """What was gathered, or the gates' slopes on the scoring set."""
        if of.gathered is None:
            return Evaluation(of.loss(), of.units).gradient().abs()
        return behind(of, of.gathered)


class GateFlow(AbstractGathering):
    """|φ ∂L/∂φ| of each norm, summed over backward passes."""

    def __init__(self, of: Network) -> None:
        self._of = of
        self._sums = [torch.zeros_like(scale) for scale in of.scales.leaves(of.model)]
        self._steps = 0
        self._handles: list[Any] = []
        for number, name in enumerate(of.scales.names):
            norm = of.model.get_submodule(name.rpartition(".")[0])
            self._watch(number, norm)

    @property
    def total(self) -> Vector | None:
        """Per class the sum over its norms; None before any step."""
        return self._of.scales.total(self._sums) if self._steps else None

    def reset(self) -> None:
        """Begin anew."""
        self._steps = 0
        for total in self._sums:
            total.zero_()

    def close(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"steps": self._steps, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from those."""
        self._steps = state["steps"]
        for total, value in zip(self._sums, state["sums"], strict=True):
            total.copy_(value)

    def _watch(self, number: int, norm: nn.Module) -> None:
        scale, shift = norm._parameters["weight"], norm._parameters.get("bias")
        assert scale is not None
        parts = [scale] if shift is None else [scale, shift]

        def add(gradients: Any) -> None:
            flow = torch.zeros_like(scale)
            for part, slope in list(zip(parts, gradients, strict=True))[: 1 if isinstance(norm, GatedNorm) else None]:
                if slope is not None:
                    flow += part.detach() * slope
            self._sums[number] += flow.abs()
            self._steps += 1

        self._handles.append(register_multi_grad_hook(parts, add))
