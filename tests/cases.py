"""The model zoo: every family of network that the structure engine promises, and the ones that it must leave whole.

Each model is written in plain torch, with small widths, and is listed in `CASES` under a name. `least` is counted by
hand from the definition: so many classes of coupled channels must be able to leave, so that a network that is safely
but needlessly left whole is a failing test and not a surprise. Zero means that leaving it whole is acceptable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Case:
    """One network of the zoo and what the engine has to find in it."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    least: int = 0  # so many classes must be able to leave
    most: int | None = None  # more than that and something was cut that may not be
    whole: tuple[str, ...] = ()  # tensors that no cut may make smaller
    named: tuple[str, ...] = ()  # words that the list of frozen things must contain
    norms: dict[str, tuple[str, int]] = field(default_factory=dict)  # a norm without weight: whose kept entries it sees
    slow: bool = False


CASES: dict[str, Case] = {}


def case(name: str, *inputs: Callable[[torch.Generator], Tensor], **promises):
    def register(build):
        def draw():
            generator = torch.Generator().manual_seed(len(name))
            return tuple(make(generator) for make in inputs)

        assert name not in CASES
        CASES[name] = Case(build, draw, **promises)
        return build

    return register


def real(*shape: int):
    return lambda generator: torch.randn(*shape, dtype=torch.float64, generator=generator)


def integers(high: int, *shape: int):
    return lambda generator: torch.randint(high, shape, generator=generator)


def image(channels: int = 3, size: int = 8, batch: int = 3):
    return real(batch, channels, size, size)


class Apply(nn.Module):
    """A function as a module, for use in `nn.Sequential`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def conv(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=bias)


def conv_norm(inside: int, outside: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inside, outside, size, stride, groups), nn.BatchNorm2d(outside))


def pooled_head(width: int, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


# ---------------------------------------------------------------------------------------------------------------- MLPs


@case("mlp", real(4, 6), least=13, most=13)
def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


@case("mlp_without_bias", real(4, 6), least=13, most=13)
def mlp_without_bias():
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 5, bias=False), nn.LeakyReLU(), nn.Linear(5, 3, bias=False)
    )


@case("mlp_batch_norm", real(6, 6), least=15, most=15)
def mlp_batch_norm():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)
    )


@case("mlp_batch_norm_bare", real(6, 6), least=15, most=15)
def mlp_batch_norm_bare():
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8, affine=False),
        nn.ReLU(),
        nn.Linear(8, 7),
        nn.BatchNorm1d(7, track_running_stats=False),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


@case("mlp_layer_norm", real(4, 6), least=15, most=15)
def mlp_layer_norm():
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.LayerNorm(8),
        nn.GELU(),
        nn.Linear(8, 7),
        nn.LayerNorm(7, bias=False),
        nn.GELU(),
        nn.Linear(7, 3),
    )


@case("mlp_layer_norm_wide", real(4, 6), least=72, most=72)
def mlp_layer_norm_wide():
    return nn.Sequential(
        nn.Linear(6, 40), nn.LayerNorm(40), nn.SiLU(), nn.Linear(40, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 3)
    )


@case("mlp_layer_norm_bare", real(4, 6), norms={"1": ("0.weight", 0)})
def mlp_layer_norm_bare():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), nn.GELU(), nn.Linear(8, 3))


@case("mlp_rms_norm", real(4, 6), least=15, most=15)
def mlp_rms_norm():
    return nn.Sequential(
        nn.Linear(6, 8), nn.RMSNorm(8), nn.SiLU(), nn.Linear(8, 7), nn.RMSNorm(7, eps=1e-3), nn.SiLU(), nn.Linear(7, 3)
    )


@case("mlp_sigmoids", real(4, 6), least=20, most=20)
def mlp_sigmoids():
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Sigmoid(),
        nn.Linear(8, 7),
        nn.Hardsigmoid(),
        nn.Linear(7, 5),
        nn.Softplus(),
        nn.Linear(5, 3),
    )


@case("mlp_prelu", real(4, 6), least=15, most=15)
def mlp_prelu():
    return nn.Sequential(nn.Linear(6, 8), nn.PReLU(8), nn.Linear(8, 7), nn.PReLU(), nn.Linear(7, 3))


@case("mlp_of_tokens", real(3, 5, 6), least=15, most=15)
def mlp_of_tokens():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3))


@case("mlp_dropout", real(4, 6), least=13, most=13)
def mlp_dropout():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(5, 3)
    )


@case("mlp_residual", real(4, 6), least=8 + 5 + 7, most=8 + 5 + 7)
class ResidualMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.inner = nn.ModuleList(nn.Linear(8, width) for width in (5, 7))
        self.outer = nn.ModuleList(nn.Linear(width, 8) for width in (5, 7))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(F.relu(inner(x)))
        return self.head(x)


@case("mlp_functional", real(4, 6), least=8 + 5, most=8 + 5)
class FunctionalMlp(nn.Module):
    """Weights that belong to no layer: `F.linear`, and a matrix product with the weight the other way round."""

    def __init__(self):
        super().__init__()
        self.first, self.first_bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.second, self.second_bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))
        self.third = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        x = F.relu(F.linear(x, self.first, self.first_bias))
        x = torch.tanh(torch.addmm(self.second_bias, x, self.second))
        return x @ self.third


@case("mlp_tied_square", real(4, 5), least=8, most=8)
class TiedSquare(nn.Module):
    """One matrix in two layers: its rows and its columns name the same units."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second, self.head = (
            nn.Linear(5, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(F.relu(self.stem(x)))))))


@case("mlp_tied_branches", real(4, 5), least=8 + 6, most=8 + 6)
class TiedBranches(nn.Module):
    """Two layers with one weight and their own biases, over two branches of the same width."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 8), nn.Linear(5, 8)
        self.first, self.second = nn.Linear(8, 6), nn.Linear(8, 6)
        self.second.weight = self.first.weight
        self.head_left, self.head_right = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        left = F.relu(self.first(torch.tanh(self.left(x))))
        right = F.relu(self.second(torch.tanh(self.right(x))))
        return self.head_left(left), self.head_right(right)


@case("autoencoder_tied", real(4, 6), least=8 + 5, most=8 + 5, whole=("decoder_bias",))
class TiedAutoencoder(nn.Module):
    """The decoder is the encoder transposed: the input's width is the output's, so it stays."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)
        self.middle_bias, self.decoder_bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        code = torch.tanh(self.second(torch.tanh(self.first(x))))
        x = torch.tanh(F.linear(code, self.second.weight.t(), self.middle_bias))
        return F.linear(x, self.first.weight.t(), self.decoder_bias)


@case("shared_block", real(4, 5), least=8, most=8)
class SharedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for _ in range(2):
            x = F.relu(self.block(x))
        return self.head(x)


@case("unused_branch", real(4, 5), least=8, most=8 + 4)
class UnusedBranch(nn.Module):
    """A layer that is called and whose output nobody reads must still fit the trunk."""

    def __init__(self):
        super().__init__()
        self.stem, self.unused, self.head = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        self.unused(x)
        return self.head(x)


@case("never_called", real(4, 5), least=8, most=8)
class NeverCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.spare, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_parameter("nothing", None)
        self.register_buffer("absent", None)

    def forward(self, x):
        return self.head(F.relu(self.stem(x)))


@case("outputs_tuple", real(4, 5), least=8, most=8)
class TupleOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.first(x), (self.second(x), x.shape[0])


@case("outputs_dict", real(4, 5), least=8, most=8)
class DictOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return {"classes": self.first(x), "more": {"boxes": self.second(x)}}


@case("outputs_features", real(4, 5), least=6, most=6, whole=("stem.weight",))
class FeatureOutputs(nn.Module):
    """The features are an output too: whoever reads them counts on their width."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        features = F.relu(self.stem(x))
        return self.head(F.relu(self.inner(features))), features


@case("inputs_two", real(4, 5), real(4, 3), least=6 + 6, most=6 + 6)
class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 6), nn.Linear(3, 6), nn.Linear(12, 3)

    def forward(self, x, y):
        return self.head(torch.cat([F.relu(self.left(x)), F.relu(self.right(y))], dim=1))


@case("inputs_gate", real(4, 5), real(4, 5), least=7, most=7)
class TwoInputsMultiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(5, 7), nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x, y):
        return self.head(self.left(x) * torch.sigmoid(self.right(y)))


@case("input_added", real(4, 5), least=7, most=7, whole=("back.bias",))
class InputAdded(nn.Module):
    """A residual stream that begins at the network's own input cannot be made narrower."""

    def __init__(self):
        super().__init__()
        self.inner, self.back, self.head = nn.Linear(5, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x + self.back(F.relu(self.inner(x))))


