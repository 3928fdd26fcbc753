"""The kinds of runs that can be compared with the pruned ones at equal cost, by name."""

from collections.abc import Iterable

from earlycrop.errors import nearest

KINDS = {
    "narrow-flops": "the dense network whose width gives it the same FLOPs",
    "narrow-params": "the dense network whose width gives it as many parameters",
    "random-flops": "random channels removed until it has the same FLOPs",
    "longer": "for cuts before training, as many epochs as the dense run's training FLOPs allow",
}
"""The kinds of runs that can be added for each method that removes channels."""


def check_kinds(names: Iterable[str]) -> None:
    """Check that these are names of `KINDS`.

    Raises:
        ValueError: One is not; the message suggests the nearest.
    """
    for name in names:
        if name not in KINDS:
            near = nearest(name, KINDS)
            raise ValueError(f"There is no kind of comparison run {name!r}. Did you mean {near!r}?")
