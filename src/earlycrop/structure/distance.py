"""How far the outputs of two networks are from each other."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from earlycrop.errors import VerificationError

MASK = 1e3
"""An entry that is so many times the lower quartile of its output says nothing of the others, as in a mask of −1e9."""

NOISE = 1e-2
"""The part of the scale of other outputs below which an output counts as the rounding noise of what cancels out."""


def leaves(outputs: Any) -> list[Tensor]:
    """The tensors of what a model returns that can be compared: complex ones as pairs of real numbers.

    Those of integers and truth values (which class is the first) may turn on a rounding: they count only if there are
    no others.
    """
    every = [one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor)]
    every = [torch.view_as_real(one.resolve_conj()) if one.is_complex() else one for one in every]
    return [one for one in every if one.is_floating_point()] or every


def distance(found: list[Tensor], reference: list[Tensor]) -> float:
    """How far outputs a are from those, b, that they should be.

        max |a − b| / max(|b|, s)    over all finite entries of all outputs

    Each output has its own scale s: the largest |b| among its finite entries, those of a mask apart; but at least a
    hundredth of the scale of any other that differs. Infinities and nan must be in the same places; integers and truth
    values must be the same (otherwise the distance is 1).

    Args:
        found: The outputs a, as `leaves` gives them.
        reference: The outputs b.

    Raises:
        VerificationError: no entry is finite, so nothing can be compared.
    """
    if [one.shape for one in found] != [one.shape for one in reference]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(found, reference, strict=True) if b.numel()]
    if not all(_same_places(a, b) for a, b in pairs):
        return float("inf")
    pairs = [(_finite(a), _finite(b)) for a, b in pairs]
    if not any(b.numel() for _, b in pairs):
        raise VerificationError(
            "Nothing can be compared: no entry of the outputs is finite for the example inputs. Give `example_inputs` "
            "for which some are, or pass `verify=False` to the pruner. The model is as it was."
        )
    differing = [(a, b) for a, b in pairs if not torch.equal(a, b)]
    if any(not b.is_floating_point() for _, b in differing):
        return 1.0
    scales = [_scale(b.abs()) for _, b in differing]
    least = NOISE * max(scales, default=0.0)
    each = zip(differing, scales, strict=True)
    return max((_relative(a, b, max(scale, least) or 1.0) for (a, b), scale in each), default=0.0)


def _same_places(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same infinities, and nan in the same places."""
    odd = ~b.isfinite()
    return torch.equal(odd, ~a.isfinite()) and torch.equal(a[odd].nan_to_num(0.0), b[odd].nan_to_num(0.0))


def _finite(output: Tensor) -> Tensor:
    """The finite entries; in float64, unless they are integers."""
    entries = output[output.isfinite()]
    return entries.double() if entries.is_floating_point() else entries


def _scale(sizes: Tensor) -> float:
    """The largest size, masks apart; 0 if all are zero."""
    each = sizes[sizes > 0].unique()  # in ascending order; the equal entries of a mask count once
    if not each.numel():
        return 0.0
    return float(each[each <= MASK * each[(each.numel() - 1) // 4]][-1])


def _relative(a: Tensor, b: Tensor, scale: float) -> float:
    return float(((a - b).abs() / b.abs().clamp(min=scale)).max())
