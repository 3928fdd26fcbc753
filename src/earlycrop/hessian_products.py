"""Products with the Hessian of a scalar function f at x: the requested rows of ∇²f v, in four autodiff modes.

    double_backward       ∂⟨∇f, v⟩ / ∂x, the gradient differentiated once more; works for every operator
    reverse_over_forward  the slope ⟨∇f, v⟩ as the tangent of f along v, by dual numbers, then one reverse pass
    forward_over_reverse  the tangent of ∇f along v, by dual numbers through the reverse pass
    central_difference    (∇f(x + εv) − ∇f(x − εv)) / 2ε: first order only; wrong where a kink lies in between

The first three are exact and agree to rounding; the second only for the operators in `EXACT`. Each takes f as a context
manager that puts tensors in place and yields the value (they must still be in place when checkpointed activations are
recomputed), and returns the slope ⟨∇f, v⟩ and the rows.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

Function = Callable[[Sequence[Tensor]], AbstractContextManager[Tensor]]
Product = tuple[float, Sequence[Tensor | None]]


def double_backward(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """The gradient of ⟨∇f, v⟩: reverse mode over reverse mode.

    Args:
        f: Puts tensors like `x` in place and yields the value there.
        x: Where the Hessian is taken.
        v: The direction, one tensor for each of `x`.
        of: The tensors whose rows of ∇²f v are returned, None where f does not depend on one.
    """
    with f(x) as value:
        gradient = torch.autograd.grad(value, x, create_graph=True, allow_unused=True)
        slope = sum(
            ((g * along).sum() for g, along in zip(gradient, v, strict=True) if g is not None), value.new_zeros(())
        )
        return _reverse(slope, of)


def reverse_over_forward(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """The reverse pass through one forward pass with dual numbers, for functions made of `EXACT` operators only.

    It uses `torch.func`, because on plain dual numbers PyTorch computes the tangent of log-softmax in place, where it
    has no gradient.

    Args:
        f: As in `double_backward`.
        x: As in `double_backward`.
        v: As in `double_backward`.
        of: As in `double_backward`.

    Raises:
        NotImplementedError: another operator was called.
    """
    with ExitStack() as stack:

        def value(*duals: Tensor) -> Tensor:
            with _OnlyExact():
                return stack.enter_context(f(duals))

        with _without_warning():
            tangent = torch.func.jvp(value, tuple(x), tuple(v))[1]
        return _reverse(tangent, of)


def forward_over_reverse(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """The tangent of the gradient: a forward and a reverse pass, both with dual numbers; see `double_backward`."""
    with forward_ad.dual_level(), f(_dual(x, v)) as value:
        gradient = torch.autograd.grad(value, of, allow_unused=True)
        slope = forward_ad.unpack_dual(value).tangent
        rows = [None if g is None else forward_ad.unpack_dual(g).tangent for g in gradient]
        return 0.0 if slope is None else float(slope.detach()), rows


def central_difference(f: Function, x: Sequence[Tensor], v: Sequence[Tensor], of: Sequence[Tensor]) -> Product:
    """The difference of gradients at x ± εv, ε = 1e-3 ‖x‖ / ‖v‖ (1e-5 in float64); see `double_backward`."""
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


AutodiffMode = Literal["auto", "reverse_over_forward", "double_backward", "forward_over_reverse", "central_difference"]

AUTODIFF_MODES = {
    mode.__name__: mode for mode in (reverse_over_forward, double_backward, forward_over_reverse, central_difference)
}

_NAMES = """
    linear matmul mm bmm addmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm
    relu relu_ leaky_relu leaky_relu_ tanh tanh_ sigmoid sigmoid_ silu gelu elu softplus hardtanh relu6 dropout
    max_pool1d max_pool2d max_pool3d boolean_dispatch avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    add add_ sub mul div neg square pow exp log __add__ __radd__ __iadd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__
    __neg__ __pow__ mean sum cross_entropy mse_loss log_softmax softmax nll_loss
    view reshape flatten squeeze unsqueeze permute transpose contiguous cat stack chunk pad __getitem__
    __get__ to size dim numel __len__ isfinite __bool__ item
"""

EXACT = frozenset(_NAMES.split())
"""Functions whose tangent has the right gradient. Not all do: for layer norm and its like, PyTorch treats the saved
mean and deviation as constants, so the gradient silently lacks a part. What is not listed has not been tested."""


class _OnlyExact(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        own_statistics = name == "batch_norm" and kwargs.get("training", len(args) > 5 and args[5])
        if name not in EXACT or own_statistics:
            raise NotImplementedError(f"The gradient of the tangent of `{name}` is not known to be exact.")
        return func(*args, **kwargs)


def _dual(x: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    with _without_warning():
        return [forward_ad.make_dual(part, along) for part, along in zip(x, v, strict=True)]


@contextmanager
def _without_warning() -> Iterator[None]:
    """Without the deprecation warning of TorchScript, which PyTorch itself uses at the first dual number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _reverse(slope: Tensor | None, of: Sequence[Tensor]) -> Product:
    if slope is None or not slope.requires_grad:  # f is linear in what is moved
        return 0.0 if slope is None else float(slope), [None] * len(of)
    rows = torch.autograd.grad(slope, of, allow_unused=True)
    return float(slope.detach()), rows
