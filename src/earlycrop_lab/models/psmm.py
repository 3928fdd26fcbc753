"""The Pointer Sentinel Mixture Model (Merity et al., 2017): a language model that can point at a word it has read."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Psmm(nn.Module):
    """log p(xₜ₊₁ | x₁ … xₜ), with p = Σ aₜⱼ over j ≤ t with xⱼ = xₜ₊₁, plus gₜ · softmax(W hₜ + b) at xₜ₊₁.

    h are the hidden states of an LSTM. The query qₜ = tanh(U hₜ + c) attends to all of them so far and to the sentinel
    s, a parameter: (aₜ₁ … aₜₜ, gₜ) = softmax(qₜ·h₁ … qₜ·hₜ, qₜ·s). Position j stands for the token xⱼ that was read
    there, so nothing about xₜ₊₁ leaks in. The sentinel's share gₜ goes to the vocabulary.

    All positions are computed at once. Only the part of the pointer's distribution that points at the next token is
    needed, so nothing is scattered over the vocabulary; sums of probabilities are computed by logsumexp.

    Args:
        vocabulary: Number of distinct tokens.
        width: Width of the embedding, and number of hidden units.
        dropout: Dropout rate of embedding and hidden state; the logits have none.
    """

    def __init__(self, vocabulary: int, width: int = 300, dropout: float = 0.3):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.sentinel = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))  # as the other weights
        self.decoder = nn.Linear(width, vocabulary)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Int64[Tensor, "n t"]) -> Float[Tensor, "n t-1"]:
        read, following = tokens[:, :-1], tokens[:, 1:]
        # one mask for all that read it; the authors drop entries of the query and the logits: docs/tasks.md says why
        hidden = self.drop(self.lstm(self.drop(self.embedding(read)))[0])
        query = torch.tanh(self.query(hidden))
        later = torch.ones(read.shape[1], read.shape[1], dtype=torch.bool, device=read.device).triu(1)
        scores = (query @ hidden.transpose(1, 2)).masked_fill(later, -torch.inf)
        shares = torch.cat([scores, (query @ self.sentinel).unsqueeze(-1)], -1).log_softmax(-1)
        others = read.unsqueeze(1) != following.unsqueeze(2)
        pointed = shares[..., :-1].masked_fill(others, -torch.inf)
        spoken = self.decoder(hidden).log_softmax(-1).gather(-1, following.unsqueeze(-1))
        # the last entry is always finite, so no logsumexp is over -inf only, whose gradient would be nan
        return torch.cat([pointed, shares[..., -1:] + spoken], -1).logsumexp(-1)
