"""What a method asks of training between two checks, applied to the model: frozen layers, a penalty, gated norms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from earlycrop.structure import Layer, layers_of
from earlycrop.structure.gated_norms import gate_norms, norm_scales, plain_norms
from earlycrop.timing import Phase


class Phases:
    """The phase of training that a model is in.

    Args:
        model: The network.
        copies: Averages of it: their norms are gated along with its own, because averaged tensors must mean the same.
        layers: Its layers; those that are modules by default.
    """

    def __init__(
        self, model: nn.Module, copies: Sequence[nn.Module] = (), layers: Sequence[Layer] | None = None
    ) -> None:
        self.model, self.now = model, Phase()
        self.copies = tuple(copies)
        self.layers = layers_of(model) if layers is None else layers
        self._frozen: list[Tensor] = []
        self._handles: list[Any] = []

    def enter(self, phase: Phase, again: bool = False) -> None:
        """Train in this phase from now on.

        Args:
            phase: The phase.
            again: Enter it even if it is the present one, because the model's tensors are new (it was cut or rebuilt).
        """
        if phase == self.now and not again:
            return
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for handle in self._handles:
            handle.remove()
        for network in (self.model, *self.copies):
            (gate_norms if phase.gated else plain_norms)(network)
        still = [parameter for layer in self.layers for parameter in self._held(layer)] if phase.frozen else []
        self._frozen = [parameter.requires_grad_(False) for parameter in still if parameter.requires_grad]
        for parameter in self._frozen:
            parameter.grad = None  # an optimizer moves by momentum what has a gradient, be it zero
        scales = [self.model.get_parameter(name) for name in norm_scales(self.model)] if phase.penalty else []
        self._handles = [
            scale.register_post_accumulate_grad_hook(_pull(phase.penalty)) for scale in scales if scale.requires_grad
        ]
        self.now = phase

    def _held(self, layer: Layer) -> list[nn.Parameter]:
        """What a layer holds: all that its module does, or its weight, if it has no module of its own."""
        if layer.name == layer.weight:
            return [self.model.get_parameter(layer.weight)]
        own = [*self.model.get_submodule(layer.name).parameters(recurse=layer.width is None)]
        return [*own, *(self.model.get_parameter(name) for name in layer.weights)]

    @contextmanager
    def plain(self, stay: bool = False) -> Iterator[None]:
        """Within the context nothing is frozen or gated, as when the network was traced; afterwards it is as before.

        Args:
            stay: If the body succeeds, stay plain: the caller enters the next phase.
        """
        before, well = self.now, False
        self.enter(Phase())
        try:
            yield
            well = True
        finally:
            if not (well and stay):
                self.enter(before)


def _pull(strength: float) -> Any:
    """A hook that adds the gradient of λ|γ| once in each backward pass."""

    def hook(scale: Tensor) -> None:
        assert scale.grad is not None
        scale.grad.add_(scale.detach().sign(), alpha=strength)

    return hook
