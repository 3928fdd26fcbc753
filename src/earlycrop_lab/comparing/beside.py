"""Runs for comparison at equal cost, derived from the results of pruned ones.

A pruned network has fewer FLOPs and parameters than the dense one, and how many is known only once it has been cut. So
these runs are a second wave. The cost of each is the mean over the seeds of its pruned row, so that all seeds of a row
are compared with the same network. Seeds, data and training are the same.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from statistics import fmean

import torch
from torch import nn
from torch.utils import _pytree as pytree

from earlycrop.counting import flops
from earlycrop_lab.reporting.tables import Row, table
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks import prepare
from earlycrop_lab.tasks.description import OF_CHANNELS, Description, pruning_method


@dataclass(frozen=True)
class Derived:
    """The runs of a second wave.

    Args:
        runs: The runs, each once.
        lacking: For each run that is impossible, a sentence that says why.
    """

    runs: tuple[Description, ...]
    lacking: tuple[str, ...]


def derived(results: Mapping[str, Sequence[Result]], root: str | None) -> Derived:
    """The runs to compare these results with.

    Args:
        results: The pruned results by the kind of run wanted for them; those that mask weights, and dense ones, get
            none.
        root: The folder of the data sets.

    Raises:
        OSError: The data cannot be read or downloaded.
    """
    runs: dict[Description, None] = {}
    lacking = []
    narrowed = cache(lambda dense: Narrowed.of(dense, root))
    for kind, each in results.items():
        for row in table(each):
            if not row.prunes or row.masks:
                continue
            try:
                run = _run(kind, row, narrowed)
            except ValueError as error:
                lacking.append(f"no {kind} beside {row.label}: {error}")
                continue
            if run is not None:
                runs |= dict.fromkeys(replace(run, seed=result.description.seed) for result in row.results)
    return Derived(tuple(runs), tuple(lacking))


def _run(kind: str, row: Row, narrowed: "Callable[[Description], Narrowed]") -> Description | None:
    """The run of the first seed; None where the kind does not apply to the row."""
    d = row.description
    dense = d.dense_twin()
    if kind in ("narrow-flops", "narrow-params"):
        count = kind.removeprefix("narrow-")
        return replace(dense, width=narrowed(replace(dense, seed=0)).width(count, _kept(row, count)))
    if kind == "random-flops":
        floor = {name: getattr(d, name) for name in OF_CHANNELS}
        part = _kept(row, "flops", planned=True)
        random = replace(dense, method="random-s", target="flops", sparsity=round(1 - part, 4), **floor)
        return random if pruning_method(d).rescale else replace(random, rescale="no")  # what is compared is the cut
    before_training = all(result.report and result.report["epoch"] == 0 for result in row.results)
    if not before_training or d.total_epochs != d.epochs:
        return None
    epochs = round(d.epochs / _kept(row, "flops"))
    return replace(d, epochs=epochs) if epochs > d.epochs else None


def _kept(row: Row, count: str, planned: bool = False) -> float:
    """The fraction of the FLOPs or parameters that stays, as the mean over the seeds.

    Args:
        row: The row.
        count: `flops` or `params`.
        planned: Whether they are those of budgets, which leave out products of two activations.

    Raises:
        ValueError: It is all or nothing, or the FLOPs could not be counted.
    """
    name = {"flops": "flops", "params": "parameters"}[count]
    pairs = [
        (result.report["after"][count], result.report["before"][count])
        if planned
        else (getattr(result.columns, f"{name}_after"), getattr(result.columns, f"{name}_before"))
        for result in row.results
        if result.report
    ]
    if not all(after and before for after, before in pairs):
        raise ValueError(f"its {count} could not be counted.")
    part = fmean(after / before for after, before in pairs)
    if not 0 < part < 1:
        raise ValueError(f"{100 * part:.4g} % of its {count} stay, so there is nothing to compare it with.")
    return part


@dataclass(frozen=True)
class Narrowed:
    """The size of a network in each width up to its own.

    Args:
        widths: The possible widths, increasing; the last is its own.
        flops: FLOPs per example in each width.
        params: Parameters in each width.
    """

    widths: tuple[int, ...]
    flops: tuple[float, ...]
    params: tuple[float, ...]

    @classmethod
    def of(cls, dense: Description, root: str | None) -> "Narrowed":
        """Count on the meta device, where networks have shapes but no weights.

        Raises:
            ValueError: The network has only one width.
            OSError: The data cannot be read or downloaded.
        """
        setup = prepare(dense, root)
        if setup.in_width is None or dense.width is None:
            raise ValueError(f"{dense.network} of the task {dense.task} has only one width.")
        example = pytree.tree_map_only(torch.Tensor, lambda each: each.to("meta"), setup.example)
        sizes = {}
        for width in range(1, dense.width + 1):
            try:
                with torch.device("meta"):
                    network = setup.in_width(width)
            except ValueError:  # its groups would not have whole numbers of channels
                continue
            sizes[width] = (flops(network, example), _parameters(network))
        operations, parameters = zip(*sizes.values(), strict=True)
        return cls(tuple(sizes), operations, parameters)

    def width(self, count: str, part: float) -> int:
        """The width whose count is nearest, on a logarithmic scale, to this fraction of the whole network's count.

        >>> Narrowed((1, 2, 3, 4), (1.0, 4.0, 9.0, 16.0), (1, 2, 3, 4)).width("flops", 0.4)  # 6.4 is nearer to 9
        3

        Raises:
            ValueError: No narrower network is nearer than the network itself.
        """
        counts = getattr(self, count)
        wanted = part * counts[-1]
        place = bisect_left(counts, wanted)
        found = min(range(max(place - 1, 0), place + 1), key=lambda n: abs(log(counts[n] / wanted)))
        if found == len(counts) - 1:
            raise ValueError(f"no narrower network is nearer to its {count} than the network itself.")
        return self.widths[found]


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