@case("positions", real(3, 5, 6), least=8 + 7, most=8 + 7)
class Positions(nn.Module):
    """A learned position is added to every token, and the tokens are summed."""

    def __init__(self):
        super().__init__()
        self.stem, self.position = nn.Linear(6, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(F.relu(self.inner(self.stem(x) + self.position)).mean(1))


@case("layer_scale", real(4, 6), least=8 + 5, most=8 + 5)
class LayerScale(nn.Module):
    """Per-channel parameters and a single one that multiply what they do not create."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (
            nn.Linear(6, 8),
            nn.Linear(8, 5),
            nn.Linear(5, 8),
            nn.Linear(8, 3),
        )
        self.gamma, self.alpha = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(()))
        self.beta = nn.Parameter(torch.randn(1))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.gamma * self.outer(F.relu(self.inner(x))) * self.alpha + self.beta
        return self.head(x)


@case("buffers", image(3), least=6 + 5, most=6 + 5)
class Buffers(nn.Module):
    """Constant buffers: over the input's channels, and over a layer's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
        self.register_buffer("scale", torch.rand(6))
        self.register_buffer("steps", torch.tensor(7))
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)

    def forward(self, x):
        x = self.first((x - self.mean) / self.std) * self.scale.view(1, -1, 1, 1)
        return self.head(F.relu(self.second(F.relu(x))))


@case("masked_weight", image(3), least=6)
class MaskedWeight(nn.Module):
    """A weight that is multiplied by a mask on its way into the convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)
        self.register_buffer("mask", torch.rand(5, 6, 3, 3), persistent=False)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(F.relu(F.conv2d(x, self.second.weight * self.mask, padding=1)))


@case("frozen_stem", image(3), least=6 + 5, most=6 + 5)
def frozen_stem():
    stem = conv_norm(3, 6)
    stem.requires_grad_(False)
    return nn.Sequential(stem, nn.ReLU(), conv_norm(6, 5), nn.ReLU(), pooled_head(5))


@case("checkpointed", real(4, 6), least=8 + 5)
class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + checkpoint(self.block, x, use_reentrant=False))


# -------------------------------------------------------------------------------------------- chains of convolutions


@case("chain", image(3), least=4 + 6 + 5, most=4 + 6 + 5)
def chain():
    return nn.Sequential(
        *conv_norm(3, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *conv_norm(4, 6),
        nn.ReLU(),
        *conv_norm(6, 5),
        nn.ReLU(),
        pooled_head(5),
    )


@case("chain_with_bias", image(3), least=4 + 6, most=4 + 6)
def chain_with_bias():
    return nn.Sequential(
        conv(3, 4, bias=True), nn.ELU(), nn.AvgPool2d(2), conv(4, 6, bias=True), nn.SiLU(), conv(6, 2, bias=True)
    )


@case("chain_pools", image(3, 9), least=4 + 6 + 5, most=4 + 6 + 5)
def chain_pools():
    return nn.Sequential(
        conv(3, 4),
        nn.MaxPool2d(3, 2, 1),
        conv(4, 6),
        nn.AvgPool2d(2, ceil_mode=True),
        conv(6, 5),
        nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d((1, 2)),
        nn.Flatten(),
        nn.Linear(10, 3),
    )


@case("chain_padded", image(3), least=4 + 6, most=4 + 6)
def chain_padded():
    """Padding of every kind: it fills places, never channels."""
    return nn.Sequential(
        nn.ZeroPad2d(1),
        nn.Conv2d(3, 4, 3),
        nn.Tanh(),
        nn.ReflectionPad2d(1),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.ConstantPad2d(1, 0.5),
        nn.Conv2d(6, 2, 3, dilation=2),
    )


@case("conv1d", real(3, 2, 12), least=4 + 6, most=4 + 6)
def conv1d():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 3),
        nn.PReLU(6),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


@case("conv3d", real(2, 2, 4, 6, 6), least=4 + 6, most=4 + 6)
def conv3d():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(4, 6, (1, 3, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@case("prelu_channels", image(3), least=4 + 6, most=4 + 6)
def prelu_channels():
    return nn.Sequential(conv(3, 4), nn.PReLU(4), conv(4, 6), nn.BatchNorm2d(6), nn.PReLU(6), pooled_head(6))


@case("equal_sizes", real(4, 4, 4, 4), least=4 + 4, most=4 + 4)
class EqualSizes(nn.Module):
    """Batch, channels, height and width are all 4: only positions tell them apart."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(4, 4), conv(4, 4)
        self.channel, self.row = nn.Parameter(torch.randn(4, 1, 1)), nn.Parameter(torch.randn(4, 1))
        self.across, self.head = nn.Linear(4, 4), pooled_head(4, 4)

    def forward(self, x):
        x = F.relu(self.first(x) * self.channel)
        x = F.relu(self.second(self.across(x) + self.row))
        return self.head(x)


@case("in_place", image(3), least=4 + 6, most=4 + 6)
class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv_norm(3, 4), conv_norm(4, 6), conv(6, 6), pooled_head(6)

    def forward(self, x):
        x = F.relu_(self.first(x))
        x = self.second(x)
        y = self.third(torch.tanh(x))
        x += y
        x.mul_(2.0).clamp_(min=-1.0)
        F.leaky_relu_(x, 0.1)
        return self.head(x)


