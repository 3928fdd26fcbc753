"""The questions of `earlycrop why`: what can be asked, and how an answer is kept and drawn."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from earlycrop.files import replacing
from earlycrop.report import plain
from earlycrop_lab import why, why_choice, why_choice_figures, why_early, why_early_figures, why_figures
from earlycrop_lab.compare import Outcome
from earlycrop_lab.measure.hardware import environment, find_device
from earlycrop_lab.runs import Result, folder_name
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.why_choice import Choice
from earlycrop_lab.why_early import Early, Mark

RECORDS = "records.json"
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)
Given = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """Who asks, and what helps to answer.

    Args:
        options: What was said, beside the description.
        say: Prints a line.
        compared: Runs descriptions, each in a process of its own.
    """

    options: argparse.Namespace
    say: Callable[[str], None]
    compared: Callable[[Sequence[Classification]], list[Outcome]]

    @property
    def device(self) -> str:
        """Where to compute."""
        return find_device(self.options.device)


def inquire(parser: argparse.ArgumentParser) -> None:
    """The options of a question."""
    group = parser.add_argument_group("what to ask")
    group.add_argument(
        "what",
        choices=tuple(QUESTIONS),
        help="flow: what each score does to gradient flow and kernel; moment: how good an epoch is to prune at, and "
        "when each detector would; choice: what a score's choice is worth inside the widths of a method; early: which "
        "share of which budget to train before the cut",
    )
    group.add_argument(
        "--sparsities",
        type=float,
        nargs="+",
        metavar="X",
        help="parts to remove (default: 0.5 0.8 0.9 0.95 0.98; of a moment and a choice 0.95)",
    )
    group.add_argument("--seeds", type=int, default=1, metavar="N", help="how many (default: 1)")
    group.add_argument(
        "--samples", type=int, default=8, metavar="N", help="training samples of the kernel (default: 8)"
    )
    group.add_argument("--after", type=int, default=0, metavar="N", help="flow: dense epochs before (default: 0)")
    group.add_argument(
        "--scores", nargs="+", default=why.SCORES, metavar="NAME", help="flow: methods (default: those before training)"
    )
    group.add_argument(
        "--at",
        type=float,
        nargs="+",
        metavar="N",
        help="moment: epochs to prune at (default: five in the first half); choice: the epoch of the cut (default: "
        "where the method's detector would wait no longer, or 0)",
    )
    group.add_argument(
        "--budgets", type=int, nargs="+", default=why_early.BUDGETS, metavar="N", help="early: in epochs (default: 10 "
        "20 40 80)"
    )  # fmt: skip
    group.add_argument(
        "--shares",
        type=float,
        nargs="+",
        default=why_early.SHARES,
        metavar="X",
        help="early: parts of the budget before the cut (default: 0 0.05 0.1 0.25 0.5)",
    )


def ask(given: Given, asking: Asking) -> int:
    """Ask, keep the records and draw them.

    Raises:
        ValueError: The question means nothing.
    """
    options = asking.options
    if min(options.seeds, options.samples) < 1 or options.after < 0:
        raise ValueError("--seeds and --samples have to be 1 or more, --after 0 or more")
    return QUESTIONS[options.what](given, asking)


def _flow(given: Given, asking: Asking) -> int:
    options, device = asking.options, asking.device
    d, found = Classification(**given), []
    for seed in range(options.seeds):
        asked = why.flows(
            replace(d, seed=seed),
            options.scores,
            options.sparsities or LEVELS,
            epochs=options.after,
            samples=options.samples,
            root=options.data_root,
            device=device,
        )
        for each in asked:
            found.append(each)
            asking.say(
                f"seed {seed} {each.method:12} {each.sparsity:6.1%}  flow x{each.flow_after / each.flow_before:<9.3g} "
                f"kernel changed by {each.kernel_change:.3g}",
            )
    folder = options.out / f"why-flow-{d.data}-{d.network}-after{options.after}"
    _keep(folder, {"asked": repr(d), "found": found}, device)
    return _answer(folder, {"flow": why_figures.flow(found)}, asking)


def _moment(given: Given, asking: Asking) -> int:
    options, device = asking.options, asking.device
    if options.sparsities and len(options.sparsities) > 1:
        raise ValueError("a sweep of the moment is at one sparsity")
    d = Classification(**given, sparsity=options.sparsities[0] if options.sparsities else 0.95)
    at = options.at or sorted({float(round(d.epochs * part)) for part in (0, 0.1, 0.2, 0.35, 0.5)})
    outcomes = asking.compared([replace(d, prune_at=epoch, seed=seed) for seed in range(options.seeds) for epoch in at])
    lacking = [how for _, how in outcomes if isinstance(how, str)]
    if lacking:
        raise ValueError(f"{len(lacking)} of the runs have no result, the first because: {lacking[0]}")
    asking.say("the dense network, at a constant rate, under the eyes of every detector")
    seen = why.watched(d, samples=options.samples, root=options.data_root, device=device)
    accuracies, moments = why.swept([how for _, how in outcomes if isinstance(how, Result)], seen)
    for each in moments:
        asking.say(
            f"{each.rule:24} {each.reason:8} epoch {each.epoch:<4g} {each.accuracy:6.1%}, {100 * each.behind:4.1f} "
            f"points behind the best; a look takes {each.seconds:.3g} s",
        )
    title = f"{d.method} at {d.sparsity:.1%}, {d.network} on {d.data}: when is the moment?"
    figures = {
        "moment": why_figures.moment(accuracies, moments, seen, title),
        "training": why_figures.training(seen, f"{d.network} on {d.data}, dense, at a constant rate"),
    }
    records = {"asked": repr(d), "accuracies": accuracies, "moments": moments, "seen": seen}
    folder = options.out / f"why-moment-{folder_name(d)}"
    _keep(folder, records, device)
    return _answer(folder, figures, asking)


def _choice(given: Given, asking: Asking) -> int:
    """Every choice that has no record yet; the records are kept after each."""
    options, device, d = asking.options, asking.device, Classification(**given)
    if options.at and (len(options.at) > 1 or options.at[0] % 1):
        raise ValueError("the cut of every choice is at one whole epoch: give one with --at")
    epoch = int(options.at[0]) if options.at else why_choice.usual_epoch(d)
    levels = sorted(options.sparsities or (0.95,))
    folder = options.out / f"why-choice-{_named(d)}-at{epoch}"
    found = [Choice(**each) for each in _before(folder, d, options.again, "choices")]
    ways = why_choice.choices(why_choice.pruning_method(d))
    for seed in range(options.seeds):
        done = {each.key for each in found}
        asked = why_choice.chosen(
            replace(d, seed=seed), epoch, levels, done=done, root=options.data_root, device=device
        )
        for each in asked:
            found.append(each)
            _keep(folder, {"asked": repr(d), "choices": found}, device)
            asking.say(
                f"[{len(found)} of at most {options.seeds * len(levels) * len(ways)}] seed {seed} "
                f"{each.sparsity:6.1%} {each.choice}: {each.accuracy:.1%}, right after the cut "
                f"{each.cut_accuracy:.1%} on the scoring set ({each.seconds:.3g} s)"
            )
    with replacing(folder / "table.md") as file:
        file.write(why_choice.markdown(found).encode())
    asking.say("\n" + why_choice.markdown(found))
    title = f"Inside the widths of {d.method}, {d.network} on {d.data}"
    figures = {
        f"choice-{level:g}": why_choice_figures.choice(found, level, f"{title}, {100 * level:g} % removed")
        for level in sorted({each.sparsity for each in found})
    }
    return _answer(folder, figures, asking)


def _early(given: Given, asking: Asking) -> int:
    """Every run that has no record yet; the records are kept after each."""
    if "epochs" in given:
        raise ValueError("the budgets of `why early` are said with --budgets: leave out --epochs")
    options, device, d = asking.options, asking.device, Classification(**given)
    levels, budgets = sorted(options.sparsities or LEVELS), sorted(set(options.budgets))
    shares = sorted({0.0, *options.shares})
    why_early.check(d, levels, budgets, shares)
    folder = options.out / f"why-early-{_named(d)}"
    found = [Early.of(each) for each in _before(folder, d, options.again, "runs")]
    marks = [Mark(**each) for each in _before(folder, d, options.again, "marks")]

    def keep() -> None:
        records = {"budgets": budgets, "shares": shares, "runs": found, "marks": marks}
        _keep(folder, {"asked": repr(d), **records}, device)

    where = {"root": options.data_root, "device": device}
    watched = max(epoch for budget in budgets for epoch in why_early.moments(budget, shares))
    for seed in range(options.seeds):
        seeded = replace(d, seed=seed)
        for each in why_early.early(seeded, levels, budgets, shares, done=tuple(found), **where):
            found.append(each)
            keep()
            asking.say(
                f"[{len(found)}] seed {seed} {each.sparsity:6.1%} cut after {each.epoch} of {each.epochs} epochs: "
                f"{each.accuracy:.1%} for the FLOPs of {each.cost / each.flops_before:.3g} dense epochs "
                f"({each.seconds:.3g} s)"
            )
    for seed in range(options.seeds) if watched else ():
        done = {mark.key for mark in marks}
        for mark in why_early.marks(
            replace(d, seed=seed), levels, watched, samples=options.samples, done=done, **where
        ):
            marks.append(mark)
            keep()
            when = f"at epoch {mark.epoch:g}" if mark.epoch is not None else f"never in {watched} epochs"
            asking.say(f"seed {seed} {mark.sparsity:6.1%} {mark.rule} would cut {when}")
    keep()
    made = why_early.cells(found, budgets, shares)
    with replacing(folder / "table.md") as file:
        file.write(why_early.markdown(made).encode())
    asking.say("\n" + why_early.markdown(made))
    title = f"{d.method}, {d.network} on {d.data}: points above the cut before training"
    figures = {
        "equal-epochs": why_early_figures.early(made, shares, marks, title=f"{title}, equal epochs"),
        "equal-cost": why_early_figures.early(made, shares, marks, equal_cost=True, title=f"{title}, equal FLOPs"),
    }
    return _answer(folder, figures, asking)


QUESTIONS: dict[str, Callable[[Given, Asking], int]] = {
    "flow": _flow,
    "moment": _moment,
    "choice": _choice,
    "early": _early,
}
"""What can be asked."""


def _named(d: Classification) -> str:
    """The name of what is asked about, without a sparsity and a seed, of which there may be several."""
    name = folder_name(replace(d, seed=0)).removesuffix("-seed0")
    return name.replace(f"{d.method}-{d.sparsity}", d.method, 1)


def _before(folder: Path, d: Classification, again: bool, name: str) -> list[dict[str, Any]]:
    """Records of an earlier call, which need not be had again.

    Raises:
        ValueError: They are of something else.
    """
    path = folder / RECORDS
    if again or not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored.get("asked") != repr(d):
        raise ValueError(
            f"{path} is about {stored.get('asked')}, and now is asked about {d!r}: name another folder with --out, or "
            "begin from nothing with --again."
        )
    return stored[name]


def _keep(folder: Path, records: dict[str, Any], device: str) -> None:
    """Records with their circumstances."""
    folder.mkdir(parents=True, exist_ok=True)
    where = environment(torch.device(device))
    text = json.dumps(plain(_records({**records, "environment": where})), separators=(",", ":"), allow_nan=False)
    with replacing(folder / RECORDS) as file:
        file.write(text.encode())


def _answer(folder: Path, figures: dict[str, Figure], asking: Asking) -> int:
    """Keep pictures as PNG and SVG beside the records, and say where everything is."""
    paths = [path for name in (RECORDS, "table.md") if (path := folder / name).exists()]
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            with replacing(folder / f"{name}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=150)
            paths.append(folder / f"{name}.{kind}")
    for path in paths:
        asking.say(str(path))
    return 0


def _records(value: Any) -> Any:
    """Dataclasses as dictionaries, however deep."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _records(one) for key, one in value.items()}
    return [_records(one) for one in value] if isinstance(value, list | tuple) else value
