"""Training of PSMM in tokens per second: a plain loop, all positions at once, and pruned: `python -m benchmarks.psmm`.

The loop computes the same with the same weights, which is checked before it is timed: an `nn.LSTMCell`, and for
each position the softmax over all hidden states so far and the sentinel, whose shares are scattered over the
vocabulary. The pruned networks lack a random part of their hidden units and of their embedding. A step is forward,
backward, clipping and Adam on one batch of chunks of random tokens. All run in turn, so that other load on the machine
affects all alike; ratios are taken within a round.
"""

import argparse
import copy
import os
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import torch
from torch import Tensor, nn

from benchmarks.record import interleaved, ratio, write
from earlycrop.structure import cut, trace
from earlycrop_lab.models.psmm import Psmm


class Loop(nn.Module):
    """PSMM, computed one position after another.

    Args:
        like: The network whose weights it copies.
    """

    def __init__(self, like: Psmm):
        super().__init__()
        self.embedding, self.query, self.decoder = (
            copy.deepcopy(layer) for layer in (like.embedding, like.query, like.decoder)
        )
        self.sentinel, self.drop = nn.Parameter(like.sentinel.detach().clone()), nn.Dropout(like.drop.p)
        self.cell = nn.LSTMCell(like.lstm.input_size, like.lstm.hidden_size)
        for name, parameter in self.cell.named_parameters():
            parameter.data.copy_(like.lstm.get_parameter(f"{name}_l0"))

    def forward(self, tokens: Tensor) -> Tensor:
        state, hidden, found = None, [], []
        read = self.drop(self.embedding(tokens[:, :-1]))
        for step in range(read.shape[1]):
            state = self.cell(read[:, step], state)
            hidden.append(self.drop(state[0]))
            query = torch.tanh(self.query(hidden[-1]))
            scores = [(query * past).sum(-1) for past in hidden] + [query @ self.sentinel]
            shares = torch.stack(scores, -1).softmax(-1)
            said = shares[:, -1:] * self.decoder(hidden[-1]).softmax(-1)
            said = said.scatter_add(1, tokens[:, : step + 1], shares[:, :-1])
            found.append(said.gather(1, tokens[:, step + 1 : step + 2]).log())
        return torch.cat(found, 1)


def pruned(model: Psmm, tokens: Tensor, part: float) -> Psmm:
    """A copy of the model without a random part (0 to 1) of its hidden units and of its embedding."""
    model = copy.deepcopy(model)
    structure = trace(model, tokens[:2])
    spaces, keep = structure.spaces(), torch.zeros(len(structure), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for space in spaces.unique():
        members = (spaces == space).nonzero().flatten()
        keep[members[torch.randperm(len(members), generator=generator)[: round((1 - part) * len(members))]]] = True
    cut(structure, model, keep, None)
    return model


def step_of(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        (-model(tokens).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--chunk", type=int, default=80)
    parser.add_argument("--batches", nargs="*", type=int, default=[16, 128])
    parser.add_argument("--threads", nargs="*", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for threads in options.threads:
        for batch in options.batches:
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            tokens = torch.randint(options.vocabulary, (batch, options.chunk + 1))
            model = Psmm(options.vocabulary, options.width)
            networks = {"loop": Loop(model), "at once": model}
            networks |= {f"at once, {part:.0%} cut": pruned(model, tokens, part) for part in (0.5, 0.9)}
            with torch.no_grad():
                torch.testing.assert_close(networks["loop"].eval()(tokens[:4]), model.eval()(tokens[:4]))
            steps = {name: step_of(network.train(), tokens) for name, network in networks.items()}
            seconds = interleaved(steps, options.rounds)
            for name, network in networks.items():
                gains = {
                    f"gain over {base}": ratio(seconds[base], seconds[name])["median"] for base in ("loop", "at once")
                }
                rows.append(
                    {
                        "network": name,
                        "batch": batch,
                        "threads": threads,
                        "params": sum(p.numel() for p in network.parameters()),
                        "step s": median(seconds[name]),
                        "tokens/s": batch * options.chunk / median(seconds[name]),
                        **gains,
                        "n": options.rounds,
                    }
                )
    write("psmm", rows, vocabulary=options.vocabulary, width=options.width, chunk=options.chunk)


if __name__ == "__main__":
    main()
