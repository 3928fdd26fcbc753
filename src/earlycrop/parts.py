"""Parts of a network, by name: each loses a part of its own, and its units compete among themselves.

A parameter belongs to the part with the longest name that its own begins with; to none, and so to the rest, if there is
no such name. The channels of a space (those of a layer, or of a whole residual stream) belong to the part with the
longest name among the layers that create them; of several names as long as that one, to the part whose layer runs
first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from earlycrop.counting.costs import AbstractCost
from earlycrop.counting.sizes import Sizes
from earlycrop.errors import BudgetError, nearest
from earlycrop.structure import Structure
from earlycrop.structure.work import Work

Name = str | tuple[str, ...]
"""What names a part: a module or parameter, or several that are one part together."""

REST = "the rest"
"""The title of what no name of a part covers."""


def check_parts(given: object) -> dict[Name, float]:
    """A copy of the parts of a budget.

    Args:
        given: Maps a name, or a tuple of names, to a sparsity.

    Raises:
        BudgetError: it is no such mapping, a sparsity is out of range, or two parts have a name in common.
    """
    if not isinstance(given, Mapping):
        raise BudgetError(f"`parts` maps names to sparsities, as in {{'head': 0.5}}; found {given!r}.")
    parts, seen = dict(given), set()
    for name, sparsity in parts.items():
        if not all(isinstance(one, str) and one for one in _each(name)) or not _each(name):
            raise BudgetError(f"`parts` names modules or parameters by strings or tuples of strings; found {name!r}.")
        if isinstance(sparsity, str) or not 0 <= sparsity < 1:
            raise BudgetError(
                f"The sparsity of {title_of(name)} in `parts` is the part removed, at least 0 and below 1; found "
                f"{sparsity!r}."
            )
        if twice := seen.intersection(_each(name)):
            raise BudgetError(f"`parts` names {min(twice)!r} twice: a name belongs to one part.")
        seen.update(_each(name))
    return parts


@dataclass(frozen=True)
class PartCount:
    """What a part of the network costs before a cut and after it.

    Attributes:
        part: Its name; `the rest` is what no name covers.
        requested: The sparsity that was asked for.
        before: The cost of its layers in the dense network, in the units of the budget's target.
        after: The same of what is left.
    """

    part: str
    requested: float
    before: float
    after: float

    @property
    def sparsity(self) -> float:
        """The part of its cost that left: more than was asked for where channels that it reads left elsewhere."""
        return 1 - self.after / self.before


@dataclass(frozen=True)
class PartCost(AbstractCost):
    """A cost inside a part of the network: what it is if only the layers and parameters of this part are counted.

    Args:
        cost: The cost.
        part: What messages call the part.
        parameters: The names of its parameters.

    Attributes:
        name: What messages call this cost.
        per_weight: As of the cost.
    """

    cost: AbstractCost
    part: str
    parameters: frozenset[str] = field(repr=False)
    name: str = field(init=False, repr=False)
    per_weight: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.part}'s {self.cost.name}")
        object.__setattr__(self, "per_weight", self.cost.per_weight)

    def of(self, sizes: Sizes) -> float:
        """The cost of the part alone."""
        return self.cost.of(_Inside(sizes, self.parameters))


class _Inside(Sizes):
    """The sizes of some of the layers and parameters, as if there were no others."""

    def __init__(self, sizes: Sizes, parameters: frozenset[str]) -> None:
        vars(self).update(vars(sizes))
        self.layers = tuple(layer for layer in sizes.layers if layer.weight in parameters)
        self.weights = sizes.weights & parameters
        self.parameters = sizes.parameters & parameters

    @property
    def uses(self) -> tuple[tuple[str, float], ...]:
        """The multiply-adds of these parameters alone."""
        return tuple((name, uses) for name, uses in super().uses if name in self.parameters)

    @property
    def work(self) -> Work:
        """Refused: activations, and the operators between layers, belong to no part."""
        raise BudgetError(
            "Memory and latency are those of a whole network, not of parts: ask for them without `parts`, or give the "
            "parts a target of weight, params, node or flops."
        )


@dataclass(frozen=True, eq=False)
class Share:
    """A part of a model, and how much of it is to leave.

    Attributes:
        number: Its number; the rest comes last.
        title: What messages call it.
        sparsity: The part of its cost that is to leave.
        cost: The budget's cost inside it.
        named: Whether the user named it; the rest is what nobody did.
    """

    number: int
    title: str
    sparsity: float
    cost: PartCost
    named: bool

    def counted(self, before: Sizes, after: float) -> PartCount:
        """The record of a cut.

        Args:
            before: The sizes of the dense network.
            after: What is left of its cost.
        """
        return PartCount(self.title.replace("`", ""), self.sparsity, self.cost.of(before), after)


class Parts:
    """The parts of a model.

    Args:
        model: The network.
        parts: Maps names to sparsities.

    Raises:
        BudgetError: the model has no module or parameter of some name.
    """

    def __init__(self, model: nn.Module, parts: Mapping[Name, float]) -> None:
        known = [name for name, _ in [*model.named_modules(), *model.named_parameters()] if name]
        self._names = {one: number for number, name in enumerate(parts) for one in _each(name)}
        self._parts = dict(parts)
        self._parameters = [name for name, _ in model.named_parameters()]
        for name in self._names:
            if name not in known:
                raise BudgetError(
                    f"`parts` names {name!r}, but the model has no module or parameter of that name. "
                    f"Did you mean {nearest(name, known)!r}?"
                )

    def find(self, parameter: str) -> tuple[int, int]:
        """The number of the part of a parameter, the rest being the last, and how many words of its name decide it."""
        words = parameter.split(".")
        for length in range(len(words), 0, -1):
            number = self._names.get(".".join(words[:length]))
            if number is not None:
                return number, length
        return len(self._parts), 0

    def shares(self, rest: float, cost: AbstractCost, whole: Sizes) -> list[Share]:
        """Every part in which the cost counts something, the rest last.

        Args:
            rest: The sparsity of what no name covers.
            cost: The budget's cost.
            whole: The sizes of the dense network.

        Raises:
            BudgetError: the cost counts nothing in a part that was named.
        """
        found = [self.find(name)[0] for name in self._parameters]
        shares = []
        for number, (name, sparsity) in enumerate([*self._parts.items(), (None, rest)]):
            mine = frozenset(one for one, part in zip(self._parameters, found, strict=True) if part == number)
            title = REST if name is None else title_of(name)
            inside = PartCost(cost, title, mine)
            if inside.of(whole) > 0:
                shares.append(Share(number, title, sparsity, inside, name is not None))
            elif name is not None:
                raise BudgetError(
                    f"`parts` gives {title} a sparsity, but {cost.name} counts nothing in it: it has no layer, or "
                    f"longer names in `parts` cover all of its layers. Leave it out."
                )
        return shares

    def owners(self, structure: Structure) -> Int[Tensor, "classes"]:
        """For each class of channels the number of the part that it belongs to."""
        owner = torch.full((len(structure),), len(self._parts))
        decided = torch.full((len(structure),), -1)
        for name, dim in structure.creators:
            classes = structure.tensors[name].classes[dim]
            if classes is not None:
                number, words = self.find(name)
                mine = classes[classes >= 0]
                mine = mine[decided[mine] < words]
                owner[mine], decided[mine] = number, words
        return owner


def title_of(name: Name) -> str:
    """What messages call a part.

    >>> title_of("head"), title_of(("stem", "head"))
    ('`head`', '`stem` and `head`')
    """
    return " and ".join(f"`{one}`" for one in _each(name))


def part_lines(counts: tuple[PartCount, ...]) -> list[str]:
    """Lines of text: the parts of a network, and what was asked of each and reached."""
    width = max((len(one.part) for one in counts), default=0)
    return [
        f"  part        {one.part:<{width}} {one.before:>13,.6g} -> {one.after:>13,.6g}   sparsity {one.sparsity:.4f}, "
        f"asked for {one.requested:g}"
        for one in counts
    ]


def _each(name: Any) -> tuple[Any, ...]:
    return name if isinstance(name, tuple) else (name,)
