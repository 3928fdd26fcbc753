"""Weights that are computed, fixed, or mixed from others: filters, low rank, experts, a network's output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


@case("blur_pool", image(3), least=0)
class BlurPool(nn.Module):
    """A fixed kernel, once as a buffer with a copy per channel and once expanded to the number of channels."""

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


@case("conditional_convolution", image(3), least=5 + 6 + 5)
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


@case("complex_inside", real(4, 5), least=4, named=("fft",))
class ComplexInside(nn.Module):
    """A Fourier filter over places, with a complex weight per channel, made of two real ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)
        self.filter = nn.Parameter(torch.randn(4, 6, 2))

    def forward(self, x):
        x = torch.fft.fft(torch.tanh(self.first(x))) * torch.view_as_complex(self.filter)
        return self.head(F.relu(self.second(torch.fft.ifft(x).real)))
