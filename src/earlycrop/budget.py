"""How much leaves: an exact number of weights, or the choice of channel classes that comes nearest to a target."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from numbers import Integral, Real

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from earlycrop.allocation import places
from earlycrop.counting import Counter
from earlycrop.counting.costs import COSTS, AbstractCost
from earlycrop.counting.latency import Latency
from earlycrop.counting.sizes import Sizes
from earlycrop.errors import BudgetError, ScoreError, nearest
from earlycrop.names import Target
from earlycrop.parts import Name, Parts, Share, check_parts
from earlycrop.structure import Structure
from earlycrop.structure.held import holding
from earlycrop.vector import Vector


@dataclass(frozen=True)
class Budget:
    """What is to leave, and what must stay.

    Args:
        sparsity: The part of the dense network's count that is removed, in [0, 1).
        target: Which count: `weight` (prunable weights), `node` (output channels), `params`, `flops` or `memory` (bytes
            in training); or a cost with settings (`Memory(batch=64)`), measured (`Latency.measured(...)`), or of your
            own.
        min_channels: The least that each layer keeps: a number of channels if an integer, a fraction of them if a
            float. None leaves it to the method: 1 for all but `gate-decorators`.
        round_to: Widths are multiples of this (8 suits CPUs and tensor cores); layers are rounded up, never down.
        protect_layers: For weights: each layer keeps at least its best weight.
        parts: The sparsity of parts of the network, by the names of modules or parameters, or tuples of names that are
            one part together: `{"backbone": 0.9, "head": 0.5, "backbone.stem": 0.0}`. The longest name that fits
            decides; `sparsity` is that of the rest. Units compete only within their part, and each sparsity is a part
            of what the layers of its part cost in the dense network, see `docs/choosing.md`.

    Raises:
        BudgetError: an option is out of range.
    """

    sparsity: float
    target: Target | AbstractCost = "weight"
    min_channels: int | float | None = None
    round_to: int = 1
    protect_layers: bool = False
    parts: Mapping[Name, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", check_parts(self.parts))
        for name in ("sparsity", "round_to", "min_channels"):
            value = getattr(self, name)
            whole = name == "round_to"
            if not (isinstance(value, Integral if whole else Real) or (value is None and name == "min_channels")):
                raise BudgetError(f"`{name}` is {'a whole number' if whole else 'a number'}; found {value!r}.")
        if not 0 <= self.sparsity < 1:
            raise BudgetError(f"`sparsity` is the part removed, at least 0 and below 1; found {self.sparsity}.")
        if self.target == Latency.name:
            raise BudgetError(
                "`target='latency'` has to be measured on your device first: "
                "Budget(..., target=Latency.measured(model, images, 'latency.json')), with `Latency` from "
                "earlycrop.counting and the batch whose latency counts."
            )
        if not isinstance(self.target, AbstractCost) and self.target not in tuple(COSTS):
            raise BudgetError(
                f"`target` is one of {', '.join(COSTS)}; found {self.target!r}. "
                f"Did you mean {nearest(self.target, COSTS)!r}?"
            )
        if not (0 < self.least <= 1 if isinstance(self.least, float) else self.least >= 1):
            raise BudgetError(
                f"`min_channels` is a number of channels (an integer, at least 1) or a fraction of each layer (a float "
                f"above 0, at most 1); found {self.min_channels!r}."
            )
        if self.round_to < 1:
            raise BudgetError(f"`round_to` is a positive number of channels; found {self.round_to}.")

    @property
    def least(self) -> int | float:
        """`min_channels`, or 1 where that is None."""
        return 1 if self.min_channels is None else self.min_channels

    @property
    def cost(self) -> AbstractCost:
        """What sparsity counts: the cost that `target` names, or `target` itself."""
        return self.target if isinstance(self.target, AbstractCost) else COSTS[self.target]

    def with_floor(self, min_channels: int | float) -> "Budget":
        """The same budget with that floor, if it has none."""
        return replace(self, min_channels=min_channels) if self.min_channels is None else self

    @property
    def highest(self) -> float:
        """The highest sparsity of any part: steps lead to it, and so do thresholds that follow from a sparsity."""
        return max([self.sparsity, *self.parts.values()])

    def at(self, highest: float) -> "Budget":
        """The same rules at another highest sparsity, all parts being the same fraction of their way: a step.

        >>> Budget(0.8, parts={"head": 0.4}).at(0.2).parts
        {'head': 0.1}
        """
        if not self.parts:
            return replace(self, sparsity=highest)
        way = highest / self.highest if self.highest else 0.0
        return replace(self, sparsity=way * self.sparsity, parts={name: way * one for name, one in self.parts.items()})

    def within(self, sparsity: float, cost: AbstractCost) -> "Budget":
        """The same rules inside a part.

        Args:
            sparsity: The sparsity of the part.
            cost: The cost inside it.
        """
        return replace(self, sparsity=sparsity, target=cost, parts={})

    def __repr__(self) -> str:
        # saved states and ranks compare it: without parts as before there were any, with them in one order
        parts = dict(sorted(self.parts.items(), key=str))
        shown = {one.name: getattr(self, one.name) for one in fields(self)} | {"parts": parts}
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in shown.items() if name != 'parts' or parts)})"


def shares_of(model: nn.Module, budget: Budget, whole: Sizes) -> list[Share]:
    """The parts of a budget in a model, the rest last; none where the budget has no parts.

    Args:
        model: The network.
        budget: The rules.
        whole: The sizes of the dense network.
    """
    return Parts(model, budget.parts).shares(budget.sparsity, budget.cost, whole) if budget.parts else []


def check_scores(scores: Vector) -> None:
    """Refuse scores that cannot be ranked.

    Raises:
        ScoreError: some score is nan or infinite.
    """
    bad = ~torch.isfinite(scores)
    if bool(bad.any()):
        raise ScoreError(
            f"{int(bad.sum())} of {scores.numel()} scores are not finite: ranking them would be meaningless. Look for "
            f"a loss or activations that overflow, weights that are nan, or too high a learning rate."
        )


def check_distinct(scores: Vector) -> None:
    """Refuse scores that say nothing: a cut by them would go by the order of the units.

    Raises:
        ScoreError: there are several, and all are the same.
    """
    if scores.numel() > 1 and bool((scores == scores[0]).all()):
        raise ScoreError(
            f"All {scores.numel()} scores are {float(scores[0]):g}: they rank nothing. Look for a loss that "
            f"does not depend on the model's weights, a scoring batch of one sample under a contrastive loss, outputs "
            f"or gradients that are zero, or weights that are all alike."
        )


def largest(scores: Vector, count: int) -> Bool[Tensor, "units"]:
    """True for exactly `count` units, those with the highest scores; ties go to the earlier unit.

    Args:
        scores: The higher stays.
        count: How many stay.

    >>> largest(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2)
    tensor([ True,  True, False, False])
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = torch.kthvalue(scores, scores.numel() - count + 1).values
    keep = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    keep[ties[: count - int(keep.sum())]] = True
    return keep


