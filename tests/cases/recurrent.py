"""Recurrent layers and cells. A hidden unit leaves with its row in every gate and its column in the recurrence.

All layers and directions of an `nn.LSTM` share one `hidden_size`, so they lose the same units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from earlycrop_lab.models.lstm import LstmLanguageModel
from earlycrop_lab.models.psmm import Psmm
from tests.cases.case import case, conv, image, integers, real


class Recurrent(nn.Module):
    """A layer, a recurrent one, and a head on the last step."""

    def __init__(self, make: Callable[..., nn.Module], hidden: int = 6, **options):
        super().__init__()
        self.stem, self.recurrent = nn.Linear(4, 5), make(5, hidden, batch_first=True, **options)
        width = options.get("proj_size") or hidden
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x):
        return self.head(self.recurrent(F.relu(self.stem(x)))[0][:, -1])


def recurrent(name: str, make: Callable[..., nn.Module], least: int = 5 + 6, slow: bool = False, **options):
    case(name, real(3, 4, 4), least=least, most=least, slow=slow)(lambda: Recurrent(make, **options))


recurrent("recurrent_lstm", nn.LSTM)
recurrent("recurrent_gru", nn.GRU)
recurrent("recurrent_rnn_tanh", nn.RNN)
recurrent("recurrent_rnn_relu", nn.RNN, nonlinearity="relu")
recurrent("recurrent_lstm_two_layers", nn.LSTM, num_layers=2, dropout=0.3)
recurrent("recurrent_gru_two_layers", nn.GRU, num_layers=2, bias=False)
recurrent("recurrent_rnn_three_layers", nn.RNN, num_layers=3, slow=True)
recurrent("recurrent_lstm_both_ways", nn.LSTM, bidirectional=True)
recurrent("recurrent_gru_both_ways", nn.GRU, bidirectional=True, num_layers=2)
recurrent("recurrent_rnn_both_ways", nn.RNN, bidirectional=True, bias=False, slow=True)
recurrent("recurrent_lstm_without_bias", nn.LSTM, bias=False)
recurrent("recurrent_lstm_projected", nn.LSTM, proj_size=4, least=5 + 4)
recurrent("recurrent_lstm_projected_two_layers", nn.LSTM, proj_size=4, num_layers=2, least=5 + 4)
recurrent("recurrent_lstm_projected_both_ways", nn.LSTM, proj_size=4, bidirectional=True, least=5 + 4, slow=True)


@case("recurrent_time_first", real(4, 3, 5), least=6 + 7, most=6 + 7)
class TimeFirst(nn.Module):
    """Time is the first dimension; two layers of different widths, and every step has an output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.LSTM(5, 6), nn.GRU(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x)[0])[0])


@case("recurrent_last_state", real(3, 4, 5), least=6, most=6)
class LastState(nn.Module):
    """The last hidden and cell states of both directions, side by side."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 6, batch_first=True, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x):
        _, (hidden, cell) = self.layer(x)
        return self.head(torch.cat([hidden[0], hidden[1], cell[-2], cell[-1]], 1))


@case("recurrent_last_state_flattened", real(3, 4, 5), least=6)
class LastStateFlattened(nn.Module):
    """The last states of both layers, with the batch moved to the front and flattened."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(5, 6, num_layers=2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.layer(x)[1].transpose(0, 1).flatten(1))


@case("recurrent_state_is_output", real(3, 4, 5), least=0, whole=("layer.weight_hh_l0",))
class StateIsOutput(nn.Module):
    """The state is an output, so its width must stay."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        x, state = self.layer(x)
        return self.head(x), state


@case("recurrent_state_is_input", real(3, 4, 5), real(1, 3, 6), least=5, whole=("layer.weight_hh_l0",))
class StateIsInput(nn.Module):
    """The first state is an input, so its width must stay."""

    def __init__(self):
        super().__init__()
        self.layer, self.inner, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x, state):
        return self.head(F.relu(self.inner(self.layer(x, state)[0][:, -1])))


@case("recurrent_learned_state", real(3, 4, 5), least=6, most=6)
class LearnedState(nn.Module):
    """The first state is a parameter."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)
        self.hidden, self.cell = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x):
        state = tuple(one.expand(-1, x.shape[0], -1).contiguous() for one in (self.hidden, self.cell))
        return self.head(self.layer(x, state)[0][:, -1])


