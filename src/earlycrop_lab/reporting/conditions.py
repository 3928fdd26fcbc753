"""What runs have in common, in words: the setting in which they can be compared, and the conditions of measurement."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import fields

from earlycrop_lab.runs import Result
from earlycrop_lab.tasks.description import PRUNING, Description


def setting(d: Description) -> str:
    """What a run shares with its dense twin, in words, without what is usual for the data; smoke runs are marked.

    >>> from earlycrop_lab.tasks.classification import Classification
    >>> setting(Classification(data="cifar10", train_size=10_000, epochs=12, learning_rate=0.001))
    'resnet18 of width 64 on cifar10, 10,000 training images, 12 epochs, learning rate 0.001'
    """
    usual = d.usual()
    images = f", {d.train_size:,} {d.samples}" if d.train_size else ""
    stated = ("network", "width", "data", "train_size", "epochs", "max_steps", "seed", *PRUNING)
    more = [
        f", {each.name.replace('_', ' ')} {getattr(d, each.name)}"
        for each in fields(d)
        if each.metadata["tag"] is not None
        and each.name not in stated
        and getattr(d, each.name) != getattr(usual, each.name)
    ]
    epochs = f"{d.epochs} epoch{'s' * (d.epochs > 1)}"
    steps = f"{d.max_steps} batch{'es' * (d.max_steps != 1)} an epoch"
    smoke = "" if d.max_steps is None else f"A SMOKE RUN, NO RESULT ({steps}): "
    return f"{smoke}{d.network} of width {d.width} on {d.data}{images}, {epochs}{''.join(more)}"


def condition(result: Result) -> str:
    """The conditions under which a run was measured, except for the load: hardware, threads, versions, electricity."""
    e, m = result.environment, result.emissions
    device = e["cpu"] if e["device"] == "cpu" else f"{e['device']}, {e['cpu']}"
    packages = e["packages"]
    ours = f"commit {_short(e['commit'])}" if e.get("commit") else f"version {packages.get('earlycrop', 'unknown')}"
    began = f"; begun with other {' and '.join(e['changed_from'])}" if e.get("changed_from") else ""
    ranks = f"{e['ranks']} processes of " if e.get("ranks", 1) > 1 else ""
    return (
        f"{device}, {ranks}{e['threads']} thread{'s' * (e['threads'] > 1)} on {e['cpus']} CPUs; "
        f"earlycrop of {ours}, torch {packages['torch']}{began}. "
        f"Emissions: mix of {m.country}, PUE {m.pue:g}, whole machine; {m.power}."
    )


def conditions(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The runs by condition, the most common condition first."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[condition(result)].append(result)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def comparable(column: str, results: Iterable[Result]) -> bool:
    """Whether a column's numbers can be compared between these runs.

    Times depend on the machine, energy also on what of its power was measured and on the site, emissions also on the
    electricity's mix.
    """
    results = tuple(results)
    decisive, others = _decisive(column)
    moved = any(others.intersection(result.environment.get("changed_from", ())) for result in results)
    return not moved and len({decisive(result) for result in results}) <= 1


def _decisive(column: str) -> tuple[Callable[[Result], tuple[object, ...]], frozenset[str]]:
    """What a column's numbers depend on, and the changes under which an interrupted run mixes two of them."""
    if column == "grams_co2":
        return lambda r: (*_machine(r), *_site(r), r.emissions.country), MOVED | {"pue", "country"}
    if column == "kwh":
        return lambda r: (*_machine(r), *_site(r)), MOVED | {"pue"}
    return (_machine, MOVED) if column.endswith("seconds") else (lambda _: (), frozenset())


MOVED = frozenset({"cpu", "device", "threads", "ranks", "packages"})
"""A run that resumed with another of these mixes the times of two machines."""


def _machine(result: Result) -> tuple[object, ...]:
    """The conditions on which time depends."""
    e = result.environment
    return (e["cpu"], e["device"], e["threads"], e["cpus"], e.get("ranks", 1), e["packages"].get("torch"))


def _site(result: Result) -> tuple[object, ...]:
    """The conditions on which energy depends, besides the machine."""
    return (result.emissions.pue, result.emissions.power)


def letter(number: int) -> str:
    """The mark of the n-th condition: none, a, b, …, z, aa, bb, …"""
    return "" if number == 0 else chr(ord("a") + (number - 1) % 26) * (1 + (number - 1) // 26)


def _short(commit: str) -> str:
    head, changed, _ = commit.partition("-changed")
    return head[:9] + changed
