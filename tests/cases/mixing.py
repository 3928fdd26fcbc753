"""Functions that mix channels: they must be left whole, or cut correctly."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.case import case, conv, conv_norm, image, pooled_head, real


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
# a closed channel of sigmoids is one half, and no weight stands behind it
mixing("mix_product_of_sigmoids", lambda x: (x.sigmoid() @ x.sigmoid().t()) @ x)
mixing("mix_einsum_of_sigmoids", lambda x: x * torch.einsum("bi,bi->b", x.sigmoid(), x.sigmoid())[:, None])
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
    """Filters with mean zero and variance one: the statistics mix their inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = conv(3, 6), conv(6, 4), pooled_head(4)

    def forward(self, x):
        x = F.relu(self.first(x))
        weight = self.second.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.var((1, 2, 3), keepdim=True) + 1e-3).sqrt()
        return self.head(F.relu(F.conv2d(x, weight, padding=1)))


@case("bilinear", real(4, 5), real(4, 3), least=15, most=15)
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


@case("einsum", real(3, 5, 6), least=15, most=15)
class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.third(F.relu(self.second(F.relu(torch.einsum("bti,ij->btj", x, self.first)))))


@case("double_use", image(3), least=5 + 4)
class DoubleUse(nn.Module):
    """A layer before a pool and one after it share a norm, whose channels are those of both layers."""

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
    """One block runs at three scales, as in detection heads."""

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
