"""A language model of one recurrent layer: embedding, LSTM, softmax over the vocabulary (Zaremba et al., 2014)."""

from jaxtyping import Float, Int64
from torch import Tensor, nn


class LstmLanguageModel(nn.Module):
    """log p(xₜ₊₁ | x₁ … xₜ) = log softmax(W hₜ + b) at xₜ₊₁, h the hidden states of an LSTM on the embeddings of x.

    Args:
        vocabulary: Number of distinct tokens.
        width: Width of the embedding, and number of hidden units.
        dropout: Dropout rate of embedding and hidden state; the logits have none.
    """

    def __init__(self, vocabulary: int, width: int = 300, dropout: float = 0.3):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, vocabulary)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Int64[Tensor, "n t"]) -> Float[Tensor, "n t-1"]:
        read, following = tokens[:, :-1], tokens[:, 1:]
        hidden = self.drop(self.lstm(self.drop(self.embedding(read)))[0])
        return self.decoder(hidden).log_softmax(-1).gather(-1, following.unsqueeze(-1)).squeeze(-1)
