"""What holds channels, grouped by its reasons: one line is enough for many layers that are frozen for the same one."""

import re
from collections.abc import Iterable

from earlycrop.structure.structure import Frozen, Structure

SHOWN = 2
"""How many tensors of a group are named."""


def grouped(frozen: Iterable[Frozen]) -> list[str]:
    """A line for each reason, reasons that differ by the number of a block alone being one; the first seen first.

    >>> for line in grouped(Frozen(f"blocks.{n}.fc.weight dim 0", f"mixed (mean in `{n}`)", 8) for n in range(4)):
    ...     print(line)
    mixed (mean in `*`): 4 tensors (blocks.0.fc.weight dim 0, blocks.1.fc.weight dim 0, …; 32 channels)
    >>> grouped([Frozen("fc.weight dim 0", "kept by `ignore`", 8)])
    ['fc.weight dim 0 (8 channels): kept by `ignore`']
    """
    return [_line(reason, group) for reason, group in _groups(frozen).items()]


def holding(structure: Structure, shown: int = 3) -> str | None:
    """What holds most channels, in a few words; None if nothing is frozen."""
    outputs = [
        Frozen(layer.weight, "outputs of the network, with all features that it returns", layer.channels)
        for layer in structure.layers
        if layer.weight in structure.outputs
    ]
    groups = _groups([*outputs, *structure.frozen])
    most = sorted(groups.items(), key=lambda pair: -sum(one.channels for one in pair[1]))
    found = [f"{reason}: {_tensors(group)}" for reason, group in most[:shown]]
    more = len(groups) - shown
    return "; ".join([*found, *([f"and {more} more reasons"] if more > 0 else [])]) or None


def _groups(frozen: Iterable[Frozen]) -> dict[str, list[Frozen]]:
    """By reason, without the numbers of blocks where a group has several."""
    groups: dict[str, list[Frozen]] = {}
    for one in frozen:
        groups.setdefault(re.sub(r"`[^`]*`", lambda path: re.sub(r"\d+", "*", path[0]), one.reason), []).append(one)
    alike = {reason: {one.reason for one in group} for reason, group in groups.items()}
    return {(reason if len(alike[reason]) > 1 else alike[reason].pop()): group for reason, group in groups.items()}


def _line(reason: str, group: list[Frozen]) -> str:
    return str(group[0]) if len(group) == 1 else f"{reason}: {_tensors(group)}"


def _tensors(group: list[Frozen]) -> str:
    """How many, the first of them, and their channels."""
    named = [one.where for one in group[:SHOWN]] + ["…"] * (len(group) > SHOWN)
    channels = sum(one.channels for one in group)
    what = f"{len(group)} tensor{'s' if len(group) > 1 else ''} ({', '.join(named)}"
    return f"{what}; {channels:,} channels)" if channels else f"{what})"
