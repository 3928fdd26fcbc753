"""Multi-layer perceptrons: tied, shared, functional, residual, with several inputs and outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from earlycrop_lab.models.actor_critic import ActorCritic
from tests.cases.case import case, conv, conv_norm, image, pooled_head, real


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
    """Weights that belong to no layer: `F.linear`, and a matrix product with a transposed weight."""

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
    """One matrix in two layers: its rows and its columns are the same units."""

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
    """A layer that is called, but whose output nothing reads, must still fit the trunk."""

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
    """The features are an output too, so their width must stay."""

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


@case("positions_sliced", real(3, 5, 6), least=8 + 7, most=8 + 7)
class PositionsSliced(Positions):
    """The first rows of a table of positions."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(9, 8))

    def forward(self, x):
        return self.head(F.relu(self.inner(self.stem(x) + self.position[: x.shape[1]])).mean(1))


@case("positions_fixed", real(3, 5, 6), least=8 + 7, most=8 + 7)
class PositionsFixed(Positions):
    """Positions that are not learned, in a buffer."""

    def __init__(self):
        super().__init__()
        del self.position
        self.register_buffer("position", torch.randn(1, 5, 8))


@case("layer_scale", real(4, 6), least=8 + 5, most=8 + 5)
class LayerScale(nn.Module):
    """Per-channel parameters, and one scalar, multiply channels that they do not create."""

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
    """Constant buffers over the input's channels and over a layer's."""

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
    """A weight is multiplied by a mask before the convolution uses it."""

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


@case("actor_critic", real(5, 4), least=20, most=20)
def actor_critic():
    """Two heads read one trunk, as in the laboratory's network for control."""
    return ActorCritic(observations=4, actions=2, width=10)