@case("flatten_after_norm", image(3, 4), least=5 + 5, most=5 + 5)
def flatten_after_norm():
    """A norm over flattened places: each channel is 4 consecutive features."""
    return nn.Sequential(
        conv(3, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(20),
        nn.Linear(20, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


@case("flatten_layer_norm", image(3, 4), least=5 + 6)
def flatten_layer_norm():
    """A layer norm over channels and places at once, then one over flattened features."""
    return nn.Sequential(
        conv(3, 5), nn.LayerNorm([5, 4, 4]), nn.ReLU(), conv(5, 6), nn.Flatten(), nn.LayerNorm(96), nn.Linear(96, 3)
    )


def lenet(flatten: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Apply(flatten),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


LENET = 4 + 6 + 12 + 8


@case("lenet_flatten", image(1, 16), least=LENET, most=LENET)
def lenet_flatten():
    return lenet(lambda x: x.flatten(1))


@case("lenet_view", image(1, 16), least=LENET, most=LENET)
def lenet_view():
    return lenet(lambda x: x.view(x.shape[0], -1))


@case("lenet_view_sizes", image(1, 16), least=LENET, most=LENET)
def lenet_view_sizes():
    """Every size is read from the tensor, so this code follows a cut although the exported graph shows numbers."""
    return lenet(lambda x: x.reshape(x.size(0), x.size(1) * x.size(2) * x.size(3)))


@case("lenet_view_literal", image(1, 16), least=4 + 12 + 8, most=4 + 12 + 8)
def lenet_view_literal():
    """The number 24 stands in the code: it freezes the layer that feeds it, and nothing else."""
    return lenet(lambda x: x.view(-1, 24))


@case("lenet_full", image(1, 32), least=6 + 120 + 84, most=6 + 120 + 84)
class LeNetLiteral(nn.Module):
    """LeNet-5 as tutorials write it, with `x.view(-1, 400)`."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 400)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@case("view_attribute", image(3, 4), least=5, most=5 + 6)
class ViewAttribute(nn.Module):
    """One view reads the layer's own attribute, which follows the cut; the other a number that the class keeps."""

    def __init__(self):
        super().__init__()
        self.width = 6
        self.first, self.second, self.head = conv(3, 5), conv(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x.view(x.shape[0], self.first.out_channels, 4, 4)
        x = F.relu(self.second(x))
        return self.head(x.view(x.shape[0], self.width, 16).mean(2))


@case("fold_channels", image(3, 4), least=4)
class FoldChannels(nn.Module):
    """Pairs of channels are folded into the batch by a view that runs at many widths and means something at one."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 8), conv(2, 3), conv(12, 4), pooled_head(4)

    def forward(self, x):
        batch = x.shape[0]
        x = F.relu(self.first(x)).reshape(-1, 2, 4, 4)
        x = F.relu(self.second(x)).reshape(batch, -1, 4, 4)
        return self.head(F.relu(self.third(x)))


def vgg(widths: list[int | str], inside: int, hidden: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inside = width
    head = [nn.Linear(inside * 4, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head, nn.Linear(hidden, classes))


def vgg16(base: int, hidden: int) -> nn.Sequential:
    widths = [base, base, "M", base * 2, base * 2, "M", *[base * 4] * 3, "M", *[base * 8] * 3, "M", *[base * 8] * 3]
    return vgg(widths, 3, hidden, 10)


@case("vgg", image(3, 8), least=4 + 5 + 6 + 7 + 8 + 6 + 6)
def small_vgg():
    return vgg([4, 5, "M", 6, 7, 8], 3, 6, 3)


@case("vgg16", image(3, 32, 2), least=4 * (2 + 4 + 12 + 24 + 24) + 2 * 16)
def reduced_vgg16():
    return vgg16(4, 16)


@case("vgg16_full", image(3, 32, 2), least=64 * (2 + 4 + 12 + 24 + 24) + 2 * 512, slow=True)
def full_vgg16():
    return vgg16(64, 512)


# ------------------------------------------------------------------------------------------------------------ residual


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, groups: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv(inside, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_norm(inside, width, 1, stride) if stride != 1 or inside != width else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inside: int, width: int, stride: int, groups: int = 1):
        super().__init__()
        outside = width * self.expansion
        self.conv1, self.bn1 = conv(inside, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outside, 1), nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_norm(inside, outside, 1, stride) if stride != 1 or inside != outside else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def resnet(block, depths: tuple[int, ...], base: int, classes: int = 3, groups: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [conv(3, base), nn.BatchNorm2d(base), nn.ReLU(inplace=True)]
    inside = base
    for stage, depth in enumerate(depths):
        width = base * 2**stage
        for index in range(depth):
            layers.append(block(inside, width, 2 if stage and not index else 1, groups))
            inside = width * block.expansion
    return nn.Sequential(*layers, pooled_head(inside, classes))


@case("resnet", image(3), least=4 + 8 + 2 * 4 + 2 * 8, most=4 + 8 + 2 * 4 + 2 * 8)
def small_resnet():
    return resnet(BasicBlock, (2, 2), 4)


@case("resnet18", image(3, 16, 4), least=60 + 120, most=60 + 120)
def reduced_resnet18():
    return resnet(BasicBlock, (2, 2, 2, 2), 4)


@case("resnet18_full", image(3, 32, 2), least=960 + 1920, most=960 + 1920, slow=True)
def full_resnet18():
    return resnet(BasicBlock, (2, 2, 2, 2), 64, 10)


# stem, four streams of four times the width, and two inner widths in each block
RESNET50 = 1 + 4 * (1 + 2 + 4 + 8) + 2 * (3 * 1 + 4 * 2 + 6 * 4 + 3 * 8)


@case("resnet50", image(3, 16, 4), least=2 * RESNET50, most=2 * RESNET50)
def reduced_resnet50():
    return resnet(Bottleneck, (3, 4, 6, 3), 2)


@case("resnet50_full", image(3, 32, 2), least=64 * RESNET50, most=64 * RESNET50, slow=True)
def full_resnet50():
    return resnet(Bottleneck, (3, 4, 6, 3), 64, 10)


# stem, two streams; in each of two blocks per stage one class per offset within a group, in and out
@case("resnext", image(3), least=8 + 32 + 64 + 2 * (2 + 2) + 2 * (4 + 4))
def resnext():
    return resnet(Bottleneck, (2, 2), 8, groups=4)


@case("resnet_preactivation", image(3), least=4 + 8 + 4 + 8, most=4 + 8 + 4 + 8)
class PreactivationNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (4, 4, 4, 8))
        self.convs = nn.ModuleList([conv(4, 4), conv(4, 4), conv(4, 8, 3, 2), conv(8, 8)])
        self.shortcut, self.norm, self.head = conv(4, 8, 1, 2), nn.BatchNorm2d(8), pooled_head(8)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.convs[1](F.relu(self.norms[1](self.convs[0](F.relu(self.norms[0](x))))))
        y = F.relu(self.norms[2](x))
        x = self.shortcut(y) + self.convs[3](F.relu(self.norms[3](self.convs[2](y))))
        return self.head(F.relu(self.norm(x)))


@case("resnet_padded_shortcut", image(3), least=4 + 4 + 8)
class PaddedShortcut(nn.Module):
    """The shortcut without parameters: every second place, and zeros for the new channels on both sides."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second, self.head = (
            conv_norm(3, 4),
            conv_norm(4, 8, 3, 2),
            conv_norm(8, 8),
            pooled_head(8),
        )
        self.inner, self.outer = conv_norm(4, 4), conv_norm(4, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(F.relu(self.second(F.relu(self.first(x))) + shortcut))


@case("convnext", image(3, 8), least=6 + 9, most=6 + 9)
class ConvNeXt(nn.Module):
    """Depthwise convolution, then layer norm and linear layers with the channels last."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.inner, self.outer = nn.LayerNorm(6, eps=1e-6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.gamma, self.last, self.head = nn.Parameter(torch.ones(6)), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.gamma * self.outer(F.gelu(self.inner(self.norm(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.last(x.mean([-2, -1])))


# ------------------------------------------------------------------------------------------------ grouped, depthwise


@case("grouped", image(3), least=2 + 2 + 6)
def grouped():
    """Convolutions in groups: 8 in, 8 out by 4 groups; 8 in, 12 out by 2 groups."""
    return nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 8, groups=4, bias=True),
        nn.ReLU(),
        conv(8, 12, groups=2),
        pooled_head(12),
    )


@case("grouped_end", image(4), least=4 + 3)
def grouped_end():
    """Groups at the input, whose channels are given, and groups at the output."""
    return nn.Sequential(conv(4, 8, groups=2), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 4, groups=2))


@case("depthwise", image(3), least=6 + 5, most=6 + 5)
def depthwise():
    return nn.Sequential(
        conv(3, 6),
        nn.ReLU(),
        conv(6, 6, groups=6, bias=True),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        conv(6, 5, 1),
        nn.ReLU(),
        pooled_head(5),
    )


@case("depthwise_multiplier", image(3), least=4 + 5, most=4 + 5)
def depthwise_multiplier():
    """Each of 4 channels becomes 2: they leave with it."""
    return nn.Sequential(
        conv(3, 4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        conv(8, 5, 1),
        nn.ReLU(),
        pooled_head(5),
    )


@case("depthwise_of_input", image(3), least=5)
def depthwise_of_input():
    return nn.Sequential(conv(3, 6, groups=3), nn.ReLU(), conv(6, 5, 1), nn.ReLU(), pooled_head(5))


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int):
        super().__init__()
        hidden = inside * expansion
        self.residual = stride == 1 and inside == outside
        self.body = nn.Sequential(
            *conv_norm(inside, hidden, 1),
            nn.ReLU6(inplace=True),
            *conv_norm(hidden, hidden, 3, stride, hidden),
            nn.ReLU6(inplace=True),
            *conv_norm(hidden, outside, 1),
        )

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


@case("mobilenet", image(3), least=4 + 6 + 8 + 12 + 18 + 10, most=4 + 6 + 8 + 12 + 18 + 10)
def mobilenet():
    return nn.Sequential(
        *conv_norm(3, 4, 3),
        nn.ReLU6(),
        InvertedResidual(4, 4, 1, 2),
        InvertedResidual(4, 6, 2, 3),
        InvertedResidual(6, 6, 1, 3),
        *conv_norm(6, 10, 1),
        nn.ReLU6(),
        pooled_head(10),
    )


@case("channel_shuffle", image(3), least=4)
class ShuffleNet(nn.Module):
    """Grouped 1×1 convolutions with a shuffle between the groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv_norm(3, 8), conv(8, 8, 1, groups=2), conv(8, 8, 1, groups=2)
        self.depthwise, self.last, self.head = conv_norm(8, 8, 3, 1, 8), conv(8, 4, 1), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(F.relu(self.stem(x))))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(F.relu(self.last(self.second(self.depthwise(x)))))


@case("channel_shuffle_module", image(3), least=5, named=("channel_shuffle",))
def channel_shuffle_module():
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.ChannelShuffle(2), conv(8, 5), nn.ReLU(), pooled_head(5))


# --------------------------------------------------------------------------------------------------- concat and dense


@case("concat", image(3), least=4 + 5 + 6, most=4 + 5 + 6)
class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.last, self.head = conv_norm(3, 4), conv_norm(3, 5), conv_norm(12, 6), pooled_head(6)

    def forward(self, x):
        x = torch.cat([F.relu(self.left(x)), x, F.relu(self.right(x))], dim=1)
        return self.head(F.relu(self.last(x)))


@case("concat_norm", image(3), least=4 + 5, most=4 + 5)
class ConcatNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.head = conv(3, 4), conv(3, 5), nn.BatchNorm2d(9), pooled_head(9)

    def forward(self, x):
        return self.head(F.relu(self.norm(torch.cat([self.left(x), self.right(x)], dim=1))))


@case("concat_itself", image(3), least=4 + 5, most=4 + 5)
class ConcatItself(nn.Module):
    """One layer's output twice, with another's in between."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.head = conv(3, 4), conv(3, 5), nn.BatchNorm2d(13), pooled_head(13)

    def forward(self, x):
        left = F.relu(self.left(x))
        return self.head(F.relu(self.norm(torch.cat([left, F.relu(self.right(x)), left], dim=1))))


@case("concat_signs", image(3), least=4 + 5, most=4 + 5)
class ConcatSigns(nn.Module):
    """Concatenated rectifiers: a channel and its negative."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv_norm(3, 4), conv(8, 5), pooled_head(10)

    def forward(self, x):
        x = self.first(x)
        x = self.second(F.relu(torch.cat([x, -x], dim=-3)))
        return self.head(F.relu(torch.cat([x, x.neg()], dim=1)))


@case("concat_added", image(3), least=9, most=9)
class ConcatAdded(nn.Module):
    """A concatenation of two layers is added to one layer: three index sets are one."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.whole, self.head = conv(3, 4), conv(3, 5), conv(3, 9), pooled_head(9)

    def forward(self, x):
        return self.head(F.relu(torch.cat([self.left(x), self.right(x)], dim=1) + self.whole(x)))


@case("concat_places", image(3), least=5, most=5)
class ConcatPlaces(nn.Module):
    """Concatenation of places: both layers carry the same channels."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = conv(3, 5), conv(3, 5), pooled_head(5)

    def forward(self, x):
        return self.head(F.relu(torch.cat([self.left(x), self.right(x)], dim=3)))


@case("inception", image(3), least=4 + 3 + 2 + 5 + 3 + 2 + 4, most=4 + 3 + 2 + 5 + 3 + 2 + 4)
class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.three = (
            conv_norm(3, 4),
            conv_norm(4, 3, 1),
            nn.Sequential(conv_norm(4, 2, 1), nn.ReLU(), conv_norm(2, 5)),
        )
        self.pool, self.five = (
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(4, 3, 1)),
            nn.Sequential(conv_norm(4, 2, 1), nn.ReLU()),
        )
        self.last, self.head = conv_norm(13, 4), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = torch.cat([F.relu(branch(x)) for branch in (self.one, self.three, self.pool, self.five)], 1)
        return self.head(F.relu(self.last(x)))


class DenseLayer(nn.Module):
    def __init__(self, inside: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), conv(inside, 2 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), conv(2 * growth, growth)

    def forward(self, x):
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


# stem 4; two blocks of two layers (growth 3, bottleneck 6); transition 5
@case("densenet", image(3), least=4 + 4 * (3 + 6) + 5, most=4 + 4 * (3 + 6) + 5)
def densenet():
    return nn.Sequential(
        conv(3, 4),
        DenseLayer(4, 3),
        DenseLayer(7, 3),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        conv(10, 5, 1),
        nn.AvgPool2d(2),
        DenseLayer(5, 3),
        DenseLayer(8, 3),
        nn.BatchNorm2d(11),
        nn.ReLU(),
        pooled_head(11),
    )


@case("chunk", image(3), least=4 + 5)
class Chunk(nn.Module):
    """Halves of the channels go different ways and meet again."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv_norm(3, 8), conv_norm(4, 5), pooled_head(5)

    def forward(self, x):
        left, right = F.relu(self.first(x)).chunk(2, dim=1)
        return self.head(F.relu(self.second(left * torch.sigmoid(right))))


@case("split_literal", image(3), least=5)
class SplitLiteral(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.left, self.right, self.head = conv_norm(3, 8), conv(3, 5), conv(5, 5), pooled_head(5)

    def forward(self, x):
        left, right = torch.split(F.relu(self.first(x)), [3, 5], dim=1)
        return self.head(F.relu(self.left(left) + self.right(right)))


@case("slices", image(3), least=5)
class Slices(nn.Module):
    """A partial convolution: the first channels are convolved, the others pass, and both are joined again."""

    def __init__(self):
        super().__init__()
        self.first, self.part, self.last, self.head = conv_norm(3, 8), conv(4, 4), conv_norm(8, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = torch.cat([self.part(x[:, :4]), x[:, 4:]], 1)
        return self.head(F.relu(self.last(x)))


@case("glu", image(3), least=4 + 5)
class Glu(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(4, 5), pooled_head(5)

    def forward(self, x):
        return self.head(F.relu(self.second(F.glu(self.first(x), dim=1))))


@case("gated_mlp", real(4, 6), least=8 + 7, most=8 + 7)
class GatedMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gate, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(8, 7), nn.Linear(7, 8)
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


@case("stacked", image(3), least=5 + 4)
class Stacked(nn.Module):
    """Branches stacked along a new dimension and weighed together (selective kernels)."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.weight = conv_norm(3, 5), conv_norm(3, 5), nn.Parameter(torch.randn(2, 1, 1, 1, 1))
        self.last, self.head = conv(5, 4), pooled_head(4)

    def forward(self, x):
        both = torch.stack([self.left(x), self.right(x)], dim=0)
        return self.head(F.relu(self.last(F.relu((both * self.weight).sum(0)))))


@case("maxout", image(3), least=4)
class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(4, 4), pooled_head(4)

    def forward(self, x):
        x = self.first(x)
        x = x.view(x.shape[0], 4, 2, *x.shape[2:]).amax(2)
        return self.head(F.relu(self.second(x)))


@case("repeated_channels", image(3), least=5)
class RepeatedChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 3), conv(6, 4), conv(8, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x)).repeat(1, 2, 1, 1)))
        return self.head(F.relu(self.third(x.repeat_interleave(2, dim=1))))


