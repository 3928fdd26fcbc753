"""NTK-SAP: keep what carries the neural tangent kernel, whatever the weights happen to be."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from earlycrop.evaluation import MeanLoss
from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.scores.trees import floats
from earlycrop.structure.trace import Inputs, called, duplicate
from earlycrop.vector import Vector


@dataclass(frozen=True)
class NtkSap(AbstractNetworkScore):
    """|∂/∂m E‖f(x; m∘θ) − f(x; m∘(θ + εξ))‖²|: how the kernel's trace depends on each unit (Wang et al., 2023).

    To first order in ε the mean over ξ ~ N(0, 1) is ε² tr(J Jᵀ), J being the Jacobian of the outputs by the weights
    that are left. Both networks share the mask m. Weights θ, noise ξ and inputs x ~ N(0, 1) are drawn again each time,
    so the scores measure what the *mask* is worth; the network's own weights play no part. Needs no data.

    The draw depends on the seed and on how many weights are left, so each round of a method in steps has its own draw,
    and repeating a round repeats its draw.

    Args:
        epsilon: ε, how far the weights are moved; absolute, as published.
        resamplings: The number of draws whose squared distances are averaged in one score.
        batch_size: Inputs in each draw; they also set the statistics of batch norms.

    Raises:
        ValueError: an option is out of range.
    """

    epsilon: float = 0.01
    resamplings: int = 5
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"`epsilon` is how far the weights are moved and must be positive; found {self.epsilon}.")
        if self.resamplings < 1:
            raise ValueError(f"`resamplings` counts draws and must be at least 1; found {self.resamplings}.")
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` must be at least 2, as batch norm requires; found {self.batch_size}.")

    def __call__(self, of: Network) -> Vector:
        """The slope by each unit, averaged over inputs and draws; the absolute value is taken last."""
        masks = of.weights.push(of.model, torch.ones_like(of.weights.values))
        left = sum(int(mask.count_nonzero()) for mask in masks)
        with torch.random.fork_rng(devices=[]):  # all draws are on the CPU, so that a seed means the same everywhere
            torch.default_generator.manual_seed(Random(f"{of.seed}, {left}").getrandbits(32))  # takes at most 32 bits
            slopes = [self._slope(of, masks) for _ in range(self.resamplings)]
        return (sum(slopes) / self.resamplings).abs()  # type: ignore[union-attr]

    def _slope(self, of: Network, masks: list[Tensor]) -> Vector:
        """∂/∂m of the squared distance, for one draw of weights, noise and inputs."""
        device, dtype = masks[0].device, torch.promote_types(masks[0].dtype, torch.float32)
        twin = _redrawn(of.model).to(device, dtype).eval()

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=dtype, device="cpu").to(device)

        def noise(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point() and tensor.ndim:
                return normal(self.batch_size, *tensor.shape[1:])
            return tensor[torch.arange(self.batch_size) % len(tensor)] if tensor.ndim else tensor  # tokens, masks

        inputs = pytree.tree_map_only(Tensor, noise, of.example_inputs)
        weights = [parameter.detach().clone() for parameter in of.weights.leaves(twin)]
        moved = [weight + self.epsilon * normal(*weight.shape) for weight in weights]
        _see(twin, inputs, of, [mask * weight for mask, weight in zip(masks, weights, strict=True)])
        with torch.no_grad():  # from here on the mask itself is the parameter, so that slopes are by the mask
            for parameter, mask in zip(of.weights.leaves(twin), masks, strict=True):
                parameter.copy_(mask)

        def distance(model: nn.Module, batch: Inputs) -> Tensor:
            masks = of.weights.leaves(model)  # times their gates, if the units are channels
            outputs = []
            for drawn in (weights, moved):
                with of.weights.placed(model, [mask * weight for mask, weight in zip(masks, drawn, strict=True)]):
                    outputs.append(floats(called(model, batch)))
            return sum((a - b).square().sum() / a.shape[:1].numel() for a, b in zip(*outputs, strict=True))  # type: ignore[return-value]

        return MeanLoss(twin, distance, [inputs], bn_mode="running").gradient(of.coordinates)


def _redrawn(model: nn.Module) -> nn.Module:
    """A copy on the CPU with fresh weights.

    They come from the modules' own `reset_parameters`. A parameter that none of these touches is filled with its own
    nonzero entries, drawn with replacement, so that it keeps the scale that the network gave it.
    """
    twin = duplicate(model).cpu()
    versions = [(parameter, parameter._version) for parameter in twin.parameters()]
    with torch.no_grad():
        for module in reversed(list(twin.modules())):  # parts before the whole, in the order of construction
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if callable(reset):
                reset()
        for parameter, version in versions:
            own = parameter[parameter != 0]
            if parameter._version == version and own.numel():
                parameter.copy_(own[torch.randint(own.numel(), parameter.shape, device="cpu")])
    return twin


def _see(model: nn.Module, inputs: Inputs, of: Network, weights: list[Tensor]) -> None:
    """Set the running statistics of norms to those of these inputs under these weights."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad(), torch.autocast(weights[0].device.type, enabled=False), of.weights.placed(model, weights):
        called(model, inputs)
    model.eval()