@case("recurrent_state_of_layer", real(3, 4, 5), real(3, 4), least=6, most=6)
class StateOfLayer(nn.Module):
    """A layer writes the first state (captioning): its rows are the hidden units."""

    def __init__(self):
        super().__init__()
        self.start, self.layer, self.head = nn.Linear(4, 6), nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x, context):
        return self.head(self.layer(x, torch.tanh(self.start(context)).unsqueeze(0))[0])


@case("recurrent_residual", real(3, 4, 5), least=6 + 5, most=6 + 5)
class RecurrentResidual(nn.Module):
    """The recurrent layer, after a norm, adds to a stream."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.layer = nn.Linear(5, 6), nn.LayerNorm(6), nn.LSTM(6, 6, batch_first=True)
        self.inner, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.layer(self.norm(x))[0]
        return self.head(F.relu(self.inner(x)))


@case("recurrent_layer_twice", real(3, 4, 6), least=6)
class RecurrentTwice(nn.Module):
    """One layer runs twice, the second time on its own output."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(6, 6), nn.GRU(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(self.layer(torch.tanh(self.stem(x)))[0])[0])


@case("recurrent_of_columns", image(1, 8), least=4 + 6, most=4 + 6)
class RecurrentOfColumns(nn.Module):
    """Text recognition: a picture's columns are the steps, a channel's rows its features."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.head = conv(1, 4), nn.LSTM(16, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return self.head(self.layer(x.permute(0, 3, 1, 2).flatten(2))[0])


@case("recurrent_unbatched", real(4, 5), least=0)
class RecurrentUnbatched(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0])


@case("recurrent_shared_weights", real(3, 4, 5), least=6)
class RecurrentShared(nn.Module):
    """Two recurrent layers share one matrix for their recurrences."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.RNN(5, 6), nn.RNN(5, 6), nn.Linear(6, 3)
        self.right.weight_hh_l0 = self.left.weight_hh_l0

    def forward(self, x):
        return self.head(self.left(x)[0] - self.right(x)[0])


# ----------------------------------------------------------------------------------------------------------- cells


class CellLoop(nn.Module):
    """A cell in a Python loop over the steps; the first state is the cell's default of zeros."""

    def __init__(self, make: Callable[..., nn.Module], **options):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(5, 4), make(4, 6, **options), nn.Linear(6, 3)

    def forward(self, x):
        state = None
        for step in F.relu(self.stem(x)).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


case("cell_lstm", real(4, 3, 5), least=4 + 6, most=4 + 6)(lambda: CellLoop(nn.LSTMCell))
case("cell_lstm_without_bias", real(4, 3, 5), least=4 + 6, most=4 + 6)(lambda: CellLoop(nn.LSTMCell, bias=False))
case("cell_gru", real(4, 3, 5), least=4 + 6, most=4 + 6)(lambda: CellLoop(nn.GRUCell))
case("cell_rnn", real(4, 3, 5), least=4 + 6, most=4 + 6)(lambda: CellLoop(nn.RNNCell))
case("cell_rnn_relu", real(4, 3, 5), least=4 + 6, most=4 + 6)(lambda: CellLoop(nn.RNNCell, nonlinearity="relu"))