def check_masks(budget: Budget) -> None:
    """Refuse a target that masks cannot meet.

    Raises:
        BudgetError: it does not fall when single weights leave.
    """
    cost = budget.cost
    if not cost.per_weight:
        able = " or ".join(f"`target={name!r}`" for name, one in COSTS.items() if one.per_weight)
        raise BudgetError(
            f"Removing single weights makes no layer smaller, so it cannot meet `target={budget.target!r}`: use "
            f"{able}, or a method for channels (those whose name ends in -s)."
        )


def choose_weights(
    budget: Budget,
    scores: Vector,
    alive: Bool[Tensor, "weights"],
    parts: list[int],
    dense: Sizes,
    first: Bool[Tensor, "weights"] | None = None,
) -> Bool[Tensor, "weights"]:
    """The weights that stay: the cost of those removed comes nearest to ρ of the dense network's cost.

    All weights have the same price, so if the cost counts weights, exactly round(ρ N) of the dense network's N leave.

    Args:
        budget: How much is to leave; its target must be one that masks can meet.
        scores: The higher stays.
        alive: The weights that have not left before; only these may stay.
        parts: The number of weights in each layer, in the order of `scores`.
        dense: The sizes of the network without masks, including what `ignore` keeps.
        first: What must stay.

    Returns:
        True for each weight that stays.

    Raises:
        BudgetError: masks cannot meet this target, or cannot reach this sparsity.
        ScoreError: some score is nan or infinite.
    """
    check_masks(budget)
    cost = budget.cost
    check_scores(scores)
    total, whole = scores.numel(), cost.of(dense) / cost.per_weight
    leaves = round(budget.sparsity * whole)
    scores = torch.where(alive, scores, -torch.inf)
    count = min(total - leaves, int(alive.sum()))
    first = torch.zeros_like(alive) if first is None else first & alive
    if budget.protect_layers:
        for part, best in zip(scores.split(parts), first.split(parts), strict=True):
            best[part.argmax()] = True
        first &= alive
    if count < (stay := min(max(int(first.sum()), 1), total)):
        reachable = max(total - stay, 0) / whole
        raise BudgetError(
            f"Cannot reach {cost.name} sparsity {budget.sparsity:.6g}: at least {stay} of {total} prunable weights "
            f"must stay, so the most that weights can reach is {reachable:.6g}. Ask for a lower sparsity."
        )
    return largest(torch.where(first, torch.inf, scores), count)


