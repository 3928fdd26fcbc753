"""Whether a network still reads its inputs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from earlycrop.structure.trace import Call


def reads_its_inputs(model: nn.Module, example_inputs: Any) -> bool:
    """Whether the outputs differ for two random inputs; true if the model cannot be run on random inputs.

    Args:
        model: The model, run in evaluation mode; its modes and buffers are as they were afterwards.
        example_inputs: Inputs of its kind, of which the floating-point tensors are replaced by noise.
    """
    leaves = pytree.tree_leaves(example_inputs)
    if not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        return True
    modes = [(module, module.training) for module in model.modules()]
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

    def outputs() -> list[Any]:
        call = Call.of(pytree.tree_map_only(Tensor, noise, example_inputs))
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        devices = {parameter.device for parameter in model.parameters()}
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            return pytree.tree_leaves(functional_call(model, buffers, call.args, dict(call.kwargs)))

    try:
        model.eval()
        with torch.no_grad():
            pairs = zip(outputs(), outputs(), strict=True)
        return any(not torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
    except Exception:  # no reason to fail: the model may not accept random inputs
        return True
    finally:
        for module, training in modes:
            module.training = training
