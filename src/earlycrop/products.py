"""Products with the Hessian of a scalar function f at x: the rows that are asked for of ∇²f v, in four ways.

    double_backward       ∂⟨∇f, v⟩ / ∂x, the gradient differentiated once more; works for every operator
    reverse_over_forward  the same slope ⟨∇f, v⟩ as the tangent of f along v, by dual numbers, then one reverse pass
    forward_over_reverse  the tangent of ∇f along v, by dual numbers through the reverse pass
    central_difference    (∇f(x + εv) − ∇f(x − εv)) / 2ε: first order only; wrong where a kink lies in between

The first three are exact and agree to rounding. Each takes f as a context that places tensors and yields the value
(what is differentiated must still be in place when activations are computed again), and returns the slope and the rows.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

Function = Callable[[Sequence[Tensor]], AbstractContextManager[Tensor]]
Product = tuple[float, Sequence[Tensor | None]]


def double_backward(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """Reverse over reverse."""
    with f(x) as value:
        gradient = torch.autograd.grad(value, x, create_graph=True, allow_unused=True)
        slope = sum(
            ((g * along).sum() for g, along in zip(gradient, v, strict=True) if g is not None), value.new_zeros(())
        )
        return _reverse(slope, of)


def reverse_over_forward(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """The reverse of one forward pass with dual numbers.

    By `torch.func`, for on plain dual numbers PyTorch computes the tangent of log-softmax in place, so that it has no
    gradient.
    """
    with ExitStack() as stack, _without_warning():
        tangent = torch.func.jvp(lambda *duals: stack.enter_context(f(duals)), tuple(x), tuple(v))[1]
        return _reverse(tangent, of)


def forward_over_reverse(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """A forward and a reverse pass, both with dual numbers."""
    with forward_ad.dual_level(), f(_dual(x, v)) as value:
        gradient = torch.autograd.grad(value, of, allow_unused=True)
        slope = forward_ad.unpack_dual(value).tangent
        rows = [None if g is None else forward_ad.unpack_dual(g).tangent for g in gradient]
        return 0.0 if slope is None else float(slope.detach()), rows


def central_difference(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """Two gradients, ε = 1e-3 ‖x‖ / ‖v‖ in float32 (1e-5 in float64) apart from x."""
    length = math.hypot(*(float(along.norm()) for along in v))
    if length == 0:
        return 0.0, [None] * len(of)
    step = 1e-5 if x[0].dtype == torch.float64 else 1e-3
    step *= math.hypot(*(float(part.detach().norm()) for part in x)) / length
    values, gradients = [], []
    for side in (step, -step):
        with f([part + side * along for part, along in zip(x, v, strict=True)]) as value:
            gradients.append(torch.autograd.grad(value, of, allow_unused=True))
            values.append(float(value.detach()))
    rows = [None if a is None or b is None else (a - b) / (2 * step) for a, b in zip(*gradients, strict=True)]
    return (values[0] - values[1]) / (2 * step), rows


Way = Literal["auto", "reverse_over_forward", "double_backward", "forward_over_reverse", "central_difference"]

WAYS = {way.__name__: way for way in (reverse_over_forward, double_backward, forward_over_reverse, central_difference)}

EXACT: tuple[Way, ...] = ("reverse_over_forward", "double_backward")
"""What `auto` tries, the fastest first; the last works for every operator."""


def _dual(x: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    with _without_warning():
        return [forward_ad.make_dual(part, along) for part, along in zip(x, v, strict=True)]


@contextmanager
def _without_warning() -> Iterator[None]:
    """Of TorchScript, which PyTorch itself uses at the first dual number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _reverse(slope: Tensor | None, of: Sequence[Tensor]) -> Product:
    if slope is None or not slope.requires_grad:  # f is linear in what is moved
        return 0.0 if slope is None else float(slope), [None] * len(of)
    rows = torch.autograd.grad(slope, of, allow_unused=True)
    return float(slope.detach()), rows
