"""What a method asks of training between two checks, done to the model: frozen layers, a penalty, gated norms."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from earlycrop.structure import layers_of
from earlycrop.structure.gated_norms import gate_norms, norm_scales, plain_norms
from earlycrop.timing import Regime


class Regimes:
    """The regime that a model is in.

    Args:
        model: The network.
        copies: Averages of it: their norms are gated with its own, for what is averaged must mean the same.
    """

    def __init__(self, model: nn.Module, copies: Sequence[nn.Module] = ()) -> None:
        self.model, self.copies, self.now = model, copies, Regime()
        self._frozen: list[Tensor] = []
        self._handles: list[Any] = []

    def enter(self, regime: Regime, anew: bool = False) -> None:
        """From now on train like this.

        Args:
            regime: The regime.
            anew: The model's tensors are others than they were (it was cut, or made anew).
        """
        if regime == self.now and not anew:
            return
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for handle in self._handles:
            handle.remove()
        for network in (self.model, *self.copies):
            (gate_norms if regime.gated else plain_norms)(network)
        layers = [self.model.get_submodule(layer.name) for layer in layers_of(self.model)] if regime.frozen else []
        still = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
        self._frozen = [parameter.requires_grad_(False) for parameter in still if parameter.requires_grad]
        scales = [self.model.get_parameter(name) for name in norm_scales(self.model)] if regime.penalty else []
        self._handles = [
            scale.register_post_accumulate_grad_hook(_pull(regime.penalty)) for scale in scales if scale.requires_grad
        ]
        self.now = regime


def _pull(strength: float) -> Any:
    """The gradient of λ|γ|, added once a backward pass."""

    def hook(scale: Tensor) -> None:
        assert scale.grad is not None
        scale.grad.add_(scale.detach().sign(), alpha=strength)

    return hook
