"""Gates judged while they are trained: the sum over steps of the loss's sensitivity to each (You et al., 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import Evaluation
from earlycrop.scores.abstract import AbstractGathering, AbstractNetworkScore, Network
from earlycrop.scores.norm_scale import behind
from earlycrop.structure.gated_norms import GatedNorm
from earlycrop.vector import Vector


@dataclass(frozen=True)
class GateDecorator(AbstractNetworkScore):
    """Σ |φ ∂L/∂φ| over the steps since the last check and the norms of a class of channels (You et al., 2019).

    φ multiplies what the norm returns, so for an ordinary norm φ ∂L/∂φ is γ ∂L/∂γ + β ∂L/∂β. Before any training step
    the score is |∂L/∂c| for gates c = 1, on the scoring set as one batch. Channels without a norm leave last; a network
    without norms is refused.
    """

    needs_data: ClassVar[bool] = True
    needs_gates: ClassVar[bool] = True
    needs_norms: ClassVar[bool] = True
    channels_only: ClassVar[bool] = True

    def gather(self, of: Network) -> "GateFlow":
        """Watch the norms' gradients from now on."""
        return GateFlow(of)

    def __call__(self, of: Network) -> Vector:
        """What was gathered from training, or |∂L/∂c| on the scoring set if there was no step yet."""
        if of.gathered is None:
            return Evaluation(of.loss(), of.coordinates).gradient().abs()
        return behind(of, of.gathered)


class GateFlow(AbstractGathering):
    """|φ ∂L/∂φ| of each norm, summed over backward passes.

    Args:
        of: The network, whose norms are watched.

    Raises:
        EarlyCropError: a norm is frozen, so that training has no gradients to judge it by.
    """

    def __init__(self, of: Network) -> None:
        self._of = of
        self._norms = [of.model.get_submodule(name.rpartition(".")[0]) for name in of.scales.names]
        self._sums = [torch.zeros_like(scale) for scale in of.scales.leaves(of.model)]
        self._steps = 0
        self._now: dict[int, tuple[int, Tensor]] = {}  # by norm: the last backward pass, and φ ∂L/∂φ in it
        self._check()
        self._handles = [
            part.register_hook(partial(self._feel, number, part))
            for number, norm in enumerate(self._norms)
            for part in _parts(norm).values()
        ]

    @property
    def total(self) -> Vector | None:
        """For each class the sum over its norms; None before any step."""
        self._check()
        self._settle()
        return self._of.scales.total(self._sums) if self._steps else None

    def reset(self) -> None:
        """Forget what was seen and start over."""
        self._steps = 0
        self._now.clear()
        for total in self._sums:
            total.zero_()

    def close(self) -> None:
        """Stop watching and remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """The sums so far, and over how many backward passes."""
        self._settle()
        return {"steps": self._steps, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the sums that `state_dict` returned."""
        self._steps = state["steps"]
        for total, value in zip(self._sums, state["sums"], strict=True):
            total.copy_(value)

    def _feel(self, number: int, part: Tensor, slope: Tensor) -> None:
        """Add a parameter's contribution to its norm's φ ∂L/∂φ in the present backward pass."""
        norm = self._norms[number]
        if isinstance(norm, GatedNorm) and part is not norm.weight:
            return
        # this number tells backward passes apart, as in PyTorch's own hook for several tensors; that hook is not used
        # because it is tied to nodes of the graph, which `rebind` and moving the model replace
        now, flow = torch._C._current_graph_task_id(), part.detach() * slope.detach()
        if number in self._now and self._now[number][0] != now:
            self._add(number)
        if number in self._now:
            flow += self._now[number][1]
        self._now[number] = now, flow

    def _settle(self) -> None:
        """Add the last backward pass to the sums: it is over."""
        for number in list(self._now):
            self._add(number)

    def _add(self, number: int) -> None:
        _, flow = self._now.pop(number)
        self._sums[number] = self._sums[number].to(flow) + flow.abs()
        self._steps += 1

    def _check(self) -> None:
        frozen = [
            f"{name.rpartition('.')[0]}.{attribute}"
            for name, norm in zip(self._of.scales.names, self._norms, strict=True)
            for attribute, part in _parts(norm).items()
            if not part.requires_grad
        ]
        if frozen:
            raise EarlyCropError(
                f"GateDecorator judges norms by their gradients in training, but {len(frozen)} of their parameters are "
                f"frozen, `{frozen[0]}` first. Unfreeze them with `requires_grad_(True)`, keep their channels whole "
                f"with `ignore=`, or use a method that does not watch training."
            )


def _parts(norm: nn.Module) -> dict[str, Tensor]:
    """A norm's scale and shift, as far as it has them."""
    return {name: part for name in ("weight", "bias") if (part := norm._parameters.get(name)) is not None}