# ------------------------------------------------------------------------------------------- decoders and transposed


@case("transposed", real(3, 3, 5, 5), least=6 + 4, most=6 + 4)
def transposed():
    return nn.Sequential(
        conv(3, 6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3, padding=1),
    )


@case("transposed_groups", real(3, 2, 7), least=3 + 4 + 5)
def transposed_groups():
    """Transposed convolutions in groups, in one dimension, among them a depthwise one."""
    return nn.Sequential(
        nn.Conv1d(2, 6, 3),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 6, 4, 2, groups=6),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 8, 3, groups=2),
        nn.ReLU(),
        nn.Conv1d(8, 5, 1),
        nn.ReLU(),
        nn.Conv1d(5, 2, 1),
    )


@case("transposed_groups_2d", image(3, 4), least=2 + 3)
def transposed_groups_2d():
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 9, 2, 2, groups=3), nn.BatchNorm2d(9), nn.ReLU(), conv(9, 2)
    )


@case("unet", image(3), least=2 * (3 + 5 + 7) + 5 + 3 + 2 * (5 + 3), most=54)
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([self.twice(3, 3), self.twice(3, 5), self.twice(5, 7)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(7, 5, 2, 2), nn.ConvTranspose2d(5, 3, 2, 2)])
        self.join = nn.ModuleList([self.twice(10, 5), self.twice(6, 3)])
        self.head = nn.Conv2d(3, 2, 1)

    @staticmethod
    def twice(inside: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            *conv_norm(inside, width), nn.ReLU(inplace=True), *conv_norm(width, width), nn.ReLU(inplace=True)
        )

    def forward(self, x):
        skips = []
        for level in self.down:
            x = level(x if not skips else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        return self.head(x)


class UpProjection(nn.Module):
    """Unpool, then two branches that are added (Laina et al., 2016)."""

    def __init__(self, inside: int, outside: int, upsample: Callable[[Tensor], Tensor]):
        super().__init__()
        self.upsample = upsample
        self.main = nn.Sequential(*conv_norm(inside, outside, 5), nn.ReLU(), *conv_norm(outside, outside))
        self.side = conv_norm(inside, outside, 5)

    def forward(self, x):
        x = self.upsample(x)
        return F.relu(self.main(x) + self.side(x))


def unpool(x: Tensor) -> Tensor:
    """Each place becomes the upper left of a 2×2 field of zeros."""
    batch, channels, height, width = x.shape
    fields = x.new_zeros(batch, channels, height, 2, width, 2)
    fields[:, :, :, 0, :, 0] = x
    return fields.view(batch, channels, 2 * height, 2 * width)


def unpool_transposed(x: Tensor) -> Tensor:
    """The same as a transposed convolution with a constant kernel, one group per channel."""
    kernel = torch.zeros(x.shape[1], 1, 2, 2, dtype=x.dtype, device=x.device)
    kernel[:, :, 0, 0] = 1
    return F.conv_transpose2d(x, kernel, stride=2, groups=x.shape[1])


def decoder(upsample: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(3, 4, 3, 2),
        nn.ReLU(),
        *conv_norm(4, 7, 3, 2),
        nn.ReLU(),
        *conv_norm(7, 6, 1),
        UpProjection(6, 5, upsample),
        UpProjection(5, 4, upsample),
        conv(4, 1, bias=True),
        nn.ReLU(),
        nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True),
    )


