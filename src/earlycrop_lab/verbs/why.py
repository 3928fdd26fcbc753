"""Ask what scores do, what they are worth, and when to prune."""

import argparse

from rich.console import Console

from earlycrop.errors import nearest
from earlycrop_lab.verbs.options import around, check_given, data_root, describe, surroundings

USUAL = (
    *("--sparsities", "--seeds", "--after", "--by", "--at"),
    *("--task", "--method", "--data", "--network", "--epochs"),
    *("--out", "--device", "--again"),
)
"""What `--help` shows."""

QUESTIONS = {
    "flow": "what each score does to the gradient flow and to the neural tangent kernel",
    "sensitivity": "how much each layer matters, cut by itself",
    "moment": "accuracy by the epoch of pruning, and the epoch that each detector would choose",
    "choice": "what a score's choice is worth inside the widths of a method",
    "early": "which share of which budget to train before the cut",
}
"""The questions, by name; `questions` answers them."""


def arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Add the question, a description, and where and how its runs execute."""
    _inquire(parser)
    describe(parser, task, without=("sparsity", "seed", "prune_at"))
    group = around(parser)
    data_root(group)
    surroundings(group)


def _inquire(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to ask")
    group.add_argument(
        "what",
        type=_question,
        metavar="QUESTION",
        help="; ".join(f"{name}: {text}" for name, text in QUESTIONS.items()),
    )
    group.add_argument(
        "--sparsities",
        type=float,
        nargs="+",
        metavar="X",
        help="fractions to remove (default: 0.5 0.8 0.9 0.95 0.98; moment and choice: 0.95; sensitivity: 0.1 0.25 0.5 "
        "0.75 0.9 of each layer)",
    )
    group.add_argument("--seeds", type=int, default=1, metavar="N", help="number of seeds (default: 1)")
    group.add_argument(
        "--samples", type=int, default=8, metavar="N", help="training samples in the kernel (default: 8)"
    )
    group.add_argument(
        "--after", type=int, default=0, metavar="N", help="flow, sensitivity: dense epochs before (default: 0)"
    )
    group.add_argument(
        "--scores",
        nargs="+",
        metavar="NAME",
        help="flow: methods whose scores to compare (default: those that prune before training)",
    )
    group.add_argument(
        "--by",
        choices=("loss", "metric"),
        default="loss",
        help="sensitivity: the loss on the scoring set, or the task's metric (default: loss)",
    )
    group.add_argument(
        "--at",
        type=float,
        nargs="+",
        metavar="N",
        help="moment: epochs to prune at (default: five in the first half); choice: the epoch of the cut (default: "
        "the last to which the method's detector would wait, or 0)",
    )
    group.add_argument(
        "--budgets", type=int, nargs="+", metavar="N", help="early: budgets, in epochs "
        "(default: 10 20 40 80)"
    )  # fmt: skip
    group.add_argument(
        "--shares",
        type=float,
        nargs="+",
        metavar="X",
        help="early: shares of the budget to train before the cut (default: 0 0.05 0.1 0.25 0.5)",
    )


def _question(name: str) -> str:
    if name not in QUESTIONS:
        near = nearest(name, QUESTIONS)
        raise argparse.ArgumentTypeError(
            f"there is no question {name!r}, did you mean {near!r}? {', '.join(QUESTIONS)}"
        )
    return name


def act(options: argparse.Namespace, console: Console) -> int:
    """Ask, keep the records and plot them."""
    check_given(options)
    from earlycrop_lab.verbs.questions import ask

    return ask(options, console)
