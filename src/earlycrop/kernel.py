"""The empirical neural tangent kernel K = J Jᵀ, J = ∂(all outputs of all samples) / ∂θ."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlycrop.errors import ScoreError
from earlycrop.evaluation import MeanLoss


def empirical_ntk(
    loss: MeanLoss,
    parameters: list[Tensor],
    samples: int,
    masks: list[Tensor | None] | None = None,
    most: int | None = None,
) -> Float[Tensor, "outputs outputs"]:
    """K = J Jᵀ over the first samples of the scoring set, one column at a time, without ever holding J.

    The outputs are what the model returns while the loss is computed (all float tensors, flattened). Column i is
    J (Jᵀ eᵢ): one backward pass for Jᵀ eᵢ, and one through the backward pass for J times that.

    Args:
        loss: The loss, the model and the scoring set.
        parameters: θ, by which J differentiates.
        samples: How many samples, from the beginning of the scoring set.
        masks: For each parameter which entries are left, None if all; entries that have left have no column in J.
        most: If there are more outputs than this, that many are taken, spread evenly: their block of K, which is the
            kernel of a network with these outputs alone.

    Raises:
        ScoreError: the loss never calls the model.
    """
    batch = loss.set.first(samples)
    with loss.scoring(parameters):
        outputs = _outputs(loss.model, loss, batch)
        if most is not None and outputs.numel() > most:
            outputs = outputs[torch.arange(most, device=outputs.device) * outputs.numel() // most]
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        transposed = torch.autograd.grad(
            outputs, parameters, cotangent, create_graph=True, allow_unused=True, materialize_grads=True
        )  # Jᵀ u, linear in u
        columns = []
        for index in range(outputs.numel()):
            unit = torch.zeros_like(outputs)
            unit[index] = 1
            along = torch.autograd.grad(
                outputs, parameters, unit, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if masks is not None:
                along = [a if mask is None else a * mask.to(a) for a, mask in zip(along, masks, strict=True)]
            (column,) = torch.autograd.grad(transposed, cotangent, along, retain_graph=True)
            columns.append(column)
    return torch.stack(columns, dim=1)


def _outputs(model: nn.Module, loss: MeanLoss, batch: Any) -> Tensor:
    caught: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _args, output: caught.append(output))
    try:
        loss.loss(model, batch)
    finally:
        handle.remove()
    leaves = [leaf for leaf in pytree.tree_leaves(caught) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not leaves:
        raise ScoreError("The kernel needs the model's outputs, but `loss(model, batch)` never calls the model.")
    return torch.cat([leaf.reshape(-1) for leaf in leaves])