DECODER = 4 + 7 + 6 + 2 * 5 + 2 * 4


@case("decoder_nearest", image(3), least=DECODER, most=DECODER)
def decoder_nearest():
    return decoder(nn.Upsample(scale_factor=2))


@case("decoder_bilinear", image(3), least=DECODER, most=DECODER)
def decoder_bilinear():
    return decoder(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


@case("decoder_unpool_pad", image(3), least=DECODER)
def decoder_unpool_pad():
    """Unpooling by stacking with zeros: no number of channels in the code."""

    def upsample(x):
        x = torch.stack([x, torch.zeros_like(x)], dim=-1).flatten(-2)
        return torch.stack([x, torch.zeros_like(x)], dim=-2).flatten(-3, -2)

    return decoder(upsample)


@case("decoder_unpool", image(3), least=4 + 7 + 5 + 4 + 4)
def decoder_unpool():
    return decoder(unpool)


@case("decoder_unpool_transposed", image(3), least=4 + 7 + 5 + 4 + 4)
def decoder_unpool_transposed():
    return decoder(unpool_transposed)


@case("max_unpool", image(3), least=0)
class MaxUnpool(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = conv(3, 4), conv(4, 4), conv(4, 2)

    def forward(self, x):
        x, places = F.max_pool2d(self.first(x), 2, return_indices=True)
        return self.last(F.relu(F.max_unpool2d(self.second(x), places, 2)))


@case("pyramid", image(3), least=4 + 6 + 5, most=4 + 6 + 5)
class Pyramid(nn.Module):
    """Feature pyramid: lateral layers are added to up-sampled ones; every level has an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv_norm(3, 4), conv_norm(4, 6, 3, 2)
        self.lateral = nn.ModuleList([conv(4, 5, 1, bias=True), conv(6, 5, 1, bias=True)])
        self.head = conv(5, 2, bias=True)

    def forward(self, x):
        fine = F.relu(self.first(x))
        coarse = F.relu(self.second(fine))
        top = self.lateral[1](coarse)
        low = self.lateral[0](fine) + F.interpolate(top, size=fine.shape[-2:], mode="nearest")
        return [self.head(low), self.head(top)]


@case("pixel_shuffle", image(3, 4), least=0)
def pixel_shuffle():
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.PixelShuffle(2), conv(2, 5), nn.PixelUnshuffle(2), nn.ReLU(), conv(20, 2)
    )


# --------------------------------------------------------------------------------------------------- squeeze, gates


class SqueezeConv(nn.Module):
    def __init__(self, width: int, hidden: int, gate: nn.Module):
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1), gate

    def forward(self, x):
        return x * self.gate(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class SqueezeLinear(nn.Module):
    def __init__(self, width: int, hidden: int, gate: nn.Module):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width), gate)

    def forward(self, x):
        batch, channels = x.shape[:2]
        gate = self.body(F.adaptive_avg_pool2d(x, 1).view(batch, channels)).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


def squeeze_net(squeeze, gate: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *conv_norm(3, 6), nn.ReLU(), squeeze(6, 4, gate), *conv_norm(6, 5), nn.Hardswish(), pooled_head(5)
    )


@case("squeeze_conv", image(3), least=15, most=15)
def squeeze_conv():
    return squeeze_net(SqueezeConv, nn.Sigmoid())


@case("squeeze_conv_hard", image(3), least=15, most=15)
def squeeze_conv_hard():
    return squeeze_net(SqueezeConv, nn.Hardsigmoid())


@case("squeeze_linear", image(3), least=15, most=15)
def squeeze_linear():
    return squeeze_net(SqueezeLinear, nn.Sigmoid())


@case("squeeze_linear_hard", image(3), least=15, most=15)
def squeeze_linear_hard():
    return squeeze_net(SqueezeLinear, nn.Hardswish())


@case("spatial_gate", image(3), least=6 + 4, most=6 + 4, whole=("gate.bias",))
class SpatialGate(nn.Module):
    """One channel multiplies six: it is spread over them, not one of them."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.gate, self.head = (
            conv_norm(3, 6),
            conv(6, 4),
            conv(4, 1, bias=True),
            pooled_head(6),
        )

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(x * torch.sigmoid(self.gate(F.relu(self.inner(x)))))


@case("attention_map", image(3), least=4)
class AttentionMap(nn.Module):
    """Mean and maximum over the channels make a map (convolutional block attention): they mix what they reduce."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.second, self.head = conv_norm(3, 6), conv(2, 1), conv(6, 4), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(x))
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(F.relu(self.second(x * torch.sigmoid(self.gate(pooled)))))


# -------------------------------------------------------------------------------------------------------------- norms


def norm_net(make: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv(3, 8), make(8), nn.ReLU(), conv(8, 6), make(6), nn.ReLU(), pooled_head(6))


@case("group_norm_one", image(3), least=14, most=14)
def group_norm_one():
    """One group: a layer norm over channels and places."""
    return norm_net(lambda width: nn.GroupNorm(1, width))


@case("group_norm_each", image(3), least=14, most=14)
def group_norm_each():
    """As many groups as channels: an instance norm."""
    return norm_net(lambda width: nn.GroupNorm(width, width))


@case("group_norm_two", image(3), least=4 + 3, most=14)
def group_norm_two():
    return norm_net(lambda width: nn.GroupNorm(2, width))


@case("group_norm_pairs", image(3), least=4 + 3, most=14)
def group_norm_pairs():
    return norm_net(lambda width: nn.GroupNorm(width // 2, width))


@case("group_norm_bare", image(3), norms={"1": ("0.weight", 0)})
def group_norm_bare():
    return nn.Sequential(conv(3, 8), nn.GroupNorm(4, 8, affine=False), nn.ReLU(), conv(8, 2))


@case("group_norm_residual", image(3), least=2)
class GroupNormResidual(nn.Module):
    """The stream meets norms of 2 and of 4 groups, and a convolution of 2 groups."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv(3, 8), conv(8, 8), conv(8, 8, groups=2)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 8), nn.GroupNorm(4, 8), nn.GroupNorm(8, 8)])
        self.head = pooled_head(8)

    def forward(self, x):
        x = self.norms[0](self.stem(x))
        x = x + self.norms[1](self.first(F.relu(x)))
        return self.head(F.relu(x + self.norms[2](self.second(F.relu(x)))))


@case("group_norm_concat", image(3), least=0)
class GroupNormConcat(nn.Module):
    """A group that spans two layers."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.head = conv(3, 3), conv(3, 5), nn.GroupNorm(2, 8), pooled_head(8)

    def forward(self, x):
        return self.head(F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1))))


@case("instance_norm", image(3), least=14, most=14)
def instance_norm():
    return norm_net(lambda width: nn.InstanceNorm2d(width, affine=True))


@case("instance_norm_tracked", image(3), least=14, most=14)
def instance_norm_tracked():
    return norm_net(lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True))


@case("instance_norm_bare", image(3), least=14, most=14)
def instance_norm_bare():
    return norm_net(lambda width: nn.InstanceNorm2d(width))


@case("local_response_norm", image(3), least=4, whole=("0.weight",))
def local_response_norm():
    """Neighbouring channels are averaged: who the neighbours are is part of the function."""
    return nn.Sequential(conv(3, 6), nn.LocalResponseNorm(3), nn.ReLU(), conv(6, 4), nn.ReLU(), pooled_head(4))


@case("unit_vectors", real(4, 6), least=7)
class UnitVectors(nn.Module):
    """Features divided by their length, and a head of unit rows (cosine similarity)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 7), nn.Linear(7, 8), nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = F.normalize(self.second(F.relu(self.first(x))), dim=1)
        return F.linear(x, F.normalize(self.head.weight, dim=1))


