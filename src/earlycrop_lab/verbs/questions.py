"""The answers to the questions of `earlycrop why`, and how each is kept and plotted."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from earlycrop import get_method
from earlycrop.files import replacing
from earlycrop_lab.checkpoints import alone
from earlycrop_lab.comparing.compare import Entry
from earlycrop_lab.comparing.dashboard import duration
from earlycrop_lab.comparing.engines import Local
from earlycrop_lab.measure.hardware import find_device
from earlycrop_lab.runs import Result, differing, folder_name, plain
from earlycrop_lab.tasks import get_task
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.verbs.comparison import compared
from earlycrop_lab.verbs.options import check_surroundings, given
from earlycrop_lab.verbs.verb import say
from earlycrop_lab.why import (
    choice_figures,
    choices,
    early,
    early_figures,
    flow_figures,
    flows,
    layer_figures,
    layers,
    moment_figures,
    moments,
)
from earlycrop_lab.why.branches import stem_after
from earlycrop_lab.why.choices import Choice
from earlycrop_lab.why.early import Early, Mark
from earlycrop_lab.why.records import answer, before, keep

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)
PARTS = (0.1, 0.25, 0.5, 0.75, 0.9)
Given = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """The command line that asks, and what is needed to answer.

    Args:
        options: The options of the command line.
        say: Prints a line.
        compared: Runs descriptions, each in its own process.
        held: What is held until the answer is there.
    """

    options: argparse.Namespace
    say: Callable[[str], None]
    compared: Callable[[Sequence[Description]], list[Entry]]
    held: ExitStack

    def folder(self, name: str) -> Path:
        """The answer's folder, where no other process answers meanwhile.

        Raises:
            ValueError: Another process is at work in it.
        """
        folder = self.options.out / name
        self.held.enter_context(alone(folder))
        return folder

    @property
    def device(self) -> str:
        """The torch device to compute on."""
        return find_device(self.options.device)


@dataclass(frozen=True)
class Question:
    """A question, and what answers it.

    Args:
        name: Its name on the command line.
        answer: Answers it about a description with the given fields, and returns the exit code.
        in_accuracy: Whether the answer is in points of test accuracy: only tasks with that metric have an answer.
    """

    name: str
    answer: Callable[[Given, Asking], int]
    in_accuracy: bool = True


class Far:
    """How far an inquiry has come, and how long the rest will take if it goes on like that.

    Args:
        steps: The number of steps of each kind.
        clock: Returns seconds.

    >>> ticks = iter([0, 100, 110, 130])
    >>> far = Far({"epoch": 1, "cut": 3}, clock=lambda: next(ticks))
    >>> far.step("epoch"), far.step("cut"), far.step("cut")
    ('[1 of 1]', '[1 of 3, about 20 s left]', '[2 of 3, about 15 s left]')
    """

    def __init__(self, steps: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self._clock = {kind: count for kind, count in steps.items() if count}, clock
        self._done, self._seconds = dict.fromkeys(self.steps, 0), dict.fromkeys(self.steps, 0.0)
        self._last = clock()

    def step(self, kind: str) -> str:
        """A step is done: how many of its kind are, and the time left once every kind has been seen."""
        now = self._clock()
        self._done[kind], self._seconds[kind] = self._done[kind] + 1, self._seconds[kind] + now - self._last
        self._last = now
        text = f"{self._done[kind]} of {self.steps[kind]}"
        if not all(self._done.values()) or self._done == self.steps:
            return f"[{text}]"
        left = sum(
            self._seconds[each] / self._done[each] * (self.steps[each] - self._done[each]) for each in self.steps
        )
        return f"[{text}, about {duration(left)} left]"


def ask(options: argparse.Namespace, console: Console) -> int:
    """Ask, keep the records and plot them.

    Raises:
        ValueError: The question makes no sense for the task or with these options.
    """

    def run(runs: Sequence[Description]) -> list[Entry]:
        return compared(runs, options, Local(1), torch.get_num_threads(), console)

    question, metric = ANSWERS[options.what], get_task(options.task).description.metrics[0]
    if question.in_accuracy and metric != ACCURACY:
        raise ValueError(
            f"`why {question.name}` answers in points of {ACCURACY.label}, and the task {options.task} is judged by "
            f"its {metric.label}. Ask it about --task classification; for {options.task} there are `why flow` and "
            f"`compare --task {options.task}`, which prunes at one epoch with --prune-at."
        )
    if min(options.seeds, options.samples) < 1 or options.after < 0:
        raise ValueError("--seeds and --samples have to be 1 or more, --after 0 or more")
    check_surroundings(options)
    if getattr(options, "target", None) == "latency":
        raise ValueError("`why` cuts one network many times, and would measure it each time: choose another --target")
    with ExitStack() as held:
        return question.answer(given(options), Asking(options, lambda text: say(console, text), run, held))


def _flow(fields: Given, asking: Asking) -> int:
    options, device, scores = asking.options, asking.device, asking.options.scores or flows.SCORES
    for name in scores:
        get_method(name)  # before any training
    d, found = get_task(options.task).description(**fields), []
    levels = options.sparsities or LEVELS
    for level in levels:
        replace(d, sparsity=level)  # refused if it is none, before any training
    folder = asking.folder(f"why-flow-{_named(d, method=False)}-after{options.after}")
    far = Far({"epoch": options.seeds * options.after, "cut": options.seeds * len(scores) * len(levels)})

    def trained(epoch: int) -> None:
        asking.say(f"{far.step('epoch')} dense epochs trained; this network is {epoch} old")

    for seed in range(options.seeds):
        seeded = replace(d, seed=seed)
        dense = stem_after(seeded, options.after, options.data_root, device, trained)
        for each in flows.flows(seeded, dense, scores, levels, options.samples):
            found.append(each)
            asking.say(
                f"{far.step('cut')} seed {seed} {each.method:12} {each.sparsity:6.1%}  "
                f"flow x{each.flow_after / each.flow_before:<9.3g} kernel changed by {each.kernel_change:.3g}",
            )
    keep(folder, {"asked": repr(d), "found": found}, device)
    return answer(folder, {"flow": flow_figures.flow(found)}, asking.say)


def _sensitivity(fields: Given, asking: Asking) -> int:
    options, device = asking.options, asking.device
    d, found, levels = get_task(options.task).description(**fields), [], options.sparsities or PARTS
    if get_method(d.method).timing.cuts(1) == 0:
        raise ValueError(f"{d.method} removes nothing, so no layer loses anything: name another with --method.")
    layers.check(levels)  # before any training
    folder = asking.folder(f"why-sensitivity-{_named(d)}-{options.by}-after{options.after}")
    for seed in range(options.seeds):
        far: list[Far] = []  # once their number is known

        def trained(epoch: int, seed: int = seed) -> None:
            asking.say(f"seed {seed}: {epoch} of {options.after} dense epochs trained")

        def progress(done: int, of: int, seed: int = seed, far: list[Far] = far) -> None:
            far[:] = far or [Far({"cut": of})]
            step = far[0].step("cut")
            if done % max(of // 10, 1) == 0:
                asking.say(f"seed {seed}: {step} cuts")

        seeded = replace(d, seed=seed)
        dense = stem_after(seeded, options.after, options.data_root, device, trained)
        found.append(layers.layers(seeded, dense, levels, options.by, progress))
        asking.say(f"\n{found[-1]}\n")
    rises = options.by == "metric" and d.metric.better == "higher"
    keep(folder, {"asked": repr(d), "layers": [one.as_dict() for one in found], "rises": rises}, device)
    title = f"Each layer cut alone by {d.method}, {d.network} on {d.data}"
    return answer(folder, {"sensitivity": layer_figures.layers(found, rises, title)}, asking.say)


def _moment(fields: Given, asking: Asking) -> int:
    options, device = asking.options, asking.device
    if options.sparsities and len(options.sparsities) > 1:
        raise ValueError("`why moment` sweeps the epochs at one sparsity: give one with --sparsities")
    d = Classification(**fields, sparsity=options.sparsities[0] if options.sparsities else 0.95)
    at = options.at or sorted({float(round(d.epochs * part)) for part in (0, 0.1, 0.2, 0.35, 0.5)})
    folder = asking.folder(f"why-moment-{folder_name(d)}")
    entries = asking.compared([replace(d, prune_at=epoch, seed=seed) for seed in range(options.seeds) for epoch in at])
    lacking = [how for _, how in entries if isinstance(how, str)]
    if lacking:
        raise ValueError(f"{len(lacking)} of the runs have no result, the first because: {lacking[0]}")
    asking.say("training the dense network at a constant rate, watched by every detector")
    seen = moments.watched(d, samples=options.samples, root=options.data_root, device=device)
    accuracies, chosen = moments.swept([how for _, how in entries if isinstance(how, Result)], seen)
    for each in chosen:
        asking.say(
            f"{each.rule:24} {each.reason:8} epoch {each.epoch:<4g} {each.accuracy:6.1%}, {100 * each.behind:4.1f} "
            f"points below the best; one observation takes {each.seconds:.3g} s",
        )
    title = f"{d.method} at {d.sparsity:.1%}, {d.network} on {d.data}: when to prune?"
    figures = {
        "moment": moment_figures.moment(accuracies, chosen, seen, title),
        "training": moment_figures.training(seen, f"{d.network} on {d.data}, dense, at a constant rate"),
    }
    records = {"asked": repr(d), "accuracies": accuracies, "moments": chosen, "seen": seen}
    keep(folder, records, device)
    return answer(folder, figures, asking.say)


def _choice(fields: Given, asking: Asking) -> int:
    """Measure every choice that has no record yet; the records are kept after each."""
    options, device, d = asking.options, asking.device, Classification(**fields)
    if options.at and (len(options.at) > 1 or options.at[0] % 1):
        raise ValueError("every choice is cut at the same whole epoch: give one with --at")
    epoch = int(options.at[0]) if options.at else choices.usual_epoch(d)
    levels = sorted(options.sparsities or (0.95,))
    for level in levels:
        replace(d, sparsity=level)  # refused if it is none, before any training
    folder = asking.folder(f"why-choice-{_named(d)}-at{epoch}")
    found = [Choice(**each) for each in before(folder, d, options.again, "choices")]
    variants = choices.choices(choices.pruning_method(d))
    for seed in range(options.seeds):
        done = {each.key for each in found}
        asked = choices.chosen(replace(d, seed=seed), epoch, levels, done=done, root=options.data_root, device=device)
        for each in asked:
            found.append(each)
            keep(folder, {"asked": repr(d), "choices": found}, device)
            asking.say(
                f"[{len(found)} of at most {options.seeds * len(levels) * len(variants)}] seed {seed} "
                f"{each.sparsity:6.1%} {each.choice}: {each.accuracy:.1%}, right after the cut "
                f"{each.cut_accuracy:.1%} on the scoring set ({each.seconds:.3g} s)"
            )
    with replacing(folder / "table.md") as file:
        file.write(choices.markdown(found).encode())
    asking.say("\n" + choices.markdown(found))
    title = f"Inside the widths of {d.method}, {d.network} on {d.data}"
    figures = {
        f"choice-{level:g}": choice_figures.choice(found, level, f"{title}, {100 * level:g} % removed")
        for level in sorted({each.sparsity for each in found})
    }
    return answer(folder, figures, asking.say)


def _early(fields: Given, asking: Asking) -> int:
    """Measure every run that has no record yet; the records are kept after each."""
    if "epochs" in fields:
        raise ValueError("the budgets of `why early` are given with --budgets: leave out --epochs")
    options, device, d = asking.options, asking.device, Classification(**fields)
    levels, budgets = sorted(options.sparsities or LEVELS), sorted(set(options.budgets or early.BUDGETS))
    shares = sorted({0.0, *(options.shares or early.SHARES)})
    early.check(d, levels, budgets, shares)
    folder = asking.folder(f"why-early-{_named(d)}")
    found = [Early.of(each) for each in before(folder, d, options.again, "runs")]
    marks = [Mark(**each) for each in before(folder, d, options.again, "marks")]

    def keep_all() -> None:
        records = {"budgets": budgets, "shares": shares, "runs": found, "marks": marks}
        keep(folder, {"asked": repr(d), **records}, device)

    where = {"root": options.data_root, "device": device}
    watched = max(epoch for budget in budgets for epoch in early.moments(budget, shares))
    for seed in range(options.seeds):
        seeded = replace(d, seed=seed)
        for each in early.early(seeded, levels, budgets, shares, done=tuple(found), **where):
            found.append(each)
            keep_all()
            asking.say(
                f"[{len(found)}] seed {seed} {each.sparsity:6.1%} cut after {each.epoch} of {each.epochs} epochs: "
                f"{each.accuracy:.1%} for the FLOPs of {each.cost / each.flops_before:.3g} dense epochs "
                f"({each.seconds:.3g} s)"
            )
    for seed in range(options.seeds) if watched else ():
        done = {mark.key for mark in marks}
        for mark in early.marks(replace(d, seed=seed), levels, watched, samples=options.samples, done=done, **where):
            marks.append(mark)
            keep_all()
            when = f"at epoch {mark.epoch:g}" if mark.epoch is not None else f"never in {watched} epochs"
            asking.say(f"seed {seed} {mark.sparsity:6.1%} {mark.rule} would cut {when}")
    keep_all()
    made = early.cells(found, budgets, shares)
    with replacing(folder / "table.md") as file:
        file.write(early.markdown(made).encode())
    asking.say("\n" + early.markdown(made))
    title = f"{d.method}, {d.network} on {d.data}: points above the cut before training"
    figures = {
        "equal-epochs": early_figures.early(made, shares, marks, title=f"{title}, equal epochs"),
        "equal-cost": early_figures.early(made, shares, marks, equal_cost=True, title=f"{title}, equal FLOPs"),
    }
    return answer(folder, figures, asking.say)


ACCURACY = Classification.metrics[0]
"""The metric in which most questions are answered."""

ANSWERS = {
    each.name: each
    for each in (
        Question("flow", _flow, in_accuracy=False),
        Question("sensitivity", _sensitivity, in_accuracy=False),
        Question("moment", _moment),
        Question("choice", _choice),
        Question("early", _early),
    )
}
"""The answers, by the names of the questions in `why.QUESTIONS`."""


def _named(d: Description, method: bool = True) -> str:
    """The description's folder name without sparsity and seed, of which there may be several.

    Args:
        d: The description.
        method: Whether the answer depends on its method.
    """
    return "-".join([*map(plain, (d.data, d.network, *([d.method] if method else []))), *differing(d)])
