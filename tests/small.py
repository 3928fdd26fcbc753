"""A small network and what tests of the pruner do with it: train it, cut it, fail, and take states through a file."""

import tempfile

import torch
from torch import Tensor, nn

from earlycrop import METHODS, Pruner, load_state, save_state
from earlycrop.timing import Never
from tests import dense
from tests.pruners import make_pruner

PRUNING = [name for name, method in METHODS.items() if not isinstance(method.timing, Never)]


class Small(nn.Module):
    """A stream with a block, a norm, dropout: everything that scoring has to handle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        x = x + self.conv2(torch.relu(self.norm1(self.conv1(x))))
        return self.head(self.drop(torch.relu(x).mean((2, 3))))


BATCH = dense.images(24)


def small(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small().double()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.01)


def momentum(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def make(net: nn.Module, optimizer, method="earlycrop-s", sparsity=0.6, **options) -> Pruner:
    options = {"loss": dense.cross_entropy, "batches": [BATCH], "example_inputs": BATCH[0][:2], "epochs": 8} | options
    return make_pruner(net, method, sparsity, optimizer=optimizer, **options)


def train(net: nn.Module, optimizer, steps: int = 2) -> None:
    net.train()
    torch.manual_seed(steps)  # dropout
    for _ in range(steps):
        optimizer.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        optimizer.step()


def until_cut(net: nn.Module, optimizer, pruner: Pruner):
    """The last report."""
    for epoch in range(int(pruner.total_epochs) + 1):
        report = pruner.check(epoch)
        if report and pruner.done:
            return report
        train(net, optimizer)
    return None


class Failing:
    """A loss that is well for some calls and then is not."""

    def __init__(self, after: int, how) -> None:
        self.calls, self.after, self.how = 0, after, how

    def __call__(self, model, batch):
        self.calls += 1
        loss = dense.cross_entropy(model, batch)
        return self.how(loss) if self.calls > self.after else loss


def interrupted(loss):
    raise KeyboardInterrupt


def through_a_file(state):
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, f"{folder}/state")
        return load_state(f"{folder}/state")
