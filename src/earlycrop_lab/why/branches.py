"""Trainings that share their beginning: a dense stem at a constant rate, and pruned branches that start from it.

    for stem in grown(d, 5):                                # at epoch 0 and after each epoch
        branch = stem.cut(d, method)                        # a copy of network and optimizer, cut here
        accuracy = branch.finish()                          # One-Cycle over the rest of d's epochs

A branch at epoch n equals the laboratory's run with `prune_at=n`, to the bit: the same order of samples, the same
optimizer, the same schedule. The stem itself is never changed by a branch.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import earlycrop
from earlycrop.timing import AtEpoch
from earlycrop_lab.tasks import prepare
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.schedule import Schedule
from earlycrop_lab.tasks.session import Setup, pruner_of

Seen = dict[str, Any]
"""The `state_dict` of a pruner before its cut."""


@dataclass
class Stem:
    """A dense training at a constant rate, after some epochs.

    Args:
        setup: The current network, and its data.
        optimizer: The optimizer of the network.
        epoch: The number of epochs done.
    """

    setup: Setup
    optimizer: Optimizer
    epoch: int

    def look(self, d: Classification, method: earlycrop.Method) -> Seen:
        """The state of a pruner after a check here: with the widths, if the method decides them at its first check.

        Args:
            d: The description, with the sparsity and the other options of the cut.
            method: The method that will cut, here or later.
        """
        setup = replace(self.setup, model=copy.deepcopy(self.setup.model))
        waiting = replace(method, timing=AtEpoch(self.epoch + 1))
        pruner = pruner_of(d, setup, method=waiting)
        pruner.check(self.epoch)
        return pruner.state_dict()

    def cut(self, d: Classification, method: earlycrop.Method, seen: Seen | None = None) -> "Branch":
        """A copy that is cut here.

        Args:
            d: The description, with the options of the cut and the whole budget.
            method: The method that cuts, at this epoch whatever its own timing.
            seen: The state of an earlier pruner with the same widths.
        """
        method = replace(method, timing=AtEpoch(self.epoch))
        setup = replace(self.setup, model=copy.deepcopy(self.setup.model))
        optimizer = setup.optimizer(setup.model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        pruner = pruner_of(d, setup, optimizer, method=method)
        if seen is not None:
            pruner.load_state_dict({**seen, "method": method.saved, "bn_mode": method.bn_mode})
        report = pruner.check(self.epoch)
        assert report is not None
        return Branch(d, setup, optimizer, pruner, report, self.epoch)


@dataclass
class Branch:
    """A network that has just been cut, with everything needed to finish its training."""

    d: Classification
    setup: Setup
    optimizer: Optimizer
    pruner: earlycrop.Pruner
    report: earlycrop.Report
    epoch: int

    def finish(self) -> float:
        """Train to the end of the budget; the main metric."""
        d, batches = self.d, self.setup.batches
        schedule = Schedule(self.optimizer, d.learning_rate, d.schedule)
        schedule.enter(self.pruner, self.epoch, True, len(batches), d.epochs)
        devices = {p.device for p in self.setup.model.parameters() if p.device.type == "cuda"}
        with torch.random.fork_rng(devices):  # so that dropout on the stem does not depend on this branch
            for epoch in range(self.epoch, d.epochs):
                for _ in _steps(d, self.setup, self.optimizer, epoch):
                    schedule.step()
        return self.setup.evaluate(self.setup.model)[d.metric.name]


def grown(d: Description, epochs: int, root: str | None = None, device: str = "cpu") -> Iterator[Stem]:
    """Train the dense network of a description at a constant rate; yield it at epoch 0 and after each epoch.

    Args:
        d: The network, the data and the seed; its budget and method are ignored.
        epochs: The number of epochs.
        root: The folder of the data sets.
        device: The device to train on.
    """
    setup = prepare(d, root, device)
    optimizer = setup.optimizer(setup.model)
    torch.manual_seed(d.seed)  # dropout; the model and the data have their own seeds
    yield Stem(setup, optimizer, 0)
    for epoch in range(epochs):
        for _ in _steps(d, setup, optimizer, epoch):
            pass
        yield Stem(setup, optimizer, epoch + 1)


def stem_after(
    d: Description,
    epochs: int,
    root: str | None = None,
    device: str = "cpu",
    trained: Callable[[int], None] = lambda epoch: None,
) -> Stem:
    """The dense training of a description after its last epoch, see `grown`.

    Args:
        d: The network, the data and the seed; its budget and method are ignored.
        epochs: The number of epochs.
        root: The folder of the data sets.
        device: The device to train on.
        trained: Called with the number of epochs done, after each.
    """
    growing = grown(d, epochs, root, device)
    last = next(growing)
    for last in growing:
        trained(last.epoch)
    return last


def _steps(d: Description, setup: Setup, optimizer: Optimizer, epoch: int) -> Iterator[None]:
    """Train an epoch; yields after each step."""
    model = setup.model
    model.train()
    for batch in setup.batches.epoch(epoch):
        optimizer.zero_grad()
        with setup.precision():
            loss = setup.loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
        optimizer.step()
        yield