@dataclass(frozen=True, eq=False)
class Among:
    """Classes of channels that compete with each other, and what is to leave of them.

    Attributes:
        budget: The rules among them; its cost counts the layers of their part.
        scores: The scores of all classes; the higher stays.
        dense: That cost of the dense network.
        classes: True for those that are meant.
    """

    budget: Budget
    scores: Vector
    dense: float
    classes: Bool[Tensor, "classes"]


def choose_channels(
    parts: Sequence[Among], structure: Structure, counter: Counter, whole: Int[Tensor, "classes"]
) -> Bool[Tensor, "classes"]:
    """The classes that stay: what is left of each part costs as near as possible to (1 − ρ) of what it did.

    The cost can only fall as classes leave, so the place to stop is found by bisection; of the two stops around the
    target the nearer is taken. A channel that leaves takes weights of the layers that read it, which may lie in another
    part. So each part chooses again, given what leaves elsewhere, until nothing changes.

    Args:
        parts: What competes with each other; the network as a whole is one part. Best in the order of the layers.
        structure: The classes.
        counter: Counts what a choice leaves.
        whole: For each class the size of its space in the dense network, of which `min_channels` may be a fraction.

    Returns:
        True for each class that stays.

    Raises:
        BudgetError: a target is out of reach; states the most that can be removed.
        ScoreError: some score is nan or infinite.
    """
    choices = [_Choice(part, structure, counter, whole) for part in parts]
    stays = torch.ones(len(structure), dtype=torch.bool)
    beside, rounds, settled = [stays] * len(choices), 0, False
    while not settled:
        before = [choice.removed for choice in choices]
        for number, choice in enumerate(choices):
            others = (other.keep for other in choices if other is not choice)
            beside[number] = reduce(torch.logical_and, others, stays)
            # parts that go round in a circle come to rest once nothing returns
            choice.removed = max(choice.stop(beside[number]), choice.removed if rounds >= ROUNDS else 0)
        # nothing leaves beside an only part: its first choice is its last
        rounds, settled = rounds + 1, len(choices) == 1 or [choice.removed for choice in choices] == before
    for choice, elsewhere in zip(choices, beside, strict=True):
        choice.check(elsewhere)
    return reduce(torch.logical_and, (choice.keep for choice in choices), stays)


ROUNDS = 8
"""Rounds in which a part may take back what left, since less is needed of it."""


