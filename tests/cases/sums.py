"""Sums over channels, products with a computed weight, and products whose dimensions have letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, conv, image, pooled_head, real


class Towers(nn.Module):
    """Two layers whose channels meet in a function."""

    def __init__(self, function, outside: int | None = None):
        super().__init__()
        self.left, self.right, self.function = nn.Linear(5, 7), nn.Linear(5, 7), function
        self.head = nn.Identity() if outside is None else nn.Linear(outside, 3)

    def forward(self, x):
        return self.head(self.function(self.left(x), self.right(x)))


def towers(name: str, function, outside: int | None = None, least: int = 7, most: int = 7):
    case(name, real(4, 5), least=least, most=most)(lambda: Towers(function, outside))


towers("sum_of_products", lambda a, b: (a * b).sum(-1))
towers("sum_of_products_kept", lambda a, b: (a.relu() * b).sum(1, keepdim=True) * b, 7)
towers("sum_of_everything", lambda a, b: a.tanh().sum() + b.sum(), None, 14, 14)
towers("sum_of_squares", lambda a, b: (a - b).pow(2).sum(-1))
towers("sum_of_gated", lambda a, b: (a * b.sigmoid()).sum(-1))
towers(
    "sum_beside_places",
    lambda a, b: (a[:, :, None] * torch.ones(3, dtype=a.dtype)).sum((1, 2)) + b.sum(1),
    None,
    14,
    14,
)
towers("sum_of_sigmoids", lambda a, b: (a.sigmoid() * b.sigmoid()).sum(-1), None, 0, 0)
towers("sum_of_sigmoids_scaled", lambda a, b: (a.sigmoid() * b.mean()).sum(-1), None, 0, 0)
towers("sum_shifted", lambda a, b: (a * b + 0.5).sum(-1), None, 0, 0)
towers("mean_of_products", lambda a, b: (a * b).mean(-1), None, 0, 0)
towers("sum_of_overwritten", lambda a, b: overwritten(a * b).sum(-1), None, 0, 0)
towers("norm_of_difference", lambda a, b: (a - b).norm(dim=-1))
towers("norm_normalised", lambda a, b: F.normalize(a, dim=-1) * F.normalize(b, p=1.0, dim=-1), 7)
towers(
    "norm_largest",
    lambda a, b: torch.linalg.vector_norm(a, float("inf"), -1) + torch.linalg.vector_norm(b, 3, -1),
    None,
    14,
    14,
)
towers("norm_smallest", lambda a, b: torch.linalg.vector_norm(a * b, float("-inf"), -1), None, 0, 0)
towers("norm_of_shifted", lambda a, b: F.pairwise_distance(a, b), None, 0, 0)
# times a sum, for between single channels an angle has no slope
towers("angle", lambda a, b: F.cosine_similarity(a, b, dim=-1) * (a - b).sum(-1))
towers("angle_between_all", lambda a, b: F.cosine_similarity(a[:, None], b[None], dim=-1) * a.sum(-1))
towers("angle_of_sigmoids", lambda a, b: F.cosine_similarity(a, b.sigmoid(), dim=-1), None, 0, 0)
towers("letters_dots", lambda a, b: torch.einsum("...c,...c->...", a, b))
towers("letters_dots_outer", lambda a, b: torch.einsum("...c,bc->...b", a[None], b))
towers("letters_summed", lambda a, b: torch.einsum("bc->b", a) + torch.einsum("bc,bd->b", a, b), None, 14, 14)
towers("letters_tensordot", lambda a, b: torch.tensordot(a, b, dims=([1], [1])))
towers("letters_inner", lambda a, b: torch.inner(a, b))
towers("letters_vecdot", lambda a, b: torch.linalg.vecdot(a, b))
towers("letters_of_sigmoids", lambda a, b: torch.tensordot(a.sigmoid(), b.sigmoid(), dims=([1], [1])), None, 0, 0)
towers("linear_of_sigmoids", lambda a, b: F.linear(a.sigmoid(), b.sigmoid()), None, 0, 0)
towers("linear_of_activations", lambda a, b: F.linear(a, b.sigmoid()))


def overwritten(x):
    """Half of the channels of a copy, however many there are, get a number."""
    x = x.clone()
    x[:, : x.shape[1] // 2] = 1.0
    return x


class Transposed(nn.Module):
    """A layer whose product is written out."""

    def __init__(self, inside: int, outside: int, product, turned: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*((inside, outside) if turned else (outside, inside))))
        self.product = product

    def forward(self, x):
        return self.product(x, self.weight)


def transposed(name: str, product, turned: bool = False, least: int = 7 + 6):
    case(name, real(4, 5), least=least, most=7 + 6)(
        lambda: nn.Sequential(
            *(Transposed(5, 7, product, turned), nn.GELU(), Transposed(7, 6, product, turned), nn.Tanh()),
            Transposed(6, 3, product, turned),
        )
    )


transposed("product_transposed", lambda x, w: x @ w.T)
transposed("product_transposed_first", lambda x, w: (w @ x.T).T)
transposed("product_permuted", lambda x, w: torch.mm(x, w.permute(1, 0)) + 0.1 * torch.matmul(x, w.mT))
transposed("product_scaled", lambda x, w: x @ (0.5 * w.t()))
transposed("product_by_letters", lambda x, w: torch.einsum("...i,oi->...o", x, w))
transposed("product_by_letters_of_a_transpose", lambda x, w: torch.einsum("bi,io->bo", x, w.t()))
transposed("product_tensordot", lambda x, w: torch.tensordot(x, w, dims=1), turned=True)
transposed("product_inner", lambda x, w: torch.inner(x, w))
transposed("product_of_vectors", lambda x, w: torch.stack([torch.mv(w, one) for one in x]))
transposed("product_with_a_vector", lambda x, w: torch.stack([one @ w for one in x.unbind()]), turned=True)


@case("scores_by_vector", real(4, 5), least=7 + 6, most=7 + 6)
class ScoresByVector(nn.Module):
    """Each example is weighted by its product with a vector."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)
        self.one, self.other = nn.Parameter(torch.randn(7)), nn.Parameter(torch.randn(6))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.second(x * torch.mv(x, self.one).sigmoid()[:, None]))
        return self.head(x) * torch.outer(torch.mv(x, self.other), torch.ones(3, dtype=x.dtype))


