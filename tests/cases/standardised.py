"""Weights that are standardised before they are used: each filter gets mean zero and variance one.

After a cut a filter's statistics count what it still reads, as those of a norm over channels do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.case import case, image, pooled_head, real


class StandardisedConv2d(nn.Conv2d):
    """A convolution of a normalizer-free network (Brock et al., 2021), as timm writes it."""

    gained = True

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1)) if self.gained else None
        self.scale = self.weight[0].numel() ** -0.5

    def filters(self) -> Tensor:
        gain = None if self.gain is None else (self.gain * self.scale).view(-1)
        flat = self.weight.reshape(1, self.out_channels, -1)
        return F.batch_norm(flat, None, None, gain, training=True, momentum=0.0, eps=1e-4).reshape_as(self.weight)

    def standardised(self, kept: Tensor) -> Tensor:
        """What `filters` is, written out: the statistics of each filter are those of its kept entries."""
        made = []
        for row, open_ in zip(self.weight, kept, strict=True):
            values = row[open_]
            spread = values.var(correction=0) if len(values) else torch.ones((), dtype=row.dtype)
            values = (values - values.mean()) / (spread + 1e-4).sqrt()
            made.append(torch.zeros_like(row).masked_scatter(open_, values))
        weight = torch.stack(made)
        return weight if self.gain is None else weight * self.gain * self.scale

    def forward(self, x):
        return self._conv_forward(x, self.filters(), self.bias)


class UngainedConv2d(StandardisedConv2d):
    """A convolution of Big Transfer (Kolesnikov et al., 2020)."""

    gained = False


class StandardisedLinear(nn.Linear):
    """The same for a linear layer."""

    def filters(self) -> Tensor:
        return F.batch_norm(self.weight[None], None, None, training=True, eps=1e-4)[0]

    def standardised(self, kept: Tensor) -> Tensor:
        rows = []
        for row, open_ in zip(self.weight, kept, strict=True):
            values = row[open_]
            values = (values - values.mean()) / (values.var(correction=0) + 1e-4).sqrt() if len(values) else values
            rows.append(torch.zeros_like(row).masked_scatter(open_, values))
        return torch.stack(rows)

    def forward(self, x):
        return F.linear(x, self.filters(), self.bias)


@case("normalizer_free", image(3), least=16)
class NormalizerFree(nn.Module):
    """A residual network without norms, with a bottleneck of two groups."""

    def __init__(self):
        super().__init__()
        self.stem = StandardisedConv2d(3, 8, 3, padding=1)
        self.first, self.second = StandardisedConv2d(8, 12, 1), StandardisedConv2d(12, 12, 3, padding=1, groups=2)
        self.third, self.gain, self.head = StandardisedConv2d(12, 8, 1), nn.Parameter(torch.ones(())), pooled_head(8)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.second(F.relu(self.first(F.relu(x)))))
        return self.head(F.relu(x + 0.2 * self.gain * self.third(y)))


@case("standardised_by_batch_norm", image(3), least=14)
class BigTransfer(nn.Module):
    """Standardised convolutions without a gain, between group norms."""

    def __init__(self):
        super().__init__()
        self.first, self.second = UngainedConv2d(3, 8, 3, bias=False), UngainedConv2d(8, 6, 3, padding=1, bias=False)
        self.before, self.behind, self.head = nn.GroupNorm(8, 8), nn.BatchNorm2d(6), pooled_head(6)

    def forward(self, x):
        return self.head(F.relu(self.behind(self.second(F.relu(self.before(self.first(x)))))))


@case("standardised_linear", real(4, 5), least=11)
class Standardised(nn.Module):
    """Two standardised layers of a perceptron."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = StandardisedLinear(5, 7), StandardisedLinear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.gelu(self.second(F.gelu(self.first(x)))))
