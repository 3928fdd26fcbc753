"""Channels that are split, joined, repeated, overwritten, compared or visited one by one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


@case("depthwise_pair", image(3), least=2, most=2)
def depthwise_pair():
    """Two groups of one channel: when one of them leaves, the convolution no longer has groups."""
    return nn.Sequential(conv(3, 2), nn.ReLU(), conv(2, 2, groups=2, bias=True), nn.ReLU(), pooled_head(2))


@case("coordinates", image(3), least=6 + 5, most=6 + 5)
class Coordinates(nn.Module):
    """Two channels of coordinates are put in front of a layer's channels."""

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
    """Six features as rows plus the same six as columns: the sizes agree, but the dimensions differ."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.head(F.relu(self.second(torch.tanh(x[:, :, None] + x[:, None, :])).mean(1)))


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
    """The number of pieces follows from the width; the code adds up all of them."""

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
    """Two streams that swap places: all four widths are coupled."""

    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleList(conv(3, 4) for _ in range(2))
        self.blocks = nn.ModuleList(conv(4, 4) for _ in range(2))
        self.head = pooled_head(8)

    def forward(self, x):
        left, right = (F.relu(stem(x)) for stem in self.stems)
        left, right = left + self.blocks[0](right), right + self.blocks[1](left)
        return self.head(torch.cat([right, left], 1))