class _Choice:
    """What leaves of one part.

    Attributes:
        removed: How many of its classes leave.
    """

    def __init__(self, part: Among, structure: Structure, counter: Counter, whole: Int[Tensor, "classes"]) -> None:
        check_scores(part.scores)
        self._budget, self._dense, self._structure, self._counter = part.budget, part.dense, structure, counter
        self._stops = _Stops(part.budget, part.scores.detach().double().cpu(), structure, whole, part.classes)
        self._goal, self._rounding = (1 - part.budget.sparsity) * part.dense, 1e-9 * part.dense
        self.removed = 0

    @property
    def keep(self) -> Bool[Tensor, "classes"]:
        """True for each class that stays; the classes of other parts do."""
        return self._stops.keep(self.removed)

    def stop(self, beside: Bool[Tensor, "classes"]) -> int:
        """The place to stop, given what stays of other parts; all that can leave if the target is out of reach."""

        def cost(removed: int) -> float:
            return self._cost(removed, beside)

        met = self._goal + self._rounding
        removed = bisect_left(range(self._stops.last), True, key=lambda removed: cost(removed) <= met)
        if removed > 0 and abs(cost(removed - 1) - self._goal) < abs(cost(removed) - self._goal):
            removed -= 1
        return removed

    def check(self, beside: Bool[Tensor, "classes"]) -> None:
        """Refuse a target that is out of reach."""
        if (least := self._cost(self._stops.last, beside)) > self._goal + self._rounding:
            held, budget = holding(self._structure), self._budget
            rules = f"min_channels={budget.least}, round_to={budget.round_to}"
            raise BudgetError(
                f"Cannot reach {budget.cost.name} sparsity {budget.sparsity:.6g}: with {rules} and what cannot leave, "
                f"the most that channels can reach is {1 - least / self._dense:.6g}. {self._readers}"
                f"{f'Held: {held}. ' if held else ''}Ask for less, lower min_channels, or let go of what holds them "
                f"(every reason is in `structure.frozen`)."
            )

    @property
    def _readers(self) -> str:
        none = "None of the channels that it makes may leave: its weights leave with the channels that it reads. "
        return "" if self._stops.last else none

    def _cost(self, removed: int, beside: Bool[Tensor, "classes"]) -> float:
        return self._counter.price(self._budget.cost, self._stops.keep(removed) & beside)


class _Stops:
    """The places to stop as some of the classes leave from the lowest score up.

    Each space keeps its best classes (`min_channels`), and more where `round_to` requires it.

    Attributes:
        last: How many classes can leave.
    """

    def __init__(
        self,
        budget: Budget,
        scores: Vector,
        structure: Structure,
        whole: Int[Tensor, "classes"],
        classes: Bool[Tensor, "classes"],
    ) -> None:
        self.space = space = structure.spaces()
        self.sizes = torch.bincount(space)
        self.rank = places(scores, space)
        fewest, self.unit = (
            torch.zeros_like(self.sizes).scatter_reduce(0, space, one, reduce, include_self=False)
            for one, reduce in zip(multiplicities(structure, budget.round_to), ("amin", "amax"), strict=True)
        )
        if isinstance(budget.least, float):
            least = (torch.zeros_like(self.sizes).scatter(0, space, whole) * budget.least).ceil().long()
        else:
            least = -(-budget.least // fewest)
        least = torch.minimum(least.clamp_min(1), self.sizes)
        may_leave = (self.rank >= least[space]) & classes
        self.last = int(may_leave.sum())
        self.order = torch.argsort(torch.where(may_leave, scores, torch.inf), stable=True)[: self.last]

    def keep(self, removed: int) -> Bool[Tensor, "classes"]:
        """What stays once that many classes have left: the best of each space."""
        kept = self.sizes - torch.bincount(self.space[self.order[:removed]], minlength=self.sizes.numel())
        kept = torch.minimum((kept + self.unit - 1) // self.unit * self.unit, self.sizes)
        return self.rank < kept[self.space]


def multiplicities(structure: Structure, round_to: int) -> tuple[Int[Tensor, "classes"], Int[Tensor, "classes"]]:
    """The least number of channels that a class holds in any layer, and the number of classes that rounds widths.

    A class may hold several channels of a layer: a head, the same offset of every group, r² for a pixel shuffle.
    Every layer's width is a multiple of `round_to` if the second number divides the number of classes that stay.

    Args:
        structure: The classes.
        round_to: What widths are to be multiples of.
    """
    fewest = torch.full((len(structure),), torch.iinfo(torch.int64).max)
    unit = torch.ones_like(fewest)
    created = [structure.tensors[name].classes[dim] for name, dim in structure.creators]
    counted = [classes for (_, name, _), classes in structure.attributes.items() if name in WIDTHS]
    for classes in (*created, *counted):
        if classes is not None:
            present, held = torch.unique(classes[classes >= 0], return_counts=True)
            fewest[present] = torch.minimum(fewest[present], held)
            unit[present] = torch.lcm(unit[present], round_to // torch.gcd(held, torch.full_like(held, round_to)))
    return fewest, unit


WIDTHS = ("out_channels", "out_features", "hidden_size", "proj_size")
"""The attributes in which modules keep their widths: a recurrent layer's rows are those of all its gates, so their
number is not its width."""