@case("normless_batch_norm_summed", image(3), least=0, most=4)
class NormlessSum(nn.Module):
    """A norm without scale and shift is not zero where its input is: its channels stay in the sum."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = conv(3, 5), nn.BatchNorm2d(5, affine=False), conv(1, 4)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).sum(1, keepdim=True)).mean((2, 3))


@case("norm_summed", image(3), least=5 + 4, most=5 + 4)
class NormSum(nn.Module):
    """With them it is."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last, self.head = conv(3, 5), nn.BatchNorm2d(5), conv(1, 4), pooled_head(4)

    def forward(self, x):
        return self.head(self.last(F.relu(self.norm(self.first(x))).sum(1, keepdim=True)))


@case("tokens_summed", real(3, 5, 6), least=4, most=4)
class TokensSummed(nn.Module):
    """A layer across tokens adds its bias to closed channels too, so that a sum over these may lose none."""

    def __init__(self):
        super().__init__()
        self.first, self.across, self.head = nn.Linear(6, 7), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(F.relu(self.across(torch.tanh(self.first(x)).transpose(1, 2))).sum(1))


@case("unread_values", real(4, 5), least=7 + 6, most=7 + 6)
class UnreadValues(nn.Module):
    """Values that nobody reads: a part by position, an ordering, and what is computed from them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        assert len(x[:, -1].softmax(0)) == len(x)
        x = F.relu(self.second(x))
        x.sort(1).values.unbind(1)[0].cumsum(0)
        return self.head(x)


@case("unread_literal", real(4, 5), least=6, most=6)
class UnreadLiteral(nn.Module):
    """A value that nobody reads, but of a literal size: without these channels the code does not run."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x.view(-1, 7).softmax(1)
        return self.head(F.relu(self.second(x)))


@case("read_in_place", real(4, 5), least=6, most=6)
class ReadInPlace(nn.Module):
    """A result that nobody reads, but the operator changed a part of what is read."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x).tanh() + 1
        x[:, 2].mul_(0.5)
        return self.head(F.relu(self.second(x)))
