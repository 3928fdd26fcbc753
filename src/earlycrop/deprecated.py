"""The arguments of `Pruner` up to version 0.5: one by one, where today they are grouped."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from earlycrop.budget import Budget
from earlycrop.errors import EarlyCropError, nearest
from earlycrop.scoring import Scoring

OF_BUDGET = ("sparsity", "target", "min_channels", "round_to", "protect_layers")
OF_SCORING = ("loss", "batches", "bn_mode", "micro_batch")
RENAMED = {"together": "coupled"}


def regrouped(
    budget: Budget | float | None, scoring: Scoring | None, coupled: Any, given: Mapping[str, Any], of: type
) -> tuple[Budget, Scoring, Any]:
    """Budget, scoring and coupled layers from today's arguments and the old ones.

    Args:
        budget: Today's argument, None if not given.
        scoring: Today's argument, None if not given.
        coupled: Today's argument.
        given: All other keywords.
        of: The class whose arguments they are.

    Raises:
        TypeError: a keyword never was an argument; names the nearest.
        EarlyCropError: there is no budget.
    """
    old = (*OF_BUDGET, *OF_SCORING, *RENAMED)
    for name in given:
        if name not in old:
            known = [each for each in signature(of).parameters if each != "deprecated"]
            raise TypeError(f"Pruner has no argument {name!r}. Did you mean {nearest(name, [*known, *old])!r}?")
    if given:
        warnings.warn(_advice(given), DeprecationWarning, stacklevel=3)
    if budget is None and "sparsity" not in given:
        raise EarlyCropError("Pruner needs to know how much is to leave: give a sparsity such as 0.9, or a `Budget`.")
    of_budget = {name: given[name] for name in OF_BUDGET if name in given}
    if not isinstance(budget, Budget):
        budget = Budget(given["sparsity"] if budget is None else budget)
    budget = replace(budget, **of_budget)
    of_scoring = {name: given[name] for name in OF_SCORING if name in given}
    return budget, replace(scoring or Scoring(), **of_scoring), given.get("together", coupled)


def _advice(given: Mapping[str, Any]) -> str:
    forms = (
        ("budget=Budget(sparsity, target=…)", OF_BUDGET),
        ("scoring=Scoring(loss, batches, …)", OF_SCORING),
        ("coupled=…", tuple(RENAMED)),
    )
    parts = [
        f"{', '.join(f'`{name}`' for name in names if name in given)} as `{form}`"
        for form, names in forms
        if any(name in given for name in names)
    ]
    return f"Pruner takes {' and '.join(parts)} since version 0.6; the old form will be removed."
