"""Tensors as integers of the same bits: for masks and sums that must be exact, not-a-number included."""

import torch
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_integers(tensor: Tensor) -> Tensor:
    """The bits of each entry (for complex128, of each part) as an integer, in the same memory."""
    tensor = torch.view_as_real(tensor.detach()) if tensor.dtype == torch.complex128 else tensor.detach()
    return tensor.view(INTEGERS[tensor.element_size()])
