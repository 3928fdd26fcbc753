"""A model's layers: what node and weight sparsity count.

They are its convolution, linear, recurrent and embedding modules, and all other parameters that multiply activations:
transposed linear layers, packed projections of attention, experts, weights under a parametrization, bare parameters.
"""

import math
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from earlycrop.structure.products import Dims, Product, Products
from earlycrop.structure.trace import noted


@dataclass(frozen=True)
class Layer:
    """A layer with weights that multiply activations, or an embedding: what node and weight sparsity count.

    Attributes:
        name: The module's path; the weight's name, if it has no module of its own.
        weight: The name of its weight (the first name if the weight is tied); in a recurrent layer, the weight that
            reads its input.
        dim: The weight's dimension along which output channels are created.
        channels: The number of its output channels; if it is recurrent, the hidden units of one layer and direction.
        width: The name of the module's integer that counts them; None if it has none.
        others: The names of further weights of the same channels: those of the recurrence.
        table: Whether it is an embedding, which picks rows and multiplies nothing.
        beside: Further dimensions of the weight whose every index has such channels: experts, heads.
        scaled: Where the weight is divided by a norm of its parameter, the dimensions that count the norms.
    """

    name: str
    weight: str
    dim: int
    channels: int
    width: str | None
    others: tuple[str, ...] = ()
    table: bool = False
    beside: Dims = ()
    scaled: Dims | None = None

    @property
    def weights(self) -> tuple[str, ...]:
        """All its weights."""
        return (self.weight, *self.others)

    def channels_in(self, shape: tuple[int, ...]) -> int:
        """How many channels a weight of this shape creates, where no integer counts them."""
        return math.prod(shape[dim] for dim in (self.dim, *self.beside))


def layers_of(model: nn.Module, products: Products | None = None) -> tuple[Layer, ...]:
    """Every layer, in module order; one in two places is one. Without a graph only those that are modules.

    Args:
        model: The network.
        products: What multiplies activations in it.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = []
    for path, module in model.named_modules():
        for names, dim, width in _weights(module):
            # a parametrized weight is computed, so the module is not a layer here
            found = [first[id(weight)] for name in names if id(weight := module._parameters.get(name)) in first]
            if len(found) == len(names):
                table = isinstance(module, nn.Embedding | nn.EmbeddingBag)
                layers.append(Layer(path, found[0], dim, getattr(module, width), width, tuple(found[1:]), table))
    if products is None:
        return tuple(layers)
    order = {path: number for number, (path, _) in enumerate(model.named_modules())}
    every = [(order[layer.name], layer) for layer in layers]
    every += [(order[layer.weight.rpartition(".")[0]], layer) for layer in _others(model, products, layers)]
    return tuple(layer for _, layer in sorted(every, key=lambda pair: pair[0]))


def layers_in(model: nn.Module, example_inputs: object) -> tuple[Layer, ...]:
    """The layers of a model that may not be traced: it runs once, if it has matrices that no module explains.

    Args:
        model: The network.
        example_inputs: What it takes; a tensor is a single input.
    """
    layers = layers_of(model)
    explained = {name for layer in layers for name in layer.weights}
    if all(name in explained or parameter.ndim < 2 for name, parameter in model.named_parameters()):
        return layers
    program = noted(model, example_inputs)
    return layers if program is None else layers_of(model, Products(model, program))


def _others(model: nn.Module, products: Products, layers: list[Layer]) -> list[Layer]:
    """Parameters that multiply activations and are no weights of these layers."""
    known, modules = {name for layer in layers for name in layer.weights}, {layer.name for layer in layers}
    found = {name: one for name, one in products.found.items() if name not in known}
    owners = {name: _owner(model, name) for name in found}
    owned = list(owners.values())
    layered = []
    for name, _ in model.named_parameters():
        if name in found:
            alone = owned.count(owners[name]) == 1 and owners[name] not in modules
            title = owners[name] if alone and _is_layer(model.get_submodule(owners[name])) else ""
            layered.append(_layer(title or name, name, found[name], tuple(model.get_parameter(name).shape)))
    return layered


def _layer(title: str, weight: str, product: Product, shape: tuple[int, ...]) -> Layer:
    *beside, dim = product.dims or (0,)
    layer = Layer(title, weight, dim, 0, None, (), product.table, tuple(beside), product.scaled)
    return replace(layer, channels=layer.channels_in(shape))


def _owner(model: nn.Module, name: str) -> str:
    """The path of the module whose parameter this is; of a parametrized one the module that it belongs to."""
    path = name.rpartition(".")[0]
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        if isinstance(model.get_submodule(".".join(parts[:end])), ParametrizationList):
            return ".".join(parts[: end - 2])
    return path


def _is_layer(module: nn.Module) -> bool:
    """Whether a module stands for the parameter that it has: it has no parts, and is no mere list."""
    parts = [part for part in module.children() if part is not getattr(module, "parametrizations", None)]
    return not parts and not isinstance(module, nn.ParameterList | nn.ParameterDict)


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
