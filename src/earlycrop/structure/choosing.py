"""Which spaces of channels can leave together: found with few trial cuts, each of which tests many spaces at once.

A trial cut finds every operator that does not do what the labels promise, and knows which spaces it depends on.
Operators that depend on different spaces are tests of their own, so one trial cut decides about all spaces that no
operator relates. A space is left out if it cannot leave together with those before it. If a difference cannot be
explained by such spaces, they are found by halving.
"""

from collections.abc import Callable, Sequence

from earlycrop.structure.attempts import Attempts, Fault


class Unexplained(Exception):
    """A cut copy differs where none of the spaces that left can be to blame."""


def together(attempts: Attempts, spaces: Sequence[int], faults: Sequence[Fault]) -> list[int]:
    """The spaces that can leave together.

    Args:
        attempts: Makes trial cuts.
        spaces: All spaces, in order.
        faults: What was found where all of them were cut.
    """
    try:
        return _Choice(attempts, spaces).made(faults)
    except Unexplained:
        return passing(attempts.passes, [], spaces)


class _Choice:
    """What has been found out about the spaces so far.

    Attributes:
        good: Spaces of which nothing is known that speaks against them.
        open: Spaces that depend on each other, to be decided.
        related: Groups of spaces on which an operator depends that differed.
    """

    def __init__(self, attempts: Attempts, spaces: Sequence[int]) -> None:
        self.attempts, self.good, self.open = attempts, set(spaces), set[int]()
        self.related = set[frozenset[int]]()
        self.seeds, self.passed = [0], dict[int, set[int]]()

    def made(self, faults: Sequence[Fault]) -> list[int]:
        """The spaces that can leave together, given what was found where all of them were cut."""
        limit = 2 * len(self.good)
        self._explain(faults, set(self.good), set())
        for _ in range(limit):
            wave = self._wave()
            faults = self._faults(self.good | wave)
            self._explain(faults, self.good | wave, wave)
            if not faults and not self.open:
                rest = [seed for seed in self.attempts.seeds if seed not in self.seeds]
                if not rest:
                    return sorted(self.good)
                self.seeds.append(rest[0])
        raise Unexplained

    def _faults(self, tried: set[int]) -> list[Fault]:
        found: list[Fault] = []
        for seed in self.seeds:
            if self.passed.get(seed) != tried:
                found += (faults := self.attempts.faults(sorted(tried), seed))
                if not faults:
                    self.passed[seed] = set(tried)
        return found

    def _wave(self) -> set[int]:
        """The open spaces that are related to no open one before them."""
        first = [(group, min(group & self.open)) for group in self.related if group & self.open]
        return {one for one in self.open if all(one == least for group, least in first if one in group)}

    def _explain(self, faults: Sequence[Fault], tried: set[int], wave: set[int]) -> None:
        """Take out the spaces of the wave that are to blame; the others are good.

        Raises:
            Unexplained: no space that was tried is to blame for a difference.
        """
        bad = set[int]()
        self.open -= wave
        for fault in faults:
            group = fault.blamed & tried
            if not group:
                raise Unexplained
            if len(group) == 1 or len(group & wave) == 1:  # the others can leave together
                bad |= group & wave or group
            else:
                self.related.add(group)
                self.open |= group
        self.open -= bad
        self.good = (self.good | wave) - bad - self.open


def passing(passes: Callable[[Sequence[int]], bool], beside: Sequence[int], failing: Sequence[int]) -> list[int]:
    """The spaces of `failing` that can be cut together with all those of `beside`, found by halving."""
    if len(failing) <= 1:
        return []
    found: list[int] = []
    half = len(failing) // 2
    for part in (failing[:half], failing[half:]):
        good = [*beside, *found]
        found += part if passes([*good, *part]) else passing(passes, good, part)
    return found
