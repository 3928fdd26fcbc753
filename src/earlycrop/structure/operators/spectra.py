"""Fourier transforms and complex numbers: transforms mix along their dimensions, and the others pass."""

from functools import partial
from typing import Any

from earlycrop.structure.graph import argument, name_of, shape_of
from earlycrop.structure.registry import Kind, Zero, rule
from earlycrop.structure.walk import Walk

_transforms = partial(rule, kind=Kind.MIXES, zero=Zero.FIRST)


@_transforms("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
@_transforms("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_hfft2", "fft_ihfft2")
@_transforms("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "fft_hfftn", "fft_ihfftn")
@_transforms("fft_fftshift", "fft_ifftshift")
def transform(walk: Walk, node: Any) -> Any:
    """All entries along the transformed dimensions are mixed (or, in a shift, change places by position)."""
    x, name = node.args[0], name_of(node)
    ndim, shift = len(shape_of(x)), name.endswith("shift")
    several = shift or name.endswith(("2", "n"))
    size = None if shift else argument(node, 1, "s")
    every = [-2, -1] if name.endswith("2") else range(-len(size), 0) if isinstance(size, list) else range(ndim)
    dim = argument(node, 1 if shift else 2, "dim", None if several else -1)
    dim = every if dim is None else [dim] if isinstance(dim, int) else dim
    touched = [d % ndim for d in dim]
    walk.freeze(x, f"mixed over channels ({walk.where(node)})", touched)
    return [None if d in touched else labels for d, labels in enumerate(walk.raw(x))]


@rule("view_as_real", kind=Kind.REARRANGES, zero=Zero.FIRST)
def as_real(walk: Walk, node: Any) -> Any:
    """Real and imaginary part, side by side in a new last dimension."""
    return [*walk.raw(node.args[0]), None]


@rule("view_as_complex", kind=Kind.REARRANGES, zero=Zero.FIRST)
def as_complex(walk: Walk, node: Any) -> Any:
    """Real and imaginary part are one number, so neither of them can leave."""
    x = node.args[0]
    walk.freeze(x, f"real and imaginary part ({walk.where(node)})", [-1])
    return walk.raw(x)[:-1]
