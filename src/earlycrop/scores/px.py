"""Path eXclusion: keep the paths from input to output that have large weights and that the data activate."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from earlycrop.errors import ScoreError
from earlycrop.evaluation import MeanLoss
from earlycrop.scores.abstract import AbstractNetworkScore, Network
from earlycrop.scores.trees import floats, one_sample_of_ones
from earlycrop.structure.trace import duplicate
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Px(AbstractNetworkScore):
    """θ² ∘ |∂R/∂θ²|, R = Σ z₁ · z₂: how much of the path kernel goes through each unit (Iurada et al., 2024).

    z₁(x)ₖ = Σ aₚ(x)² xₚ² over the paths p from the inputs to output k that the mask leaves, where aₚ is the product of
    the activations' slopes along p in the *network itself* at x. z₂ₖ = Σ Π θ² over the same paths, Π over the weights
    along each. R sums over outputs and the scoring set. Only inputs count, labels do not.

    Three networks compute this. The network itself, in the state in which it is scored, determines the slopes and the
    winners of max-pools. A copy whose weights are the mask carries x² through these: z₁. A copy whose weights are
    squared carries ones: z₂; everything is positive there, so activations pass everything and a max-pool takes the
    largest.

    All prunable weights are squared, including those of linear layers (the authors' code spares them): only then is z₂
    a sum over paths that is never negative. Paths begin at the inputs: biases and the shifts of norms are zero in both
    copies. The scale of a norm, γ / √(σ² + ε) with the present running σ², lies on a path like a weight that cannot
    leave: one in the first copy, squared in the second. At initialisation it is one.

    Computed in float64, because the number of paths overflows in deep networks; only z₁ is first computed in the
    network's own precision, and again in float64 if that overflows: on a CPU it is six times as fast.
    """

    needs_data: ClassVar[bool] = True

    def __call__(self, of: Network) -> Vector:
        """θ² ∘ |∂R/∂θ²| for each weight; for channels |∂R/∂c|, c being the gates of the second copy.

        Raises:
            ScoreError: the network is not made of paths (names the module), the loss never calls it, or it has more
                paths than float64 can count.
        """
        for name, module in of.model.named_modules():
            if parametrize.is_parametrized(module):
                raise _refused(name, module, "computes its weight from other parameters")
        loss = of.loss()
        squared = _linear(of.model, torch.float64, torch.square)
        unit = _linear(of.model, _precision(of.model), lambda tensor: (tensor != 0).to(tensor))
        masks = of.weights.push(unit, torch.ones_like(of.weights.values))
        with torch.no_grad():
            for parameter, mask in zip(of.weights.leaves(unit), masks, strict=True):
                parameter.copy_(mask)
        paths = _Paths(of.model, unit)
        with loss.scoring([]), torch.no_grad():
            for batch, _ in loss.batches():
                loss.loss(paths, batch)  # type: ignore[arg-type]
        if paths.ones is None:
            raise ScoreError("`Px` uses the inputs that the loss gives the network, but the loss never called it.")
        if not all(bool(torch.isfinite(total).all()) for total in paths.totals):
            raise ScoreError(
                "`Px` counts the paths through the network; here there are more than float64 can hold, or the inputs "
                "are not finite. Use a score that does not count paths: `SynFlow()` or `NtkSap()`."
            )
        _refuse_signs(squared, paths.ones)

        def kernel(model: nn.Module, batch: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
            sizes = floats(model(*batch[0], **batch[1]))
            return sum((z1 * z2).sum() for z1, z2 in zip(paths.totals, sizes, strict=True))  # type: ignore[return-value]

        slope = MeanLoss(squared, kernel, [paths.ones], bn_mode="running").gradient(of.coordinates)
        return (slope * of.coordinates.values.to(slope).square()).abs()


def _precision(model: nn.Module) -> torch.dtype:
    """The network's own precision, at least float32."""
    return torch.promote_types(next(p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _linear(model: nn.Module, dtype: torch.dtype, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy without biases, in which `change` is applied to all other parameters and buffers; norms only scale."""
    twin = duplicate(model).to(dtype).eval()
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.zero_()
                module.running_var.add_(module.eps)
                module.eps = 0.0
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.zero_()
        for tensor in floats([*twin.parameters(), *twin.buffers()]):
            tensor.copy_(change(tensor))
    return twin


SMALL = 2.0**-64
"""A factor applied to x² (exactly, as a power of two), so that single precision holds more paths."""


class _Paths:
    """A wrapper of the network for the loss to call: the inputs also go, squared, through the network's open paths.

    Attributes:
        totals: For each float output z₁, summed over the samples so far.
        ones: The arguments of the first call, reduced to one sample of all ones; None before the first call.
    """

    def __init__(self, model: nn.Module, unit: nn.Module) -> None:
        self._model, self._unit = model, unit
        self.totals: list[Tensor] = []
        self.ones: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Noted() as noted:
            outputs = self._model(*args, **kwargs)
        squares = _in((args, kwargs), torch.float64, lambda x: x.square() * SMALL)
        z1 = floats(_through(self._unit, _in(squares, _precision(self._unit)), noted.pattern))
        if not all(bool(torch.isfinite(z).all()) for z in z1):
            z1 = floats(_through(self._unit.double(), squares, noted.pattern))  # and from now on
        samples = next((tensor.shape[0] for tensor in floats(squares) if tensor.ndim), 1)
        odd = next((tuple(z.shape) for z in z1 if not z.ndim or z.shape[0] % samples), None)
        if odd is not None:
            raise ScoreError(
                f"`Px` sums outputs over samples, but from {samples} samples {type(self._model).__name__} computed an "
                f"output of shape {odd}. Its first dimension must count samples."
            )
        sums = [z.double().unflatten(0, (samples, -1)).sum(0) / SMALL for z in z1]
        if self.ones is None:
            dtype = _precision(self._model)
            _refuse_bends(_linear(self._model, dtype, torch.clone), _in((args, kwargs), dtype), noted.pattern)
            self.ones, self.totals = one_sample_of_ones((args, kwargs)), sums
        else:
            self.totals = [total + z for total, z in zip(self.totals, sums, strict=True)]
        return outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _refuse_bends(model: nn.Module, like: Any, pattern: Sequence[Tensor]) -> None:
    """Refuse a network that is not linear while a pattern is held: f(u) + f(v) must be f(u + v).

    v is nearly −u/2, so that anything that bends at zero (a clamp, an ELU) shows.

    Args:
        model: The network without biases, its weights with their own signs.
        like: What it takes.
        pattern: The slopes of activations and winners of max-pools that are held.

    Raises:
        ScoreError: it is not linear; names the module.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu").to(tensor)

    u = pytree.tree_map(lambda t: noise(t) if _flows(t) else t, like)
    v = pytree.tree_map(lambda t: noise(t) / 10 - t / 2 if _flows(t) else t, u)
    both = pytree.tree_map(lambda a, b: a + b if _flows(a) else a, u, v)
    if _add_up(*(floats(_through(model, inputs, pattern)) for inputs in (u, v, both))):
        return
    for (name, a), (_, b), (_, c) in zip(*(_trail(model, inputs, pattern) for inputs in (u, v, both)), strict=False):
        if not _add_up(a, b, c):
            raise _refused(name, model.get_submodule(name), "is not linear in what flows through it")


def _refuse_signs(squared: nn.Module, ones: Any) -> None:
    """Refuse a network that subtracts one path from another: the squares along paths would not stay positive."""
    for name, tensors in _trail(squared, ones, None):
        if any(bool((tensor < 0).any()) for tensor in tensors):
            raise _refused(name, squared.get_submodule(name), "turns the sign of what flows through it")


def _through(model: nn.Module, inputs: Any, pattern: Sequence[Tensor] | None) -> Any:
    """The outputs while the pattern is held; with None, activations pass everything."""
    with _Replayed(pattern):
        return model(*inputs[0], **inputs[1])


@torch.no_grad()
def _trail(model: nn.Module, inputs: Any, pattern: Sequence[Tensor] | None) -> list[tuple[str, list[Tensor]]]:
    """The inputs and outputs of all modules, in order, each with the name of the module that computed it."""
    trail: list[tuple[str, list[Tensor]]] = []
    running = [""]

    def took(name: str, taken: Any) -> None:
        trail.append((running[-1], [tensor.clone() for tensor in floats(taken)]))
        running.append(name)

    def gave(given: Any) -> None:
        trail.append((running.pop(), [tensor.clone() for tensor in floats(given)]))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            before = module.register_forward_pre_hook(
                lambda _module, args, kwargs, name=name: took(name, (args, kwargs)), with_kwargs=True
            )
            after = module.register_forward_hook(lambda _module, _args, output: gave(output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        _through(model, inputs, pattern)
    return trail


aten = torch.ops.aten
ACTIVATIONS = {aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_, aten._prelu_kernel}
"""Piecewise linear activations with one kink, at zero: the operators that PyTorch's modules and functions call."""

POOLS = {
    aten.max_pool2d_with_indices: 2,  # and in one dimension
    aten.max_pool3d_with_indices: 3,
    aten.adaptive_max_pool2d: 2,
    aten.adaptive_max_pool3d: 3,
}
"""Max-pools that return their winners, and the number of dimensions that each pools."""


class _Noted(TorchDispatchMode):
    """Records the squared slopes of activations and the winners of max-pools."""

    def __init__(self) -> None:
        super().__init__()
        self.pattern: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func.overloadpacket
        if operator in ACTIVATIONS:  # before it runs, because it may work in place
            slopes = args[0] > 0
            if operator not in (aten.relu, aten.relu_):
                slopes = torch.where(slopes, args[0].new_ones(()), args[1] if len(args) > 1 else 0.01).square()
            self.pattern.append(slopes)
        outputs = func(*args, **(kwargs or {}))
        if operator in POOLS:
            self.pattern.append(outputs[1])
        return outputs


class _Replayed(TorchDispatchMode):
    """Applies the recorded slopes and winners, whatever the values."""

    def __init__(self, pattern: Sequence[Tensor] | None) -> None:
        super().__init__()
        self._pattern = None if pattern is None else iter(pattern)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator, pattern = func.overloadpacket, self._pattern
        if operator in ACTIVATIONS:
            slopes = 1.0 if pattern is None else next(pattern)
            return args[0].mul_(slopes) if func._schema.is_mutable else args[0] * slopes
        if operator in POOLS and pattern is not None:
            winners, dims = next(pattern), POOLS[operator]
            return args[0].flatten(-dims).gather(-1, winners.flatten(-dims)).view_as(winners), winners
        return func(*args, **(kwargs or {}))


def _in(tree: Any, dtype: torch.dtype, change: Callable[[Tensor], Tensor] = Tensor.clone) -> Any:
    """The same tree with its float tensors converted to this precision, then changed."""
    return pytree.tree_map(lambda leaf: change(leaf.to(dtype)) if _flows(leaf) else leaf, tree)


def _flows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _add_up(a: list[Tensor], b: list[Tensor], c: list[Tensor]) -> bool:
    """Whether a + b = c, up to rounding."""

    def differ(x: Tensor, y: Tensor, z: Tensor) -> bool:
        scale = torch.stack([x.abs().max(), y.abs().max(), z.abs().max()]).max()
        return bool((x + y - z).abs().max() > torch.finfo(z.dtype).eps ** 0.5 * scale)

    return not any(differ(x, y, z) for x, y, z in zip(a, b, c, strict=True) if x.numel())


def _refused(name: str, module: nn.Module, why: str) -> ScoreError:
    where = f"`{name}` ({type(module).__name__})" if name else f"The `forward` of {type(module).__name__}"
    return ScoreError(
        f"`Px` follows paths, and {where} {why}. Between ReLU, LeakyReLU, PReLU and max-pools (modules or functions), "
        f"only linear layers, convolutions, batch norms with running statistics, sums, means and the like form paths. "
        f"Use `NtkSap()` or `SynFlow()`, which do not need paths, or `Snip()`."
    )
