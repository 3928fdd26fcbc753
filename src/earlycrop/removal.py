"""From scores to what leaves: a choice within the budget, step by step.

Two scorings may take part. One decides how wide each layer becomes (`Method.widths`): it removes units by itself, in a
trial, and the width that it leaves each layer is remembered. The method's own score then chooses within these widths.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

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
    """What ranks units: a method, or the scoring that decides its widths."""

    @property
    def score(self) -> AbstractScore:
        """What each unit is worth."""
        ...

    @property
    def steps(self) -> Steps:
        """The steps in which units leave."""
        ...

    @property
    def allocation(self) -> Allocation:
        """How the budget is shared between layers."""
        ...


class Removal:
    """Chooses the units that leave, and removes them.

    Args:
        method: The method.
        budget: What is to leave in the end.
        scorer: Scores units.
        phases: What the method asks of training; trials run outside all phases.

    Attributes:
        widths: For each layer the number of units to keep, if the method fixes the widths at the first check.
        early: The weights to which each cut rewinds, by name; None if it does not rewind.
    """

    def __init__(self, method: Method, budget: Budget, scorer: Scorer, phases: Phases) -> None:
        self._method, self._budget, self._scorer, self._phases = method, budget, scorer, phases
        self._gathering: AbstractGathering | None = None
        self.widths: Tensor | None = None
        self.early: dict[str, Tensor] | None = None

    # The choice ---------------------------------------------------------------------------------------

    def scores(self, units: AbstractUnits) -> Tensor:
        """The score of each unit now."""
        return self._scorer.scores(units, self._method.score, self._gathered())

    def choose(self, units: AbstractUnits) -> Tensor:
        """True for each unit that would stay if the target were to be met now, in one step."""
        self.take_widths(units)
        return self._chosen(units, self._budget.highest, self.scores(units), self._method.allocation)

    def remember(self, units: AbstractUnits, epoch: float) -> None:
        """At the first check fix the widths, and at the epoch of rewinding keep the weights, if the method asks for it.

        Args:
            units: The units.
            epoch: Epochs finished.
        """
        self.take_widths(units)
        rewinds_to = self._method.timing.rewinds_to
        if rewinds_to is not None and self.early is None and epoch >= rewinds_to - 1e-9:
            self.early = {name: tensor.detach().clone() for name, tensor in tensors_of(units.model)}

    def take_widths(self, units: AbstractUnits) -> None:
        """Fix the widths at the first check, if another scoring decides them there."""
        by = self._method.widths
        if by is not None and self._method.widths_first and self.widths is None:
            self.widths = self.widths_of(units, by, self._budget.highest)

    def widths_of(self, units: AbstractUnits, by: WidthsOf, sparsity: float) -> Tensor:
        """The number of units that another scoring leaves in each layer; a trial, after which nothing has left.

        Args:
            units: The units.
            by: The scoring.
            sparsity: The sparsity of the trial.
        """
        layer, before = units.layer, units.keep
        with self._phases.plain(), units.tried() as trial:
            self._steps(trial, by.steps.towards(sparsity), by)
            left = trial.places(before)[trial.alive]
        return torch.bincount(layer[left], minlength=int(layer.max()) + 1 if len(layer) else 0)

    def _chosen(self, units: AbstractUnits, sparsity: float, scores: Tensor, allocation: Allocation) -> Tensor:
        """True for each unit that stays at that sparsity."""
        if not isinstance(allocation, WidthsOf):
            return units.choose(self._budget.at(sparsity), scores, allocation)
        check_scores(scores)  # before minus infinity marks what has left
        widths = self.widths_of(units, allocation, sparsity) if self.widths is None else self.widths
        # what has left must rank last: a score of 0 would beat negative ones and bring it back
        ranked = scores.cpu().masked_fill(~units.alive, -torch.inf)
        if (first := units.first(ranked)) is not None:
            ranked[first & units.alive] = torch.inf
        return within(ranked, units.layer, widths)

    # The steps ----------------------------------------------------------------------------------------

    def leave(self, units: AbstractUnits, sparsities: Sequence[float], worth: Tensor | None = None) -> None:
        """Score and remove units, step by step.

        Args:
            units: The units, of which some leave.
            sparsities: The sparsity after each step.
            worth: If given, receives the last score of each unit that there was before, in float64.
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
                for network in (units.model, *units.copies):  # an average of what is given up would come back
                    for name, tensor in tensors_of(network):
                        rebind(tensor, self.early[name].to(tensor).clone())
            units.keep_only(keep)

    # What a score gathers from training ---------------------------------------------------------------

    def watch(self, units: AbstractUnits, done: bool) -> None:
        """Watch training from now on, if the score is gathered from it; stop once nothing more will leave."""
        if self._gathering is not None:
            self._gathering.close()
        self._gathering = None if done else self._method.score.gather(self._scorer.network(units))
        self.early = None if done else self.early

    def start_gathering(self) -> None:
        """Gather from the next step on, if the score is gathered from training; forget the steps before."""
        if self._gathering is not None:
            self._gathering.reset()

    # States -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The widths, the weights to go back to, and what was gathered."""
        gathered = None if self._gathering is None else self._gathering.state_dict()
        return {"early": self.early, "widths": self.widths, "gathering": gathered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from such a state, after `watch`."""
        self.early, self.widths = state["early"], state.get("widths")
        if self._gathering is not None:
            self._gathering.load_state_dict(state["gathering"])

    def held(self) -> Iterator[Tensor]:
        """Every tensor, as large as the network, that is kept from step to step."""
        state = self.state_dict()
        yield from (leaf for leaf in tree_iter([state["early"], state["gathering"]]) if isinstance(leaf, Tensor))

    def _gathered(self) -> Tensor | None:
        """What the score has gathered from training, averaged over ranks."""
        total, ranks = None if self._gathering is None else self._gathering.total, self._scorer.ranks
        return None if total is None else ranks.sum(total) / ranks.size


def _part_of(units: AbstractUnits, keep: Tensor, scores: Tensor, most: float) -> Tensor:
    """The first part of the way to `keep`, as far as the scores are trusted (`most`)."""
    alive, step = units.alive, keep.clone()
    part = partway(keep.cpu()[alive], scores.detach().cpu()[alive], units.layer[alive], most)
    step[alive.to(step.device)] = part.to(step.device)
    return step