@case("recurrent_cell", real(4, 3, 5), least=6, most=6)
class RecurrentCell(nn.Module):
    """The steps are picked one by one."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0])


@case("cells_stacked", real(4, 3, 5), least=6 + 7, most=6 + 7)
class CellsStacked(nn.Module):
    """Two cells of different widths, whose outputs are collected."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.LSTMCell(5, 6), nn.GRUCell(6, 7), nn.Linear(7, 3)

    def forward(self, x):
        low, high, outputs = None, None, []
        for step in x.unbind(1):
            low = self.first(step, low)
            high = self.second(low[0], high)
            outputs.append(high)
        return self.head(torch.stack(outputs, 1))


@case("cell_state_counted", real(4, 3, 5), least=0)
class CellStateCounted(nn.Module):
    """Zeros whose width is the cell's own attribute, which follows the cut."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = torch.zeros(x.shape[0], self.cell.hidden_size, dtype=x.dtype)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


@case("cell_state_literal", real(4, 3, 5), least=5)
class CellStateLiteral(nn.Module):
    """Zeros whose width is a literal in the code, or an integer of the module that owns the cell."""

    def __init__(self):
        super().__init__()
        self.hidden = 6
        self.cell, self.inner, self.head = nn.LSTMCell(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        state = (x.new_zeros(len(x), self.hidden), x.new_zeros(len(x), 6))
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(F.relu(self.inner(state[0])))


@case("lstm_by_hand", real(4, 3, 5), least=6, most=6)
class LstmByHand(nn.Module):
    """All gates in one linear layer, with an offset of the forget gate; the first step creates the state."""

    def __init__(self):
        super().__init__()
        self.inputs, self.states, self.head = nn.Linear(5, 24), nn.Linear(6, 24, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        gates = self.inputs(x[:, 0]).chunk(4, 1)
        cell = torch.zeros_like(gates[0])
        hidden = torch.zeros_like(cell)
        for step in x.unbind(1):
            i, f, g, o = (self.inputs(step) + self.states(hidden)).chunk(4, 1)
            cell = torch.sigmoid(f + 1.0) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(hidden)


@case("gru_by_hand", real(4, 3, 5), least=6)
class GruByHand(nn.Module):
    """A linear layer per gate reads step and state side by side; another makes the first state from the first step."""

    def __init__(self):
        super().__init__()
        self.update, self.reset, self.candidate = nn.Linear(11, 6), nn.Linear(11, 6), nn.Linear(11, 6)
        self.start, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        state = torch.tanh(self.start(x[:, 0]))
        for step in x.unbind(1):
            both = torch.cat([step, state], 1)
            z, r = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            state = (1 - z) * state + z * torch.tanh(self.candidate(torch.cat([step, r * state], 1)))
        return self.head(state)


@case("conv_lstm", real(2, 3, 2, 5, 5), least=4)
class ConvLstm(nn.Module):
    """Gates are maps; the first step has no state."""

    def __init__(self):
        super().__init__()
        self.inputs, self.states, self.head = nn.Conv2d(2, 16, 3, padding=1), conv(4, 16), conv(4, 2)

    def forward(self, x):
        hidden = cell = None
        for step in x.unbind(1):
            gates = self.inputs(step) if hidden is None else self.inputs(step) + self.states(hidden)
            i, f, g, o = gates.chunk(4, 1)
            cell = torch.sigmoid(i) * torch.tanh(g) + (0 if cell is None else torch.sigmoid(f) * cell)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(hidden)


# ------------------------------------------------------------------------------------------------ language models


class RecurrentLanguageModel(nn.Module):
    """Embedding, recurrent layers, decoder; `tied`: the decoder's rows are the embedding's."""

    def __init__(self, hidden: int, tied: bool, **options):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(9, 6), nn.Dropout(0.5)
        self.layers = nn.LSTM(6, hidden, batch_first=True, **options)
        self.decoder = nn.Linear(options.get("proj_size") or hidden, 9)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, x):
        return self.decoder(self.drop(self.layers(self.drop(self.embedding(x)))[0]))


case("language_model_lstm", integers(9, 3, 4), least=6 + 7, most=6 + 7)(
    lambda: RecurrentLanguageModel(7, False, num_layers=2)
)
case("language_model_lstm_tied", integers(9, 3, 4), least=6, most=6)(lambda: RecurrentLanguageModel(6, True))
case("language_model_lstm_tied_projected", integers(9, 3, 4), least=6, most=6)(
    lambda: RecurrentLanguageModel(7, True, proj_size=6)
)


@case("encoder_decoder", integers(9, 3, 4), integers(8, 3, 5), least=5 + 6 + 4, most=5 + 6 + 4)
class EncoderDecoder(nn.Module):
    """The decoder begins with the encoder's state, so their hidden units are coupled."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(9, 5), nn.Embedding(8, 4)
        self.encoder, self.decoder = nn.LSTM(5, 6, batch_first=True), nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 8)

    def forward(self, source, target):
        _, state = self.encoder(self.source(source))
        return self.head(self.decoder(self.target(target), state)[0])