# --------------------------------------------------------- mixing over channels: what must stay whole, or be right


class MixBetween(nn.Module):
    """Two layers around a function that may mix the first one's channels."""

    def __init__(self, function: Callable[[Tensor], Tensor], inside: int = 6, outside: int = 6):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, inside), nn.Linear(outside, 7), nn.Linear(7, 3)
        self.function = function

    def forward(self, x):
        return self.head(F.relu(self.second(self.function(torch.tanh(self.first(x))))))


def mixing(name: str, function: Callable[[Tensor], Tensor], outside: int = 6, whole: bool = True):
    least = 7
    case(name, real(4, 5), least=least, most=7 if whole else 13, whole=("first.weight",) if whole else ())(
        lambda: MixBetween(function, 6, outside)
    )


mixing("mix_softmax", lambda x: x.softmax(1))
mixing("mix_log_softmax", lambda x: F.log_softmax(x, dim=-1))
mixing("mix_mean", lambda x: x * x.mean(1, keepdim=True))
mixing("mix_mean_kept", lambda x: x - x.mean(1, keepdim=True))
mixing("mix_variance", lambda x: x / (1 + x.var(1, keepdim=True)))
mixing("mix_max", lambda x: x - x.max(1, keepdim=True).values)
mixing("mix_amin", lambda x: x - x.amin(1, keepdim=True))
mixing("mix_product", lambda x: x + x.prod(1, keepdim=True))
mixing("mix_sort", lambda x: x.sort(1).values)
mixing("mix_topk", lambda x: x.topk(3, dim=1).values, 3)
mixing("mix_cumulative_product", lambda x: (1 + x).cumprod(1))
mixing("mix_argmax", lambda x: x * (x.argmax(1, keepdim=True) + 1))
mixing("mix_fourier", lambda x: torch.fft.fft(x, dim=1).real)
mixing("mix_logsumexp", lambda x: x - x.logsumexp(1, keepdim=True))
mixing("mix_count", lambda x: x / x.shape[1])
mixing("mix_scale", lambda x: x / math.sqrt(x.size(-1)))
mixing("mix_sum_over_count", lambda x: x - x.sum(1, keepdim=True) / x.shape[1])
mixing("mix_pool", lambda x: F.avg_pool1d(x.unsqueeze(1), 3, 1, 1).squeeze(1))
mixing("mix_position", lambda x: x * torch.arange(x.shape[1], dtype=x.dtype))
mixing("mix_median", lambda x: x - x.median(1, keepdim=True).values)
mixing("mix_outer", lambda x: torch.einsum("bi,bj->bij", x, x).flatten(1), 36, whole=False)
mixing("mix_sum", lambda x: x * x.sum(1, keepdim=True), whole=False)
mixing("mix_flip", lambda x: x.flip(1), whole=False)
mixing("mix_roll", lambda x: x.roll(2, 1), whole=False)
mixing("mix_cumulative_sum", lambda x: x.cumsum(1), whole=False)
mixing("mix_gather", lambda x: x[:, [5, 0, 3, 3, 1, 2]], whole=False)
mixing("mix_index_select", lambda x: x.index_select(1, torch.tensor([5, 4, 0, 1, 1, 2])), whole=False)
mixing("mix_where", lambda x: torch.where(x > 0, x, 0.1 * x), whole=False)
mixing("mix_clamp", lambda x: torch.clamp(x, -0.5, 0.5).pow(3), whole=False)
mixing("mix_constant", lambda x: torch.sub(2.0, x) + torch.full_like(x, 0.25), whole=False)
mixing("mix_pad", lambda x: F.pad(x, (1, 1)), 8, whole=False)
mixing("mix_transposed", lambda x: x.t().reshape(6, -1).t(), whole=False)
mixing("mix_unbound", lambda x: torch.stack(x.unbind(1), 1), whole=False)
mixing("mix_detached", lambda x: x * x.detach().abs(), whole=False)
mixing("mix_double", lambda x: x.to(torch.float64).contiguous().clone(), whole=False)
mixing("mix_norm", lambda x: x / (1 + x.norm(dim=1, keepdim=True)), whole=False)


@torch.library.custom_op("earlycrop_tests::blend", mutates_args=())
def blend(x: Tensor) -> Tensor:
    return x + 0.5 * x.flip(1)


@blend.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


blend.register_autograd(lambda _, gradient: gradient + 0.5 * gradient.flip(1))


@case("custom_operator", real(4, 5), least=7, most=7, whole=("first.weight", "first.bias"), named=("blend",))
def custom_operator():
    """An operator that the engine cannot know; it would be wrong to take it for element-wise."""
    return MixBetween(lambda x: torch.ops.earlycrop_tests.blend(x))


@case("standardised_weights", image(3), least=4)
class StandardisedWeights(nn.Module):
    """Filters with mean zero and variance one: their inputs are mixed by the statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 4), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(x))
        weight = self.second.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.var((1, 2, 3), keepdim=True) + 1e-3).sqrt()
        return self.head(F.relu(F.conv2d(x, weight, padding=1)))


@case("weight_norm", real(4, 5))
def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(5, 6)),
        nn.ReLU(),
        parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.ReLU(),
        nn.Linear(4, 3),
    )


@case("spectral_norm", real(4, 5))
def spectral_norm():
    return nn.Sequential(
        nn.Linear(5, 6), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3)
    )


@case("bilinear", real(4, 5), real(4, 3), named=("bilinear",))
class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.both, self.head = (
            nn.Linear(5, 6),
            nn.Linear(3, 4),
            nn.Bilinear(6, 4, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x, y):
        return self.head(F.relu(self.both(F.relu(self.left(x)), F.relu(self.right(y)))))


@case("mixer", image(3, 4), least=6 + 5 + 7)
class Mixer(nn.Module):
    """Linear layers over places and over channels in turn."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1, self.norm2, self.head = conv(3, 6, 1), nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.places, self.channels = (
            nn.Sequential(nn.Linear(16, 5), nn.GELU(), nn.Linear(5, 16)),
            nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)),
        )

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


