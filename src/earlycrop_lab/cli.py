"""The command `earlycrop`: a table of verbs, and what they share.

Options of `train` are the fields of a description, which validates them itself.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from rich.console import Console

from earlycrop.errors import nearest
from earlycrop_lab.tasks.torchrun import processes
from earlycrop_lab.verbs.verb import Misuse, Verb

VERBS = {
    verb.name: verb
    for verb in (
        Verb("train", "train one run", shared=True),
        Verb("compare", "many runs, one table"),
        Verb("demo", "EarlyCroP-S against dense on digits"),
        Verb("why", "what scores do, what they are worth, and when to prune"),
        Verb("methods", "the table of methods"),
        Verb("show", "a finished run"),
        Verb("report", "a folder of runs as a page"),
        Verb("pack", "the results of a folder of runs in one file"),
    )
}
"""The subcommands, by name; each is a module of `verbs`, imported when it is asked for."""

OVERVIEW = """\
earlycrop: make a network small before you pay for training it.

  earlycrop demo                   EarlyCroP-S against dense on handwritten digits, in minutes
  earlycrop train --method earlycrop-s --sparsity 0.95 --data cifar10 --with-dense
                                   train, prune, measure and plot one run; results go to runs/;
                                   if it is interrupted, the same command resumes from the last checkpoint
  earlycrop train --dry-run ...    list what would be removed, layer by layer, without training
  torchrun --nproc-per-node 2 -m earlycrop_lab train ...
                                   one run on two processes, each with its part of every batch
  earlycrop compare --preset quick
                                   the poster's table on digits: every method, each run in its own process;
                                   choose the runs with --methods ... --sparsities ... --seeds N;
                                   --estimate prints how long they would take
  earlycrop compare --preset recipe-vgg16
                                   pruned networks beside narrow networks and random cuts of the same FLOPs;
                                   --beside adds these to any other grid
  earlycrop why flow               what each score does to the gradient flow and to the neural tangent kernel
  earlycrop why sensitivity        the loss when one layer alone is cut, layer by layer
  earlycrop why moment             accuracy by the epoch of pruning, and the epoch that each detector would choose
  earlycrop why choice             what a score's choice is worth inside the widths of a method
  earlycrop why early              which share of which budget to train before the cut
  earlycrop methods                list the values of --method
  earlycrop show RUN               one finished run: its table, its curve, its figures
  earlycrop show FOLDER            all runs in a folder, as one Markdown table
  earlycrop report FOLDER          all runs in a folder, as one page with tables and figures
  earlycrop pack FOLDER --to KEPT  all results in a folder in one file, KEPT/runs.jsonl, which the other verbs read too

`earlycrop train --help` lists the usual options of image classification, and `--help-all` every one; add `--task NAME`
for those of another task.
Data sets: digits (nothing to download), cifar10, cifar100, tiny-imagenet, folder:PATH. For your own training loop, use
the library itself: `import earlycrop`."""


class _Parser(argparse.ArgumentParser):
    """argparse, but every error is one sentence and is raised as a `Misuse`."""

    def error(self, message: str):
        raise Misuse(f"{message}. `{self.prog} --help` lists the options.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code: 0, 2 for an error that the user can fix, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    verbose = "--traceback" in arguments
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(OVERVIEW, flush=True)
            return 0
        verb, options = _understood(arguments)
        return verb.act(options, console)
    except BrokenPipeError:  # `earlycrop methods | head`: the reader has closed the pipe, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:  # the library's errors are ValueErrors
        if verbose:
            traceback.print_exc()
        print(f"earlycrop: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as left:
        print(f"earlycrop: interrupted{'; ' if left.args else ''}{left}.", file=sys.stderr)
        return 130


def _understood(arguments: list[str]) -> tuple[Verb, argparse.Namespace]:
    """Parse the verb and its options.

    Raises:
        Misuse: There is no such verb, or it has no such option; the message suggests the nearest name.
    """
    if arguments[0] not in VERBS:
        near = nearest(arguments[0], VERBS)
        raise Misuse(f"there is no command {arguments[0]!r}. Did you mean {near!r}? `earlycrop` alone lists them.")
    verb, task = VERBS[arguments[0]], _task(arguments)
    parser = _Parser(prog="earlycrop", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    parsers = {each.name: verbs.add_parser(each.name, help=each.help, allow_abbrev=False) for each in VERBS.values()}
    verb.arguments(parsers[verb.name], task)
    parsers[verb.name].add_argument("--traceback", action="store_true", help="show where an error came from")
    if verb.usual is not None:
        _shorten(parsers[verb.name], verb.usual, "--help-all" in arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest:
        known = [name for name in parsers[verb.name]._option_string_actions if name.startswith("--")]
        if not rest[0].startswith("-"):
            raise Misuse(f"{verb.name} does not know what to do with {rest[0]!r}.")
        near = nearest(rest[0].split("=")[0], known)
        raise Misuse(f"{verb.name} has no option {rest[0]!r}. Did you mean {near!r}?")
    if processes() > 1 and not verb.shared:
        raise Misuse(
            f"torchrun started {processes()} processes, and only train can share them: start {verb.name} "
            "without torchrun"
        )
    return verb, options


def _shorten(parser: argparse.ArgumentParser, usual: Sequence[str], whole: bool) -> None:
    """Leave all options but the usual ones out of the help, and add --help-all, which shows them too.

    Args:
        parser: The verb's parser.
        usual: The options to show.
        whole: Whether the help is to be whole.
    """
    parser.add_argument("--help-all", action="help", help="show every option")
    shown = {*usual, "--help", "--help-all"}
    hidden = [
        each
        for each in parser._actions
        if each.option_strings and shown.isdisjoint(each.option_strings) and each.help != argparse.SUPPRESS
    ]
    if not whole:
        for each in hidden:
            each.help = argparse.SUPPRESS
        takes = [str(each.metavar or each.dest) for each in parser._actions if not each.option_strings]
        parser.usage = " ".join(["%(prog)s", *takes, "[options]"])
        parser.epilog = f"{len(hidden)} more options: `{parser.prog} --help-all`."


def _task(arguments: Sequence[str]) -> str:
    """The task that --task names, or that of --preset: the options of a description depend on it."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--task", nargs="?")
    first.add_argument("--preset", nargs="?")
    asked, _ = first.parse_known_args(arguments[1:])
    if asked.task is not None:
        return asked.task
    if asked.preset is None:
        return "classification"
    from earlycrop_lab.comparing.grids import get_preset

    return get_preset(asked.preset)[0].task
