"""Graph networks: messages along edges, picked and put by number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases.case import case, integers, real


class Messages(nn.Module):
    """Two layers on the nodes of a graph, and between them what `passed` makes of the nodes and the edges."""

    def __init__(self, passed, outside: int = 7):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(outside, 6), nn.Linear(6, 3)
        self.passed = passed

    def forward(self, x, edges):
        return self.head(F.relu(self.second(self.passed(torch.tanh(self.first(x)), *edges))))


def messages(name: str, passed, outside: int = 7, least: int = 7 + 6):
    case(name, real(8, 5), integers(8, 2, 12), least=least, most=13)(lambda: Messages(passed, outside))


def wide(numbers, h):
    return numbers[:, None].expand(-1, h.shape[1])


messages("edges_index_add", lambda h, a, b: torch.zeros_like(h).index_add(0, b, h[a]))
messages("edges_index_add_in_place", lambda h, a, b: h.new_zeros(8, h.shape[1]).index_add_(0, b, h[a]))
messages("edges_index_add_to_nodes", lambda h, a, b: h.index_add(0, b, h.index_select(0, a), alpha=0.5))
messages("edges_scatter_add", lambda h, a, b: torch.zeros_like(h).scatter_add(0, wide(b, h), h[a]))
messages("edges_scatter_add_like", lambda h, a, b: h.scatter_add(0, b[:, None].expand_as(h[a]), h[a]))
messages("edges_gather", lambda h, a, b: torch.zeros_like(h).index_add(0, b, h.gather(0, wide(a, h))))
messages("edges_take_along", lambda h, a, b: h.index_add(0, b, h.take_along_dim(a[:, None], 0)))
messages(
    "edges_scatter_mean",
    lambda h, a, b: torch.zeros_like(h).scatter_reduce(0, wide(b, h), h[a], "mean", include_self=False),
)
messages("edges_scatter_max", lambda h, a, b: h.scatter_reduce(0, wide(b, h), h[a], "amax"))
messages("edges_index_put", lambda h, a, b: torch.zeros_like(h).index_put((b,), h[a], accumulate=True))
messages("edges_copied", lambda h, a, b: h.index_copy(0, torch.arange(4), h[a[:4]]))
messages("edges_put_at", lambda h, a, b: set_at(h.clone(), b))
messages("edges_sparse", lambda h, a, b: torch.sparse.mm(adjacency(a, b), h))
messages("edges_sparse_product", lambda h, a, b: adjacency(a, b) @ h - h)
# one number for all nodes' channels is no place of a channel
messages("edges_numbers_of_channels", lambda h, a, b: h.gather(1, a[:7].expand(8, 7).remainder(7)), least=6)
messages("edges_scatter_to_channels", lambda h, a, b: h.scatter_add(1, b[:7].expand(8, 7).remainder(7), h), least=6)
# where the graph is a dense matrix
messages("edges_dense", lambda h, a, b: adjacency(a, b).to_dense() @ h)


def set_at(h, b):
    h[torch.arange(4)] = h[b[:4]].relu()
    return h


def adjacency(a, b):
    return torch.sparse_coo_tensor(
        torch.stack([b, a]), torch.ones(12, dtype=torch.float64), (8, 8), check_invariants=False
    )


@case("attention_along_edges", real(8, 5), integers(8, 2, 12), least=6 + 5, most=6 + 5 + 2)
class AttentionAlongEdges(nn.Module):
    """A graph attention network: weights of edges are products of both ends' channels, normalised at each node."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)
        self.sends, self.takes = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x, edges):
        a, b = edges
        h = torch.tanh(self.first(x))
        scores = F.leaky_relu((h @ self.sends)[a] + (h * self.takes).sum(-1)[b]).exp()
        total = scores.new_zeros(8).index_add(0, b, scores)
        h = torch.zeros_like(h).index_add(0, b, h[a] * (scores / total[b])[:, None])
        return self.head(F.relu(self.second(h)))


@case("nodes_to_graphs", real(8, 5), least=6 + 5)
class NodesToGraphs(nn.Module):
    """Sums and means over the nodes of each graph of a batch, and edges that take both ends side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.edge, self.head = nn.Linear(5, 6), nn.Linear(12, 5), nn.Linear(5 + 6, 3)
        self.register_buffer("owner", torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]))

    def forward(self, x):
        h = F.relu(self.first(x))
        pairs = F.relu(self.edge(torch.cat([h, h.flip(0)], 1)))
        sums = pairs.new_zeros(3, pairs.shape[1]).index_add(0, self.owner, pairs)
        lengths = torch.tensor([3, 2, 3])
        return self.head(torch.cat([sums, torch.segment_reduce(h, "sum", lengths=lengths, axis=0)], 1))
