"""Features that another network scales, shifts, filters or moves: FiLM, style, spatial transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head, real


@case("spatial_transformer", image(2, 6), least=3 + 4 + 5)
class SpatialTransformer(nn.Module):
    """A localisation network computes where the features are sampled."""

    def __init__(self):
        super().__init__()
        self.stem, self.where, self.six = conv(2, 3), nn.Linear(2 * 36, 4), nn.Linear(4, 6)
        self.last, self.head = conv(3, 5), pooled_head(5)

    def forward(self, x):
        turn = self.six(torch.tanh(self.where(x.flatten(1)))).view(-1, 2, 3)
        y = F.relu(self.stem(x))
        grid = F.affine_grid(turn, [x.shape[0], 1, 6, 6], align_corners=False)
        return self.head(F.relu(self.last(F.grid_sample(y, grid, align_corners=False))))


@case("feature_modulation", image(3), real(3, 5), least=6 + 5)
class FeatureModulation(nn.Module):
    """A condition scales and shifts channels (FiLM): the halves of its layer leave with them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv_norm(3, 6), conv_norm(6, 5), pooled_head(5)
        self.condition = nn.Linear(5, 12)

    def forward(self, x, condition):
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        x = F.relu(self.first(x) * (1 + scale) + shift)
        return self.head(F.relu(self.second(x)))


@case("adaptive_instance_norm", image(3), real(3, 5), least=6 + 6 + 5)
class AdaptiveInstanceNorm(nn.Module):
    """Each channel is normalised on its own, and then gets a mean and deviation computed from a condition."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 5), pooled_head(5)
        self.style, self.mean, self.deviation = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x, condition):
        x, style = self.first(x), F.relu(self.style(condition))
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-3).sqrt()
        x = x * self.deviation(style)[..., None, None] + self.mean(style).unsqueeze(-1).unsqueeze(-1)
        return self.head(F.relu(self.second(F.relu(x))))


@case("modulated_convolution", image(3), real(3, 5), least=5)
class ModulatedConvolution(nn.Module):
    """Filters are scaled for each example and convolved as groups (StyleGAN2)."""

    def __init__(self):
        super().__init__()
        self.first, self.style = conv(3, 6), nn.Linear(5, 6)
        self.weight, self.last, self.head = nn.Parameter(torch.randn(4, 6, 3, 3)), conv(4, 5), pooled_head(5)

    def forward(self, x, condition):
        x = F.relu(self.first(x))
        batch, channels, height, width = x.shape
        weight = self.weight * self.style(condition)[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-3).rsqrt()
        x = x.reshape(1, batch * channels, height, width)
        x = F.conv2d(x, weight.flatten(0, 1), padding=1, groups=batch).view(batch, -1, height, width)
        return self.head(F.relu(self.last(F.relu(x))))
