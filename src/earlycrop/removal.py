"""From scores to what leaves: a choice within the budget, step by step.

Two scorings may take part. One decides how wide each layer becomes (`Method.widths`): it removes units by itself, on
trial, and what it leaves of each layer is remembered. The method's own score then chooses within these widths.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from earlycrop.allocation import within
from earlycrop.budget import Budget, check_distinct, check_scores
from earlycrop.methods import Method
from earlycrop.phases import Phases
from earlycrop.scores import AbstractGathering, AbstractScore
from earlycrop.scoring import Scorer
from earlycrop.steps import Steps, partway
from earlycrop.structure.surgery import rebind
from earlycrop.structure.walk import tensors_of
from earlycrop.units import AbstractUnits
from earlycrop.widths import Allocation, WidthsOf


@runtime_checkable
class Ranking(Protocol):
    """What ranks units: a method, or the scoring that gives its widths."""

    @property
    def score(self) -> AbstractScore:
        """What each unit is worth."""
        ...

    @property
    def steps(self) -> Steps:
        """In how many steps."""
        ...

    @property
    def allocation(self) -> Allocation:
        """How the budget is shared between layers."""
        ...


class Removal:
    """How units of a method leave.

    Args:
        method: The method.
        budget: What is to leave in the end.
        scorer: Scores units.
        phases: What the method asks of training; a trial is in none of them.

    Attributes:
        widths: Per layer the number of units that the first check left it, where the method takes widths then.
        early: The weights that each cut goes back to, by name; None where it goes back to none.
    """

    def __init__(self, method: Method, budget: Budget, scorer: Scorer, phases: Phases) -> None:
        self._method, self._budget, self._scorer, self._phases = method, budget, scorer, phases
        self._gathering: AbstractGathering | None = None
        self.widths: Tensor | None = None
        self.early: dict[str, Tensor] | None = None

    # The choice ---------------------------------------------------------------------------------------

    def scores(self, units: AbstractUnits) -> Tensor:
        """What each unit is worth now."""
        return self._scorer.scores(units, self._method.score, self._gathered())

    def choose(self, units: AbstractUnits) -> Tensor:
        """True for each unit that would stay at the target if all left at once, now."""
        self.take_widths(units)
        return self._chosen(units, self._budget.sparsity, self.scores(units), self._method.allocation)

    def take_widths(self, units: AbstractUnits) -> None:
        """At the first check, where another scoring decides the widths then."""
        by = self._method.widths
        if by is not None and self._method.widths_first and self.widths is None:
            self.widths = self.widths_of(units, by, self._budget.sparsity)

    def widths_of(self, units: AbstractUnits, by: WidthsOf, sparsity: float) -> Tensor:
        """How many units of each layer another scoring leaves at that sparsity; nothing has left afterwards."""
        layer, before = units.layer, units.keep
        with self._phases.plain(), units.tried() as trial:
            self._steps(trial, by.steps.towards(sparsity), by)
            left = trial.places(before)[trial.alive]
        return torch.bincount(layer[left], minlength=int(layer.max()) + 1)

    def _chosen(self, units: AbstractUnits, sparsity: float, scores: Tensor, allocation: Allocation) -> Tensor:
        """True for each unit that stays at that sparsity."""
        if not isinstance(allocation, WidthsOf):
            return units.choose(self._budget.at(sparsity), scores, allocation)
        check_scores(scores)  # before minus infinity stands for what left
        widths = self.widths_of(units, allocation, sparsity) if self.widths is None else self.widths
        # what left before has no score: a score that is negative would have it back
        return within(scores.cpu().masked_fill(~units.alive, -torch.inf), units.layer, widths)

    # The steps ----------------------------------------------------------------------------------------

    def leave(self, units: AbstractUnits, sparsities: Sequence[float], worth: Tensor | None = None) -> None:
        """Score and let units leave, step by step.

        Args:
            units: They leave.
            sparsities: On the way.
            worth: Where to put the last score of each unit that there was before, in float64; nowhere by default.
        """
        self._steps(units, sparsities, self._method, worth)

    def _steps(
        self, units: AbstractUnits, sparsities: Sequence[float], ranking: Ranking, worth: Tensor | None = None
    ) -> None:
        before, ahead, gathered = units.keep, list(sparsities), self._gathered()
        while ahead:
            watched = None if gathered is None else gathered[units.places(before).to(gathered.device)]
            scores = self._scorer.scores(units, ranking.score, watched)
            check_distinct(scores[units.alive.to(scores.device)])
            keep = self._chosen(units, ahead[0], scores, ranking.allocation)
            most = ranking.steps.most
            if most is None or torch.equal(step := _part_of(units, keep, scores, most), keep):
                del ahead[0]
            else:
                keep = step
            if worth is not None:
                places = units.places(before)
                worth[places] = torch.where(units.alive, scores.detach().cpu().double(), worth[places])
            if self.early is not None:
                for name, tensor in tensors_of(units.model):
                    rebind(tensor, self.early[name].to(tensor).clone())
            units.keep_only(keep)

    # What a score gathers from training ---------------------------------------------------------------

    def watch(self, units: AbstractUnits, done: bool) -> None:
        """Watch training from now on, where the score is gathered from it; no longer once nothing more will leave."""
        if self._gathering is not None:
            self._gathering.close()
        self._gathering = None if done else self._method.score.gather(self._scorer.network(units))

    @property
    def gathering(self) -> AbstractGathering | None:
        """What watches training; None where the score needs nothing of it."""
        return self._gathering

    def _gathered(self) -> Tensor | None:
        """What the score has gathered from training: the mean over ranks."""
        total, ranks = None if self._gathering is None else self._gathering.total, self._scorer.ranks
        return None if total is None else ranks.sum(total) / ranks.size


def _part_of(units: AbstractUnits, keep: Tensor, scores: Tensor, most: float) -> Tensor:
    """The part of the way to `keep` for which the scores are trusted."""
    alive, step = units.alive, keep.clone()
    part = partway(keep.cpu()[alive], scores.detach().cpu()[alive], units.layer[alive], most)
    step[alive.to(step.device)] = part.to(step.device)
    return step
