"""A model's convolution, linear, recurrent and embedding layers: what node and weight sparsity count."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Layer:
    """A convolution, linear, recurrent or embedding layer: what node and weight sparsity count.

    Attributes:
        name: The module's path.
        weight: The name of its weight (the first name if the weight is tied); in a recurrent layer, the weight that
            reads its input.
        dim: The weight's dimension along which output channels are created.
        channels: The number of its output channels; if it is recurrent, the hidden units of one layer and direction.
        width: The name of the module's integer that counts them.
        others: The names of further weights of the same channels: those of the recurrence.
    """

    name: str
    weight: str
    dim: int
    channels: int
    width: str
    others: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[str, ...]:
        """All its weights."""
        return (self.weight, *self.others)

    @property
    def table(self) -> bool:
        """Whether it is an embedding, which picks rows and multiplies nothing."""
        return self.width == "embedding_dim"


def layers_of(model: nn.Module) -> tuple[Layer, ...]:
    """Every convolution, linear, recurrent and embedding layer, in module order; a shared module is listed once."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = []
    for path, module in model.named_modules():
        for names, dim, width in _weights(module):
            # a parametrized weight is computed, so the module is not a layer here
            found = [first[id(weight)] for name in names if id(weight := module._parameters.get(name)) in first]
            if len(found) == len(names):
                layers.append(Layer(path, found[0], dim, getattr(module, width), width, tuple(found[1:])))
    return tuple(layers)


def _weights(module: nn.Module) -> list[tuple[tuple[str, ...], int, str]]:
    """For each layer in a module: its weights, the first one's dimension that creates channels, what counts them."""
    if isinstance(module, nn.Linear):
        return [(("weight",), 0, "out_features")]
    if isinstance(module, nn.modules.conv._ConvNd):
        return [(("weight",), int(isinstance(module, nn.modules.conv._ConvTransposeNd)), "out_channels")]
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return [(("weight",), 1, "embedding_dim")]
    if isinstance(module, nn.RNNCellBase):
        return [(("weight_ih", "weight_hh"), 0, "hidden_size")]
    if isinstance(module, nn.RNNBase):
        kinds = ("ih", "hh", "hr") if module.proj_size else ("ih", "hh")
        directions = ("", "_reverse")[: 1 + module.bidirectional]
        runs = [f"l{number}{direction}" for number in range(module.num_layers) for direction in directions]
        return [(tuple(f"weight_{kind}_{run}" for kind in kinds), 0, "hidden_size") for run in runs]
    return []
