"""Products of tensors whose dimensions have letters: the same letter is the same dimension, one left out is summed."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.fx import Node

from earlycrop.structure.graph import argument, shape_of
from earlycrop.structure.operators.closed import contract, zero_when_closed
from earlycrop.structure.operators.ties import input_reason
from earlycrop.structure.registry import Factors, Kind, Rule, Zero, rule, unknown
from earlycrop.structure.walk import Walk


class Product(NamedTuple):
    """A product of tensors.

    Attributes:
        operands: What is multiplied.
        letters: Of each of them a letter for every dimension.
        output: Those of the result.
    """

    operands: list[Any]
    letters: list[list[str]]
    output: list[str]

    def sizes(self) -> dict[str, int]:
        """The size of each letter's dimension; 1 is broadcast."""
        found: dict[str, int] = {}
        for arg, names in zip(self.operands, self.letters, strict=True):
            for name, size in zip(names, shape_of(arg), strict=True):
                found[name] = max(size, found.get(name, 1))
        return found

    def places(self, name: str) -> list[tuple[int, int]]:
        """Where a letter occurs with more than one entry: the numbers of the operand and of its dimension."""
        return [
            (number, names.index(name))
            for number, (names, arg) in enumerate(zip(self.letters, self.operands, strict=True))
            if name in names and shape_of(arg)[names.index(name)] > 1
        ]


def _of_equation(node: Node) -> Product:
    """An `einsum`; the dimensions of an ellipsis are counted from the last one."""
    operands: Any = node.args[1]
    inputs, arrow, output = str(node.args[0]).replace(" ", "").partition("->")
    letters, most = [], 0
    for arg, names in zip(operands, inputs.split(","), strict=True):
        front, dots, back = names.partition("...")
        count = len(shape_of(arg)) - len(front) - len(back) if dots else 0
        letters.append([*front, *_dots(count), *back])
        most = max(most, count)
    if not arrow:
        every = [one for one in inputs if one not in ",."]
        output = "..." + "".join(sorted(one for one in set(every) if every.count(one) == 1))
    front, dots, back = output.partition("...")
    return Product(list(operands), letters, [*front, *(_dots(most) if dots else []), *back])


def _dots(count: int) -> list[str]:
    return [f".{place}" for place in range(count, 0, -1)]


def _by_numbers(node: Node) -> Product:
    """A `tensordot`: the numbers of the dimensions that are summed."""
    a, b, summed, others = node.args[:4]
    mine = [f"a{dim}" for dim in range(len(shape_of(a)))]
    theirs = [f"b{dim}" for dim in range(len(shape_of(b)))]
    for one, other in zip(summed, others, strict=True):  # type: ignore[arg-type] - lists of integers
        theirs[other] = mine[one]
    return Product([a, b], [mine, theirs], [one for one in mine + theirs if (one in mine) != (one in theirs)])


def _of_last(node: Node) -> Product:
    """An `inner` product: the last dimensions are summed."""
    a, b = node.args[:2]
    mine = [f"a{dim}" for dim in range(len(shape_of(a)) - 1)]
    theirs = [f"b{dim}" for dim in range(len(shape_of(b)) - 1)]
    return Product([a, b], [[*mine, "s"], [*theirs, "s"]], mine + theirs)


def _of_vectors(node: Node) -> Product:
    """An `outer` product: nothing is summed."""
    return Product(list(node.args[:2]), [["a"], ["b"]], ["a", "b"])


def _along(node: Node) -> Product:
    """One sum of products along a dimension, at each place of the others."""
    pair = list(node.args[:2])
    names = _dots(max(len(shape_of(one)) for one in pair))
    summed = names[argument(node, 2, "dim", -1)]
    return Product(pair, [names[-len(shape_of(one)) :] for one in pair], [one for one in names if one != summed])


def _factors(read: Callable[[Node], Product]) -> Callable[[Node], Factors]:
    """The facts of such a product: letters that come out are channels of its factors."""

    def factors(node: Node) -> Factors:
        product = read(node)
        return [
            (arg, tuple(dim for dim, name in enumerate(names) if name in product.output))
            for arg, names in zip(product.operands, product.letters, strict=True)
        ]

    return factors


def _product(read: Callable[[Node], Product]) -> Rule:
    """The rule of products that `read` writes in letters."""

    def multiplied(walk: Walk, node: Any) -> Any:
        """Each letter is one dimension wherever it occurs; letters missing from the output are contracted."""
        product = read(node)
        operands, letters, output = product
        for arg, names in zip(operands, letters, strict=True):
            if len(set(names)) < len(names):
                return unknown(walk, node)  # a diagonal
            walk.fix(arg, [d for d, name in enumerate(names) if name not in output])
        every = [walk.dims(arg) for arg in operands]
        result: dict[str, Tensor | None] = {}
        for name in product.sizes():
            labels = [every[number][dim] for number, dim in product.places(name)]
            if any(one is not None for one in labels):
                result[name] = _one_letter(walk, node, product, name, labels)
        sizes = product.sizes()
        for arg, names in zip(operands, letters, strict=True):
            walk.count(arg, math.prod(size for name, size in sizes.items() if name not in names))
        return [result.get(name) for name in output]

    return multiplied


def _one_letter(walk: Walk, node: Any, product: Product, name: str, labels: list[Any]) -> Tensor | None:
    """The labels of one letter, with all that follows from them."""
    places, summed = product.places(name), name not in product.output
    first = labels[0]
    for other in labels[1:]:
        first = walk.tie(first, other, input_reason(walk, node))
    at = [(product.operands[number], dim) for number, dim in places]
    if summed and len(at) > 1:
        contract(walk, node, *at[:2])
    elif summed and (at[0][0] in walk.made or not zero_when_closed(walk, *at[0])):
        walk.labels.freeze(first, f"summed over channels that are not zero when they are closed ({walk.where(node)})")
    given = [one for one in at if one[0] in walk.made]
    for arg, dim in given if node not in walk.made else ():  # a product of parameters creates nothing yet
        if summed:
            walk.read(node, arg, dim, first)
        elif len(places) == 1:
            walk.create(node, (arg, dim))
    if not summed and len(places) > 1 and not given and None not in labels:
        walk.recreated.append(labels[0])
    return first


_products = partial(rule, kind=Kind.CONTRACTS, zero=Zero.ANY, adds=True)
for _names, _read in (
    (("einsum",), _of_equation),
    (("tensordot",), _by_numbers),
    (("inner",), _of_last),
    (("outer", "ger"), _of_vectors),
    (("dot", "vdot", "linalg_vecdot"), _along),
):
    _products(*_names, factors=_factors(_read))(_product(_read))
