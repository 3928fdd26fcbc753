"""Slow and obvious: small networks in float64, full Hessians by autograd, gates as multiplications in hooks.

Nothing here uses the library, except that a test passes `gated` the class of each channel of a layer.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Any, Any], Tensor]


def f64(*numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# Networks ------------------------------------------------------------------------------------------------


def scalar_net(*weights: float) -> nn.Linear:
    """The network f(x) = θ · x with the given θ."""
    net = nn.Linear(len(weights), 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([weights], dtype=torch.float64))
    return net


def two_neurons(u: Sequence[float], v: Sequence[float]) -> nn.Sequential:
    """The network f(x) = Σ v_k relu(u_k x), k = 1, 2."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(u)[:, None])
        net[2].weight.copy_(torch.tensor(v)[None])
    return net


def mlp(*widths: int, bias: bool = True, act: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Linear(inside, outside, bias=bias), act()]
    return nn.Sequential(*layers[:-1]).double()


class Net(nn.Module):
    """A network as a function of its named parts, so that it can be written in a few lines."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def conv_norm_net(act: Callable[[Tensor], Tensor] = torch.tanh) -> nn.Module:
    """A chain: conv - norm - act - conv - norm - act - pool - linear."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = act(n.norm1(n.conv1(x)))
        x = act(n.norm2(n.conv2(x)))
        return n.head(x.mean((2, 3)))

    return awake(
        Net(
            forward,
            conv1=nn.Conv2d(2, 4, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(4),
            conv2=nn.Conv2d(4, 3, 3, padding=1),
            norm2=nn.BatchNorm2d(3),
            head=nn.Linear(3, 3),
        )
    )


def residual_net(act: Callable[[Tensor], Tensor] = torch.tanh) -> nn.Module:
    """A stem and a block whose outputs are added: one stream with two creators."""

    def forward(n: Any, x: Tensor) -> Tensor:
        stream = act(n.norm0(n.stem(x)))
        block = n.norm2(n.conv2(act(n.norm1(n.conv1(stream)))))
        return n.head(act(stream + block).mean((2, 3)))

    return awake(
        Net(
            forward,
            stem=nn.Conv2d(2, 4, 3, padding=1, bias=False),
            norm0=nn.BatchNorm2d(4),
            conv1=nn.Conv2d(4, 3, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(3),
            conv2=nn.Conv2d(3, 4, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(4),
            head=nn.Linear(4, 3),
        )
    )


def depthwise_net(act: Callable[[Tensor], Tensor] = torch.tanh) -> nn.Module:
    """1x1 - depthwise - 1x1: the depthwise layer carries channels that the first one created."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = act(n.norm1(n.expand(x)))
        x = act(n.norm2(n.depth(x)))
        x = act(n.norm3(n.project(x)))
        return n.head(x.mean((2, 3)))

    return awake(
        Net(
            forward,
            expand=nn.Conv2d(2, 5, 1, bias=False),
            norm1=nn.BatchNorm2d(5),
            depth=nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False),
            norm2=nn.BatchNorm2d(5),
            project=nn.Conv2d(5, 3, 1, bias=False),
            norm3=nn.BatchNorm2d(3),
            head=nn.Linear(3, 3),
        )
    )


def concat_net(act: Callable[[Tensor], Tensor] = torch.tanh) -> nn.Module:
    """Two branches side by side, one with a norm and one without."""

    def forward(n: Any, x: Tensor) -> Tensor:
        x = torch.cat([act(n.left(x)), act(n.norm(n.right(x)))], 1)
        return n.head(act(n.merge(x)).mean((2, 3)))

    return awake(
        Net(
            forward,
            left=nn.Conv2d(2, 3, 3, padding=1),
            right=nn.Conv2d(2, 2, 3, padding=1),
            norm=nn.BatchNorm2d(2),
            merge=nn.Conv2d(5, 3, 1),
            head=nn.Linear(3, 3),
        )
    )


def awake(net: nn.Module) -> nn.Module:
    """The network in float64, with norms whose scales, shifts and statistics differ from their initial values."""
    net.double()
    generator = torch.Generator().manual_seed(7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.data.copy_(low + (high - low) * drawn)
            module.num_batches_tracked.fill_(9)
    return net


# Losses and data -----------------------------------------------------------------------------------------


def half_square(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss ½ mean (f(x) − y)²."""
    x, y = batch
    return 0.5 * (model(x) - y).square().mean()


def cross_entropy(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def images(samples: int = 6, channels: int = 2, size: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, channels, size, size, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (samples,), generator=generator)


def vectors(samples: int = 6, width: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (samples,), generator=generator)


def some_of(names: Sequence[str], quick: Sequence[str]) -> list[Any]:
    """Names as parameters of a test; those that are not in `quick` are marked slow."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


# Oracles -------------------------------------------------------------------------------------------------


def prunable(net: nn.Module) -> list[str]:
    """The names of the weights of all convolution and linear layers."""
    return [
        f"{name}.weight" if name else "weight"
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]


def full_hessian(net: nn.Module, loss: Loss, batch: Any, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """θ, ∇L and the full matrix ∇²L, with these parameters as one vector."""
    parts = [net.get_parameter(name) for name in names]
    theta = torch.cat([part.detach().reshape(-1) for part in parts])

    def value(flat: Tensor) -> Tensor:
        pieces = flat.split([part.numel() for part in parts])
        moved = {name: piece.view_as(part) for name, piece, part in zip(names, pieces, parts, strict=True)}
        return loss(lambda *args: functional_call(net, moved, args), batch)

    gradient = torch.autograd.functional.jacobian(value, theta)
    return theta, gradient, torch.autograd.functional.hessian(value, theta)


@contextmanager
def gated(net: nn.Module, places: dict[str, Tensor], c: Tensor) -> Iterator[None]:
    """Multiply the outputs of some modules by gates; `places` holds the number of each channel's gate, by module."""

    def hook(classes: Tensor) -> Callable[..., Tensor]:
        return lambda _module, _args, out: out * c[classes].view(1, -1, *[1] * (out.ndim - 2))

    handles = [net.get_submodule(name).register_forward_hook(hook(classes)) for name, classes in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_hessian(
    net: nn.Module, loss: Loss, batch: Any, places: dict[str, Tensor], count: int
) -> tuple[Tensor, Tensor]:
    """The gradient g_c and the full Hessian H_c with respect to the gates, at c = 1."""

    def value(c: Tensor) -> Tensor:
        with gated(net, places, c):
            return loss(net, batch)

    ones = torch.ones(count, dtype=torch.float64)
    return torch.autograd.functional.jacobian(value, ones), torch.autograd.functional.hessian(value, ones)


def mixed_by_autograd(net: nn.Module, loss: Loss, batch: Any, places: dict[str, Tensor], count: int) -> Tensor:
    """½ ∂‖g_W(c)‖² / ∂c at c = 1, signed, by differentiating the weights' gradient with the gates in place."""
    c = torch.ones(count, dtype=torch.float64, requires_grad=True)
    weights = [net.get_parameter(name) for name in prunable(net)]
    with gated(net, places, c):
        gradient = torch.autograd.grad(loss(net, batch), weights, create_graph=True)
    (slope,) = torch.autograd.grad(0.5 * sum(g.square().sum() for g in gradient), c)
    return slope


def flow(net: nn.Module, loss: Loss, batch: Any) -> Tensor:
    """The gradient flow GF = gᵀg over the prunable weights."""
    gradient = torch.autograd.grad(loss(net, batch), [net.get_parameter(name) for name in prunable(net)])
    return sum(g.square().sum() for g in gradient)


def explicit_kernel(net: nn.Module, x: Tensor) -> Tensor:
    """The kernel J Jᵀ, with the Jacobian J computed one row at a time."""
    parameters = list(net.parameters())
    rows = []
    for output in net(x).reshape(-1):
        slopes = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(slopes, parameters, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if s is None else s).reshape(-1) for s, p in pairs]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


# State ---------------------------------------------------------------------------------------------------


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """Type, shape and bytes of a tensor: nan equals itself, and -0.0 does not equal 0.0."""
    value = tensor.detach().cpu().contiguous()
    return value.dtype, tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(net: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """The whole observable state of a model, an optimizer and the random generator, bit for bit."""
    state: dict[str, Any] = {"random": bits(torch.get_rng_state())}
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        state[name] = id(tensor), bits(tensor), tensor.requires_grad, None if tensor.grad is None else bits(tensor.grad)
    for name, module in net.named_modules():
        plain = {
            k: [*v] if isinstance(v, list) else v
            for k, v in vars(module).items()
            if isinstance(v, int | float | str | tuple | list | None)
        }
        state[f"{name} itself"] = plain
        state[f"{name} hooks"] = len(module._forward_hooks), len(module._forward_pre_hooks)
    for name, parameter in net.named_parameters():
        state[f"{name} hooks"] = len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ())
    if optimizer is not None:
        state["hooks"] = len(optimizer._optimizer_step_post_hooks)
        state["groups"] = [{**group, "params": [id(p) for p in group["params"]]} for group in optimizer.param_groups]
        state["moments"] = {
            id(p): {k: bits(v) if isinstance(v, Tensor) else v for k, v in entries.items()}
            for p, entries in optimizer.state.items()
        }
    return state
