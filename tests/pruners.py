"""A pruner from flat keywords: many tests vary one field of a budget or of the scoring at a time."""

from typing import Any

from torch import nn

from earlycrop import Budget, Method, Pruner, Scoring

OF_BUDGET = ("target", "min_channels", "round_to", "protect_layers", "parts")
OF_SCORING = ("loss", "batches", "bn_mode", "micro_batch")


def make_pruner(model: nn.Module, method: Method | str, sparsity: float, **options: Any) -> Pruner:
    """`Pruner(model, method, Budget(sparsity, …), scoring=Scoring(…), …)`, fields taken from the options by name."""
    budget = Budget(sparsity, **{name: options.pop(name) for name in OF_BUDGET if name in options})
    scoring = Scoring(**{name: options.pop(name) for name in OF_SCORING if name in options})
    return Pruner(model, method, budget, scoring=scoring, **options)
