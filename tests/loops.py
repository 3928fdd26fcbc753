"""A plain training loop with a cut in it, for small models of ten inputs and four classes."""

import torch
from torch.nn import functional as F

from earlycrop import Pruner, Scoring

INPUTS = torch.randn(32, 10, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(2))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def trained(model, method="earlycrop-s", loss=cross_entropy, batch=(INPUTS, TARGETS), epochs=5, **options):
    """The pruner after a training in which something left."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    scoring = options.pop("scoring", None) or Scoring(loss, [batch])
    options = {"example_inputs": INPUTS[:2], "budget": 0.5, **options}
    pruner = Pruner(model, method, scoring=scoring, optimizer=optimizer, epochs=epochs, **options)
    for epoch in range(epochs):
        pruner.check(epoch)
        for _ in range(3):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    assert pruner.pruned
    assert pruner.report.verification.exact
    assert pruner.report.after.params < pruner.report.before.params
    return pruner


def half(model, inputs, method="random-s"):
    """The pruner after half of the parameters have left at once."""
    pruner = Pruner(model, method, 0.5, example_inputs=inputs)
    assert pruner.check(0).verification.exact
    return pruner