@case("single_head_attention", real(3, 5, 6), least=4 + 5 + 4)
class SingleHeadAttention(nn.Module):
    """Scores between tokens, scaled by a number: queries and keys share their channels."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        weights = (self.query(x) @ self.key(x).transpose(1, 2) * 0.5).softmax(-1)
        return self.head(F.relu(self.inner(weights @ self.value(x))))


@case("scaled_attention", real(3, 5, 6), least=7)
class ScaledAttention(nn.Module):
    """The fused attention divides by the square root of the head's size: queries and keys cannot be made narrower."""

    def __init__(self):
        super().__init__()
        self.inputs, self.output, self.inner, self.head = (
            nn.Linear(6, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        query, key, value = (part.view(3, 5, 2, 4).transpose(1, 2) for part in self.inputs(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(3, 5, 8)
        return self.head(F.relu(self.inner(self.output(x))))


@case("multihead_attention", real(3, 5, 6), least=0)
class MultiheadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.attention, self.inner, self.head = (
            nn.Linear(6, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(self.inner(x + self.attention(x, x, x, need_weights=False)[0])))


@case("transformer_layer", real(3, 5, 6), least=0)
def transformer_layer():
    return nn.Sequential(
        nn.Linear(6, 8), nn.TransformerEncoderLayer(8, 2, 10, dropout=0.0, batch_first=True), nn.Linear(8, 3)
    )


class Recurrent(nn.Module):
    def __init__(self, cell: Callable[..., nn.Module]):
        super().__init__()
        self.stem, self.recurrent, self.head = nn.Linear(4, 5), cell(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrent(F.relu(self.stem(x)))[0][:, -1])


@case("recurrent_lstm", real(3, 4, 4), named=("lstm",))
def recurrent_lstm():
    return Recurrent(nn.LSTM)


@case("recurrent_gru", real(3, 4, 4), named=("gru",))
def recurrent_gru():
    return Recurrent(nn.GRU)


@case("embedding", integers(9, 4, 5), least=6 + 7)
class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(9, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(F.relu(self.inner(self.embedding(x))).mean(1))


@case("embedding_tied", integers(9, 4, 5), least=6 + 7)
class TiedEmbedding(nn.Module):
    """The decoder's rows are the embedding's: their width may leave, their number may not."""

    def __init__(self):
        super().__init__()
        self.embedding, self.inner, self.outer, self.decoder = (
            nn.Embedding(9, 6),
            nn.Linear(6, 7),
            nn.Linear(7, 6),
            nn.Linear(6, 9),
        )
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        x = self.embedding(x)
        return self.decoder(x + self.outer(F.relu(self.inner(x))))


@case("einsum", real(3, 5, 6), least=7, named=("einsum",))
class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.third(F.relu(self.second(F.relu(torch.einsum("bti,ij->btj", x, self.first)))))


@case("double_use", image(3), least=5 + 4)
class DoubleUse(nn.Module):
    """One layer before and one behind a pool share a norm; the norm's channels are both layers'."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm, self.last, self.head = (
            conv(3, 5),
            conv(3, 5),
            nn.BatchNorm2d(5),
            conv(5, 4),
            pooled_head(4),
        )

    def forward(self, x):
        x = F.relu(self.norm(self.left(x))) + F.relu(self.norm(self.right(x)))
        return self.head(F.relu(self.last(x)))


@case("shared_convolution", image(3), least=5 + 4, most=5 + 4)
class SharedConvolution(nn.Module):
    """One block at three scales, as detection heads have it."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = (
            conv_norm(3, 5),
            nn.Sequential(conv_norm(5, 5), nn.ReLU()),
            conv(5, 4, bias=True),
        )
        self.last = conv(4, 2, bias=True)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = self.block(x)
        y = self.block(F.max_pool2d(x, 2))
        return tuple(self.last(F.relu(self.head(level))) for level in (x, y))


@case("broadcast_width", image(3), least=5, most=5 + 1)
class BroadcastWidth(nn.Module):
    """A layer of one channel is added to a layer of five."""

    def __init__(self):
        super().__init__()
        self.many, self.one, self.head = conv(3, 5), conv(3, 1), pooled_head(5)

    def forward(self, x):
        return self.head(F.relu(self.many(x) + self.one(x)))


@case("stream_scaled", image(3), least=5, most=5)
class StreamScaled(nn.Module):
    """Constant tensors made in the forward pass, and a comparison."""

    def __init__(self):
        super().__init__()
        self.first, self.head = conv(3, 5), pooled_head(5)

    def forward(self, x):
        x = self.first(x)
        x = x * torch.ones_like(x) + torch.zeros(1, dtype=x.dtype)
        return self.head(x * (x > 0))


# ------------------------------------------------------------------------------------------------------- more traps


@case("depthwise_pair", image(3), least=2, most=2)
def depthwise_pair():
    """Two groups of one channel: when one of them leaves, the convolution has no groups any more."""
    return nn.Sequential(conv(3, 2), nn.ReLU(), conv(2, 2, groups=2, bias=True), nn.ReLU(), pooled_head(2))


@case("group_norm_pair", image(3), least=2)
def group_norm_pair():
    return nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), pooled_head(4))


@case("dropout_channels", image(3), least=6 + 5, most=6 + 5)
def dropout_channels():
    return nn.Sequential(
        conv(3, 6), nn.Dropout2d(), nn.ReLU(), conv(6, 5), nn.Dropout(0.2), nn.AlphaDropout(), nn.ReLU(), pooled_head(5)
    )


@case("blur_pool", image(3), least=0)
class BlurPool(nn.Module):
    """A fixed kernel, once as a buffer with one copy per channel and once spread over however many there are."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)
        kernel = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("own", (kernel[:, None] * kernel / 16).repeat(6, 1, 1, 1))
        self.register_buffer("shared", (kernel[:, None] * kernel / 16)[None, None])

    def forward(self, x):
        x = F.conv2d(F.relu(self.first(x)), self.own, stride=2, padding=1, groups=6)
        x = F.relu(self.second(x))
        return self.head(F.conv2d(x, self.shared.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1]))


@case("blur_pool_counted", image(3), least=6 + 5)
class BlurPoolCounted(BlurPool):
    """The same, with the number of groups read from the tensor."""

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.second(F.conv2d(x, self.own, stride=2, padding=1, groups=x.shape[1])))
        return self.head(F.conv2d(x, self.shared.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1]))


@case("coordinates", image(3), least=6 + 5, most=6 + 5)
class Coordinates(nn.Module):
    """Two channels of coordinates are put in front of a layer's own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(8, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        row = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        row = row.expand(x.shape[0], 1, x.shape[-2], -1)
        return self.head(F.relu(self.second(torch.cat([row, row.transpose(2, 3), x], 1))))


@case("gram", image(3), least=0)
class Gram(nn.Module):
    """Products of every pair of channels (bilinear pooling)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 4), conv(3, 5), nn.Linear(20, 3)

    def forward(self, x):
        left, right = F.relu(self.first(x)).flatten(2), F.relu(self.second(x)).flatten(2)
        return self.head((left @ right.transpose(1, 2)).flatten(1))


@case("outer_sum", real(4, 5), least=5)
class OuterSum(nn.Module):
    """Six features as rows plus the same six as columns: the sizes agree, the index sets do not."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.head(F.relu(self.second(torch.tanh(x[:, :, None] + x[:, None, :])).mean(1)))


@case("low_rank", real(4, 5), least=8 + 6)
class LowRank(nn.Module):
    """A weight that is the product of two parameters."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(5, 8), nn.Linear(6, 3)
        self.left, self.right = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return self.head(F.relu(F.linear(F.relu(self.first(x)), self.left @ self.right)))


@case("hyper_network", real(4, 5), least=0)
class HyperNetwork(nn.Module):
    """A layer's weight is another layer's output."""

    def __init__(self):
        super().__init__()
        self.stem, self.code, self.writer, self.head = (
            nn.Linear(5, 6),
            nn.Parameter(torch.randn(3)),
            nn.Linear(3, 48),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        weight = self.writer(self.code).view(8, 6)
        return self.head(F.relu(F.linear(F.relu(self.stem(x)), weight)))


@case("conditional_convolution", image(3), least=5 + 5)
class ConditionalConvolution(nn.Module):
    """Experts' filters, mixed for each batch."""

    def __init__(self):
        super().__init__()
        self.first, self.experts, self.mix = (
            conv(3, 5),
            nn.Parameter(torch.randn(2, 6, 5, 3, 3)),
            nn.Parameter(torch.randn(2)),
        )
        self.last, self.head = conv(6, 5), pooled_head(5)

    def forward(self, x):
        weight = (self.mix.view(-1, 1, 1, 1, 1) * self.experts).sum(0)
        return self.head(F.relu(self.last(F.relu(F.conv2d(F.relu(self.first(x)), weight, padding=1)))))


@case("channels_last_linear", image(3), least=6 + 5, most=6 + 5)
class ChannelsLastLinear(nn.Module):
    """Places become rows and come back."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), nn.Linear(6, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        x = self.second(x.permute(0, 2, 3, 1).reshape(-1, channels))
        return self.head(F.relu(x.view(batch, height, width, -1).permute(0, 3, 1, 2)))


@case("channels_last_flatten", image(3, 4), least=6)
class ChannelsLastFlatten(nn.Module):
    """Flattened with the channels innermost: a channel's columns are not consecutive."""

    def __init__(self):
        super().__init__()
        self.first, self.head = conv(3, 6), nn.Linear(6 * 16, 3)

    def forward(self, x):
        return self.head(F.relu(self.first(x)).permute(0, 2, 3, 1).flatten(1))


@case("unflatten", real(4, 5), least=7)
def unflatten():
    """Features become channels and places; the widths stand in the module."""
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 24), nn.ReLU(), nn.Unflatten(1, (6, 2, 2)), nn.ConvTranspose2d(6, 2, 2)
    )


@case("generator", real(4, 5), least=7)
class Generator(nn.Module):
    """The same with every size but the places' read from the tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 24)
        self.norm, self.up, self.last = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 5, 2, 2), conv(5, 2)

    def forward(self, x):
        x = self.second(F.relu(self.first(x)))
        x = x.view(x.shape[0], -1, 2, 2)
        return torch.tanh(self.last(F.relu(self.up(F.relu(self.norm(x))))))


@case("halves", image(3), least=5)
class Halves(nn.Module):
    """Every second channel, and halves of a width that the code reads from the tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.even, self.odd = conv(3, 8), conv(4, 6), conv(4, 6)
        self.left, self.right, self.head = conv(3, 5), conv(3, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.even(x[:, ::2]) + self.odd(x[:, 1::2]))
        half = x.shape[1] // 2
        left, right = x.split(half, dim=1)
        return self.head(F.relu(self.left(left) - self.right(right) + self.left(x.narrow(1, half, half))))


@case("split_in_pairs", image(3), least=5)
class SplitInPairs(nn.Module):
    """How many pieces there are follows from the width; the code adds them all up."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(2, 5), pooled_head(5)

    def forward(self, x):
        pieces = F.relu(self.first(x)).split(2, dim=1)
        return self.head(F.relu(self.second(sum(pieces))))


@case("part_repeated", image(3), least=5)
class PartRepeated(nn.Module):
    """A layer's output and, again, its first channel and its last two."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(9, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(torch.cat([x, x[:, :1], x[:, -2:]], 1))))


@case("expand_literal", real(4, 5), least=7, whole=("first.weight",))
class ExpandLiteral(nn.Module):
    """One feature is spread over six, a number in the code."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.second, self.head = (
            nn.Linear(5, 6),
            nn.Linear(5, 1),
            nn.Linear(6, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        return self.head(F.relu(self.second(torch.tanh(self.first(x)) + self.one(x).expand(-1, 6))))


@case("expand_like", real(4, 5), least=6 + 7)
class ExpandLike(ExpandLiteral):
    def forward(self, x):
        y = torch.tanh(self.first(x))
        return self.head(F.relu(self.second(y + self.one(x).expand_as(y))))


@case("state_literal", real(4, 3, 5), least=0)
class RecurrentByHand(nn.Module):
    """A recurrence whose first state has a literal width."""

    def __init__(self):
        super().__init__()
        self.inputs, self.states, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inputs(x[:, step]) + self.states(state))
        return self.head(state)


@case("recurrent_cell", real(4, 3, 5), named=("lstm_cell",))
class RecurrentCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0])


@case("norm_of_tokens_and_channels", real(3, 5, 6), least=8 + 7)
def norm_of_tokens_and_channels():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm([5, 8]), nn.GELU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


@case("norm_of_places", image(3), least=6 + 5)
def norm_of_places():
    """A layer norm over the width of the picture: it mixes no channels."""
    return nn.Sequential(
        conv(3, 6), nn.LayerNorm(8), nn.ReLU(), conv(6, 5), nn.LayerNorm([8, 8]), nn.ReLU(), pooled_head(5)
    )


@case("channel_statistics", image(3), least=6 + 5)
class ChannelStatistics(nn.Module):
    """Mean and deviation over places (style features), side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = torch.cat(
            [
                x.mean((2, 3)),
                x.flatten(2).var(-1),
            ],
            1,
        )
        return self.head(F.relu(self.second(x)))


@case("norm_by_function", image(3), least=6 + 4)
class NormByFunction(nn.Module):
    """Batch norm and instance norm as functions of parameters that belong to no norm layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 4), pooled_head(4)
        self.weight, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.register_buffer("running_mean", torch.randn(6))
        self.register_buffer("running_var", torch.rand(6))

    def forward(self, x):
        x = F.batch_norm(self.first(x), self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.head(F.relu(F.instance_norm(self.second(F.relu(x)))))


@case("mean_of_everything", image(3), least=5)
class MeanOfEverything(nn.Module):
    """The whole tensor's mean is an output's factor."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x))) * x.mean()


@case("cosine", real(4, 5), real(4, 5), least=7)
class Cosine(nn.Module):
    """Two towers that share their weights and are compared by an angle and by a distance."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 6)

    def forward(self, x, y):
        x, y = (self.second(torch.tanh(self.first(z))) for z in (x, y))
        return F.cosine_similarity(x, y, dim=1), F.pairwise_distance(x, y), (x * y).sum(1)


@case("loops_over_channels", image(3), least=5)
class LoopsOverChannels(nn.Module):
    """Python that visits every channel, each with a layer of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 4), conv(4, 5), pooled_head(5)
        self.each = nn.ModuleList(conv(1, 1) for _ in range(4))

    def forward(self, x):
        x = F.relu(self.first(x))
        x = torch.cat([layer(x[:, number : number + 1]) for number, layer in enumerate(self.each)], 1)
        return self.head(F.relu(self.second(F.relu(x))))


