"""The scale that a cut takes from a layer, given back.

A sum over fewer inputs is smaller. If θ' is what a cut leaves of a weight θ, and O are those of its output channels
that still read something, the weight is multiplied by

    k = √( Σ_{o∈O} ‖θ_o‖² / Σ_{o∈O} ‖θ'_o‖² )

so that, for inputs of equal second moments that do not depend on each other, the second moment of its outputs stays
the same on average: what He et al. (2015) set for a new network, and Evci et al. (2022) for a sparse one. Without it
the signal shrinks by a factor in each layer, and a deep network without norms hardly trains. Weights that a norm
follows stay as they are: it sets the scale, and a larger weight would only train more slowly.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from earlycrop.report import Rescaled
from earlycrop.structure.normed import scaled_weights
from earlycrop.structure.products import Dims, Products
from earlycrop.structure.surgery import rebind
from earlycrop.units import AbstractUnits


def scale_of(units: AbstractUnits) -> Callable[[], tuple[Rescaled, ...]]:
    """Remember the scale of each weight; the returned function gives it back after a cut, and returns the factors.

    Args:
        units: What may leave; the model, and the copies that are cut with it.
    """
    model, program = units.model, units.operators()
    if program is None:
        return tuple
    products = Products(model, program)
    scaled, found = scaled_weights(products), products.found
    dims = {name: one.dims for name, one in found.items() if name in scaled and one.scaled is None and one.dims}
    before = {name: _squares(model.get_parameter(name), along) for name, along in dims.items()}
    left = units.left_of()

    @torch.no_grad()
    def restore() -> tuple[Rescaled, ...]:
        factors = []
        for name, along in dims.items():
            after = _squares(model.get_parameter(name), along)
            once = before[name]
            for place, dim in enumerate(along):
                if (index := left(name)[dim]) is not None:
                    once = once.index_select(place, index.to(once.device))
            reads = after > 0
            factor = float((once[reads].sum() / after[reads].sum()).sqrt()) if bool(reads.any()) else 1.0
            if abs(factor - 1) < 1e-9:
                continue
            for network in (model, *units.copies):
                parameter = network.get_parameter(name)
                rebind(parameter, parameter.data.clone().mul_(factor))
            factors.append(Rescaled(name, factor))
        return tuple(factors)

    return restore


def _squares(parameter: Tensor, along: Dims) -> Tensor:
    """Σ θ² over all other dimensions, in float64."""
    squares = parameter.detach().double().square()
    others = [dim for dim in range(squares.ndim) if dim not in along]
    return squares.sum(others) if others else squares
