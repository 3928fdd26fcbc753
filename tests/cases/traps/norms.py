"""Norms and statistics: over channels, places or everything, as layers, as functions and written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


@case("group_norm_pair", image(3), least=2)
def group_norm_pair():
    return nn.Sequential(conv(3, 4), nn.GroupNorm(2, 4), nn.ReLU(), pooled_head(4))


@case("dropout_channels", image(3), least=6 + 5, most=6 + 5)
def dropout_channels():
    return nn.Sequential(
        conv(3, 6), nn.Dropout2d(), nn.ReLU(), conv(6, 5), nn.Dropout(0.2), nn.AlphaDropout(), nn.ReLU(), pooled_head(5)
    )


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
    """Mean and standard deviation over places (style features), side by side."""

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
    """The mean of the whole tensor multiplies an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x))) * x.mean()


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


class MeanSquare(nn.Module):
    """A root mean square norm written out, as in many language models."""

    centred = False

    def __init__(self, width):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(width)), 1e-6

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


@case("normalised_by_hand", real(4, 6), least=8 + 7, most=8 + 7)
class NormalisedByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)
        self.norm = MeanSquare(8)

    def forward(self, x):
        return self.head(F.relu(self.second(self.norm(self.first(x)))))
