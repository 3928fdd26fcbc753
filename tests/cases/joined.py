"""Concatenations, splits, slices and stacks of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head, real


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
    """Concatenated rectifiers: the ReLU of each channel and of its negative."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv_norm(3, 4), conv(8, 5), pooled_head(10)

    def forward(self, x):
        x = self.first(x)
        x = self.second(F.relu(torch.cat([x, -x], dim=-3)))
        return self.head(F.relu(torch.cat([x, x.neg()], dim=1)))


@case("concat_added", image(3), least=9, most=9)
class ConcatAdded(nn.Module):
    """A concatenation of two layers is added to a third: all three layers' channels are coupled."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.whole, self.head = conv(3, 4), conv(3, 5), conv(3, 9), pooled_head(9)

    def forward(self, x):
        return self.head(F.relu(torch.cat([self.left(x), self.right(x)], dim=1) + self.whole(x)))


@case("concat_places", image(3), least=5, most=5)
class ConcatPlaces(nn.Module):
    """A concatenation along places: both layers carry the same channels."""

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


@case("split_by_list", image(3), least=8 + 5, most=8 + 5)
class SplitByList(nn.Module):
    """A list of the module holds the sizes of the parts; a cut updates it."""

    def __init__(self, sizes=(3, 5)):
        super().__init__()
        self.sizes = [*sizes] if type(sizes) is tuple else sizes
        self.first, self.left, self.right, self.head = conv_norm(3, 8), conv(3, 5), conv(5, 5), pooled_head(5)

    def forward(self, x):
        left, right = torch.split(F.relu(self.first(x)), self.sizes, dim=1)
        return self.head(F.relu(self.left(left) + self.right(right)))


@case("slices", image(3), least=4 + 5)
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


@case("repeated_channels", image(3), least=3 + 4 + 5)
class RepeatedChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.head = conv(3, 3), conv(6, 4), conv(8, 5), pooled_head(5)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.first(x)).repeat(1, 2, 1, 1)))
        return self.head(F.relu(self.third(x.repeat_interleave(2, dim=1))))