@case("width_of_layer", real(4, 5), least=7, most=7, whole=("first.weight",))
class WidthOfLayer(nn.Module):
    """The layer's own attribute is a factor: after a cut it would be another."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x)) / self.first.out_features
        return self.head(F.relu(self.second(x)))


@case("width_in_branch", real(4, 5), least=7, most=7, whole=("first.weight",))
class WidthInBranch(nn.Module):
    """The code takes another way when the layer is narrow."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        x = self.first(x)
        x = torch.tanh(x) if x.shape[1] >= 6 else torch.sin(x)
        return self.head(F.relu(self.second(x)))


@case("softmax_over_places", image(3), least=6 + 5, most=6 + 5)
class SoftmaxOverPlaces(nn.Module):
    """A softmax that mixes places and tokens but no channels (global context)."""

    def __init__(self):
        super().__init__()
        self.first, self.map, self.second, self.head = conv(3, 6), conv(6, 1), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        weights = self.map(x).flatten(2).softmax(-1)
        context = (x.flatten(2) @ weights.transpose(1, 2)).squeeze(-1)
        return self.head(F.relu(self.second(context)))


@case("written_in_place", image(3), least=4)
class WrittenInPlace(nn.Module):
    """Some channels are overwritten in a copy."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 4), pooled_head(4)

    def forward(self, x):
        x = self.first(x).clone()
        x[:, 1:3] = 0.5
        x[:, 0] *= 2.0
        return self.head(F.relu(self.second(F.relu(x))))


@case("half_precision_inside", real(4, 6), least=8 + 5)
class CastInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.first(x)).type_as(self.second.weight)
        return self.head(F.relu(self.second(x.to(self.second.weight.dtype))))


@case("compared_branches", real(4, 5), least=6 + 7, most=6 + 7)
class ComparedBranches(nn.Module):
    """Element-wise functions of two tensors."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.middle, self.head = (
            nn.Linear(5, 6),
            nn.Linear(5, 6),
            nn.Linear(6, 7),
            nn.Linear(7, 3),
        )

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        x = torch.maximum(left, right) + torch.where(left > right, left, right * right) - torch.lerp(left, right, 0.3)
        return self.head(F.relu(self.middle(torch.atan2(x, left.exp() + 1))))


@case("module_list_twice", image(3), least=4 + 4)
class AlternatingStreams(nn.Module):
    """Two streams that exchange their members: all four widths become one."""

    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleList(conv(3, 4) for _ in range(2))
        self.blocks = nn.ModuleList(conv(4, 4) for _ in range(2))
        self.head = pooled_head(8)

    def forward(self, x):
        left, right = (F.relu(stem(x)) for stem in self.stems)
        left, right = left + self.blocks[0](right), right + self.blocks[1](left)
        return self.head(torch.cat([right, left], 1))


@case("complex_inside", real(4, 5), least=4, named=("fft",))
class ComplexInside(nn.Module):
    """A Fourier filter over places, with a complex weight per channel made of two real ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(4, 6, 2))

    def forward(self, x):
        x = torch.fft.fft(torch.tanh(self.first(x))) * torch.view_as_complex(self.filter)
        return self.head(F.relu(self.second(torch.fft.ifft(x).real)))


@case("normalised_by_hand", real(4, 6), least=7, whole=("first.weight",))
class NormalisedByHand(nn.Module):
    """A root mean square norm written out, as many language models have it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.randn(8))

    def forward(self, x):
        x = self.first(x)
        x = self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        return self.head(F.relu(self.second(x)))
