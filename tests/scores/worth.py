"""What a score says of a network's units, through the pruner as users do."""

import itertools

import torch
from torch import Tensor, nn

from earlycrop import Method, Pruner
from earlycrop.steps import OneShot
from earlycrop.timing import AtInit
from earlycrop.units import Channels, Weights
from tests import dense
from tests.pruners import make_pruner


def pruner(net: nn.Module, score, units=None, batches=None, loss=dense.cross_entropy, **options) -> Pruner:
    """A pruner of weights (or other units) at initialisation with a score."""
    method = Method("tested", score, units if units is not None else Weights(), AtInit(), OneShot())
    example = options.pop("example_inputs", batches[0][0] if batches else None)
    return make_pruner(
        net, method, options.pop("sparsity", 0.5), example_inputs=example, loss=loss, batches=batches, **options
    )


def worth(net: nn.Module, score, units=None, batches=None, loss=dense.cross_entropy, **options) -> Tensor:
    """The scores of all units."""
    options.setdefault("bn_mode", "running")
    return pruner(net, score, units, batches, loss, **options).scores()


def channels(net: nn.Module, score, layer: str, batches, **options) -> Tensor:
    """The scores of one layer's channels, in its own order."""
    options.setdefault("bn_mode", "running")
    units = options.pop("units", Channels())
    here = pruner(net, score, units, batches, **options)
    return here.scores()[classes(here, layer)]


def classes(of: Pruner, layer: str) -> Tensor:
    """The class of each of a layer's output channels."""
    found = of.units.structure.tensors[f"{layer}.weight"].classes[0]
    assert bool((found >= 0).all())
    return found


def check_rounds(of: Pruner, rounds: int) -> None:
    """Prune at once in so many rounds, of which none revives a unit; no layer is emptied."""
    seen, choose = [], of.units.keep_only
    of.units.keep_only = lambda keep: (choose(keep), seen.append(of.units.keep.clone()))[0]
    report = of.check(0)
    assert len(seen) == rounds
    assert all(bool((after <= before).all()) for before, after in itertools.pairwise(seen))
    assert report.collapsed == ()


def best(scores: Tensor, count: int) -> set[int]:
    """The indices, from one, of the highest scores."""
    return {int(index) + 1 for index in torch.topk(scores, count).indices}