@case("encoder_decoder_attention", integers(9, 3, 4), integers(8, 3, 5), least=5 + 6 + 4 + 7 + 5)
class AdditiveAttention(nn.Module):
    """Bahdanau et al. (2015): both directions, energies of a layer, and the context beside the decoder's state."""

    def __init__(self):
        super().__init__()
        self.source, self.target = nn.Embedding(9, 5), nn.Embedding(8, 4)
        self.encoder, self.cell = nn.GRU(5, 6, batch_first=True, bidirectional=True), nn.GRUCell(4 + 12, 7)
        self.start = nn.Linear(12, 7)
        self.memory, self.state, self.energy = nn.Linear(12, 5), nn.Linear(7, 5, bias=False), nn.Linear(5, 1)
        self.head = nn.Linear(7 + 12, 8)

    def forward(self, source, target):
        memory = self.encoder(self.source(source))[0]
        state, outputs = torch.tanh(self.start(memory[:, -1])), []
        for step in self.target(target).unbind(1):
            energies = self.energy(torch.tanh(self.memory(memory) + self.state(state).unsqueeze(1)))
            context = (energies.softmax(1) * memory).sum(1)
            state = self.cell(torch.cat([step, context], 1), state)
            outputs.append(self.head(torch.cat([state, context], 1)))
        return torch.stack(outputs, 1)


@case("pointer_sentinel", integers(9, 3, 5), least=5 + 6, most=5 + 6)
class PointerSentinel(nn.Module):
    """Merity et al. (2017): a query made of the hidden state is compared with all states so far and a learned sentinel.

    The sentinel's share weighs the vocabulary's softmax against the words that are pointed at.
    """

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 5), nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.query, self.sentinel, self.decoder = nn.Linear(6, 6), nn.Parameter(torch.randn(6)), nn.Linear(6, 9)

    def forward(self, x):
        hidden = self.layer(self.embedding(x))[0]
        query = torch.tanh(self.query(hidden))
        past = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = (query @ hidden.transpose(1, 2)).masked_fill(~past, -torch.inf)
        shares = torch.cat([scores, (query @ self.sentinel).unsqueeze(-1)], -1).softmax(-1)
        pointed = shares[..., :-1] @ F.one_hot(x, 9).to(hidden.dtype)
        return (pointed + shares[..., -1:] * self.decoder(hidden).softmax(-1)).log()


case("pointer_sentinel_of_the_laboratory", integers(9, 3, 6), least=5 + 5, most=5 + 5)(lambda: Psmm(9, 5))
case("language_model_of_the_laboratory", integers(9, 3, 6), least=5 + 5, most=5 + 5)(lambda: LstmLanguageModel(9, 5))


@case("packed_sequence", real(3, 4, 5), refused=True)
class PackedSequence(nn.Module):
    """Sequences of different lengths, packed."""

    def __init__(self):
        super().__init__()
        self.layer, self.inner, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 2]), batch_first=True)
        hidden = self.layer(packed)[1][0][0]
        return self.head(F.relu(self.inner(hidden)))
