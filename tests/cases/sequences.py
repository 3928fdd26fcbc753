"""Sequences and sets without recurrence: temporal convolutions, graphs, flows, tables of numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from tests.cases.case import case, conv_norm, image, integers, real


@case("wavenet", real(2, 3, 12), least=4 + 4 + 4 + 5)
class WaveNet(nn.Module):
    """Dilated causal convolutions with a gate of halves, residual and skip connections."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(3, 4, 1)
        self.gated = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=dilation) for dilation in (1, 2))
        self.residual = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(2))
        self.skip = nn.ModuleList(nn.Conv1d(4, 5, 1) for _ in range(2))
        self.head = nn.Conv1d(5, 3, 1)

    def forward(self, x):
        x, skips = self.stem(x), 0
        for gated, residual, skip in zip(self.gated, self.residual, self.skip, strict=True):
            value, gate = gated(F.pad(x, (gated.dilation[0], 0))).chunk(2, 1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            x, skips = x + residual(y), skips + skip(y)
        return self.head(F.relu(skips))


@case("temporal_convolution", real(2, 3, 10), least=4 + 5 + 6)
class TemporalConvolution(nn.Module):
    """Padded on both sides and cropped at the end (TCN), with a shortcut of another width."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 3, padding=2), nn.Conv1d(4, 5, 3, padding=4, dilation=2)
        self.shortcut, self.last, self.head = nn.Conv1d(3, 5, 1), nn.Conv1d(5, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        y = F.relu(self.first(x)[:, :, :-2])
        y = F.relu(self.second(y)[:, :, :-4].contiguous())
        return self.head(F.relu(self.last(F.relu(y + self.shortcut(x))))[:, :, -1])


@case("temporal_convolution_weight_norm", real(2, 3, 10), least=6)
class TemporalWeightNorm(TemporalConvolution):
    """As published: each filter is a length and a direction, so the channels that it reads cannot leave."""

    def __init__(self):
        super().__init__()
        self.first, self.second = parametrizations.weight_norm(self.first), parametrizations.weight_norm(self.second)


@case("conformer_convolution", real(2, 7, 5), least=6 + 4, most=6 + 6)
class ConformerConvolution(nn.Module):
    """Pointwise layer, gated linear unit, depthwise convolution and batch norm, between layer norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.gated = nn.Linear(5, 6), nn.LayerNorm(6), nn.Conv1d(6, 8, 1)
        self.depthwise, self.batch_norm = nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.BatchNorm1d(4)
        self.point, self.last, self.head = nn.Conv1d(4, 6, 1), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        y = F.glu(self.gated(self.norm(x).transpose(1, 2)), dim=1)
        y = self.point(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        return self.head(self.last(x + y))


@case("quasi_recurrent", real(2, 5, 4), least=6)
class QuasiRecurrent(nn.Module):
    """A convolution over time computes gates, and a loop without weights pools by them."""

    def __init__(self):
        super().__init__()
        self.gates, self.head = nn.Conv1d(4, 18, 2), nn.Linear(6, 3)

    def forward(self, x):
        z, f, o = self.gates(F.pad(x.transpose(1, 2), (1, 0))).chunk(3, 1)
        z, f, o, state = torch.tanh(z), torch.sigmoid(f), torch.sigmoid(o), 0
        outputs = []
        for step in range(z.shape[2]):
            state = f[:, :, step] * state + (1 - f[:, :, step]) * z[:, :, step]
            outputs.append(o[:, :, step] * state)
        return self.head(torch.stack(outputs, 1))


@case("graph_convolution", real(3, 5, 4), real(3, 5, 5), least=6 + 7, most=6 + 7)
class GraphConvolution(nn.Module):
    """Neighbours are summed by an adjacency matrix that is an input; two layers and a mean over the nodes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 7, bias=False), nn.Linear(7, 3)

    def forward(self, x, adjacency):
        adjacency = adjacency.softmax(-1)
        x = F.relu(adjacency @ self.first(x))
        x = F.relu(torch.bmm(adjacency, self.second(x)))
        return self.head(x.mean(1))


@case("graph_attention", real(3, 5, 4), least=6)
class GraphAttention(nn.Module):
    """The score of a pair is one number of the node plus one of its neighbour (Veličković et al., 2018)."""

    def __init__(self):
        super().__init__()
        self.first, self.source, self.target, self.head = (
            nn.Linear(4, 6),
            nn.Linear(6, 1, bias=False),
            nn.Linear(6, 1, bias=False),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        x = self.first(x)
        shares = F.leaky_relu(self.source(x) + self.target(x).transpose(1, 2), 0.2).softmax(-1)
        return self.head(F.elu(shares @ x))


@case("deep_sets", real(3, 5, 4), least=6 + 7 + 5, most=6 + 7 + 5)
class DeepSets(nn.Module):
    """The mean of all is subtracted from each element (an equivariant layer); then they are summed."""

    def __init__(self):
        super().__init__()
        self.first, self.whole, self.second, self.third, self.head = (
            nn.Linear(4, 6),
            nn.Linear(4, 6, bias=False),
            nn.Linear(6, 7),
            nn.Linear(7, 5),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        x = F.elu(self.first(x) - self.whole(x.mean(1, keepdim=True)))
        return self.head(F.relu(self.third(F.relu(self.second(x)).sum(1))))


@case("coupling_flow", real(4, 6), least=7 + 8, most=7 + 8)
class CouplingFlow(nn.Module):
    """Halves of the input scale and shift each other (RealNVP): only the inner widths may shrink."""

    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 6)) for hidden in (7, 8)
        )

    def forward(self, x):
        left, right = x.chunk(2, 1)
        volume = 0
        for net in self.nets:
            scale, shift = net(left).chunk(2, 1)
            left, right = right * torch.tanh(scale).exp() + shift, left
            volume = volume + torch.tanh(scale).sum(1)
        return torch.cat([left, right], 1), volume


@case("variational_autoencoder", real(4, 6), real(4, 3), least=8 + 3 + 7, most=8 + 3 + 7)
class VariationalAutoencoder(nn.Module):
    """The mean and log-variance are two layers; the noise is an input, so the code's width must stay."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mean, self.log_variance = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.code, self.decoder, self.head = nn.Linear(3, 3), nn.Linear(3, 7), nn.Linear(7, 6)

    def forward(self, x, noise):
        x = F.relu(self.encoder(x))
        mean, log_variance = self.mean(x), self.log_variance(x)
        code = self.code(mean + noise * (0.5 * log_variance).exp())
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
        return torch.sigmoid(self.head(F.relu(self.decoder(code)))), divergence


@case("vector_of_sines", real(4, 2), least=8 + 7)
class VectorOfSines(nn.Module):
    """Coordinates become waves of given frequencies (NeRF); the input is read again half-way."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(3))
        self.first, self.second, self.head = nn.Linear(14, 8), nn.Linear(8 + 14, 7), nn.Linear(7, 3)

    def forward(self, x):
        waves = (x[..., None] * self.frequencies).flatten(1)
        x = torch.cat([x, waves.sin(), waves.cos()], -1)
        y = torch.sin(30 * self.first(x))
        return self.head(F.relu(self.second(torch.cat([y, x], -1))))


@case("duelling_heads", real(4, 5), least=8 + 4 + 6, most=8 + 4 + 6)
class DuellingHeads(nn.Module):
    """A value, advantages minus their mean, and a policy: three heads on one trunk."""

    def __init__(self):
        super().__init__()
        self.trunk, self.policy = nn.Linear(5, 8), nn.Linear(8, 2)
        self.value = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
        self.advantage = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        x = F.relu(self.trunk(x))
        value, advantage = self.value(x), self.advantage(x)
        return value + advantage - advantage.mean(1, keepdim=True), self.policy(x).log_softmax(-1)


@case("mixture_of_experts", real(4, 5), least=8 + 6 + 6 + 6, most=8 + 6 + 6 + 6)
class MixtureOfExperts(nn.Module):
    """Every expert runs; a softmax over the experts weighs what they add to the stream."""

    def __init__(self):
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8)) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        shares = self.router(x).softmax(-1)
        y = torch.stack([expert(x) for expert in self.experts], dim=1)
        return self.head(x + (shares.unsqueeze(-1) * y).sum(1))


@case("mixture_in_one_tensor", real(4, 5), least=8 + 6)
class MixtureInOneTensor(nn.Module):
    """All experts are one tensor, so they lose the same units."""

    def __init__(self):
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 6)), nn.Parameter(torch.randn(3, 6, 8))

    def forward(self, x):
        x = self.stem(x)
        y = F.gelu(x.unsqueeze(0) @ self.up) @ self.down
        return self.head(x + (self.router(x).softmax(-1).t().unsqueeze(-1) * y).sum(0))


@case("factorisation_machine", integers(9, 4, 3), real(4, 2), least=6 + 7)
class FactorisationMachine(nn.Module):
    """Half of (the squared sum minus the sum of squares) of embeddings, beside a deep part (DeepFM)."""

    def __init__(self):
        super().__init__()
        self.factors, self.linear = nn.Embedding(9, 5), nn.Embedding(9, 1)
        self.deep = nn.Sequential(nn.Linear(15 + 2, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 1))

    def forward(self, x, numbers):
        factors = self.factors(x)
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1, keepdim=True)
        deep = self.deep(torch.cat([factors.flatten(1), numbers], 1))
        return self.linear(x).sum(1) + pairs + deep


@case("dot_interaction", integers(9, 4, 3), real(4, 2), least=5)
class DotInteraction(nn.Module):
    """Products of every pair of embedded features (DLRM)."""

    def __init__(self):
        super().__init__()
        self.factors, self.bottom = nn.Embedding(9, 4), nn.Linear(2, 4)
        self.top, self.head = nn.Linear(4 + 16, 5), nn.Linear(5, 1)

    def forward(self, x, numbers):
        dense = F.relu(self.bottom(numbers))
        both = torch.cat([dense.unsqueeze(1), self.factors(x)], 1)
        products = (both @ both.transpose(1, 2)).flatten(1)
        return self.head(F.relu(self.top(torch.cat([dense, products], 1))))


@case("siamese", image(3, 6), image(3, 6), least=4 + 5 + 6, most=4 + 5 + 6)
class Siamese(nn.Module):
    """One encoder for two pictures; their difference is judged."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            conv_norm(3, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv_norm(4, 5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.inner, self.head = nn.Linear(5, 6), nn.Linear(6, 1)

    def forward(self, x, y):
        return self.head(F.relu(self.inner((self.encoder(x) - self.encoder(y)).abs())))


@case("similarity_matrix", real(4, 5), real(4, 6), least=7 + 8)
class SimilarityMatrix(nn.Module):
    """Every text is compared with every picture: their common width is contracted (without normalisation)."""

    def __init__(self):
        super().__init__()
        self.left, self.right = (
            nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)),
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)),
        )
        self.temperature = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, y):
        return self.left(x) @ self.right(y).t() * self.temperature.exp()


@case("unrolled_equation", real(4, 5), least=6 + 7, most=6 + 7)
class UnrolledEquation(nn.Module):
    """Euler steps with one shared vector field."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = (
            nn.Linear(5, 6),
            nn.Linear(6, 7),
            nn.Linear(7, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + 0.25 * self.outer(torch.tanh(self.inner(x)))
        return self.head(x)


@case("capsules", real(4, 5), least=8)
class Capsules(nn.Module):
    """Groups of features are squashed by their common length."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.second(F.relu(self.first(x))).view(-1, 3, 2)
        square = x.square().sum(-1, keepdim=True)
        return self.head((x * square / (1 + square) / (square + 1e-3).sqrt()).flatten(1))
