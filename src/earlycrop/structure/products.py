"""Which parameters multiply activations, however a layer is written: found in the operators that a run notes.

A parameter is a prunable weight where it is a factor of a contraction, or the matrix that is one is made of it entry by
entry: transposed, cut in parts, scaled, masked. There a zero of the parameter is a zero of the matrix. What is computed
otherwise (an exponential, an orthogonal basis) has no weights to mask.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node

import earlycrop.structure.operators  # noqa: F401 - their records, which are looked up
from earlycrop.structure.graph import shape_of, tensor_nodes
from earlycrop.structure.registry import Operator, Zero, factors_of, operator_of
from earlycrop.structure.trace import Program

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """A parameter that multiplies activations.

    Attributes:
        dims: Its dimensions along which channels are created.
        table: Whether rows of it are picked, and nothing is multiplied.
        scaled: Where the matrix is divided by a norm of the parameter: the dimensions that count the norms, each of
            which must not be zero. None where it is not.
    """

    dims: Dims
    table: bool = False
    scaled: Dims | None = None


@dataclass(frozen=True)
class _Source:
    """A parameter whose entries a value has; `inner` if it has been multiplied with other parameters before."""

    name: str
    inner: bool = False
    scaled: Dims | None = None


class Products:
    """Every parameter of two dimensions or more that multiplies activations, found in one walk through a graph.

    Args:
        model: The network.
        program: The operators that it runs.

    Attributes:
        found: By name what is known of it.
    """

    def __init__(self, model: nn.Module, program: Program) -> None:
        first: dict[int, str] = {}
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.names = {name: first.setdefault(id(one), name) for name, one in self.parameters.items()}
        self.specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        self.found: dict[str, Product] = {}
        self.made: dict[Node, tuple[_Source, ...]] = {}  # of parameters, buffers and constants
        for node in program.graph.nodes:
            self._visit(node)

    def entries(self, node: Node) -> list[tuple[str, float]]:
        """The parameters of whose entries a computed weight is made: of each the part of its entries that are here."""
        names = dict.fromkeys(source.name for source in self.made.get(node, ()) if not source.inner)
        return [(name, _numel(node) / self.parameters[name].numel()) for name in names]

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder":
            spec = self.specs.get(node.name)
            if spec is None or spec.kind is not InputKind.USER_INPUT:
                name = self.names.get(str(spec.target)) if spec is not None else None
                self.made[node] = () if name is None else (_Source(name),)
        elif node.op == "get_attr":  # a literal
            self.made[node] = ()
        elif node.op == "call_function":
            operator = operator_of(node)
            constant = all(arg in self.made for arg in node.all_input_nodes)
            for place, (arg, dims) in enumerate(factors_of(operator, node)):
                # the first may be a learned input as well: of two parameters only the last is sure to be a matrix, and
                # what is made of several (as the spectral norm's u · (W v)) need be none
                if arg in self.made and (place > 0 or not constant):
                    self._note(arg, dims, table=_picks(operator), direct=place == 0 or constant)
            if constant:
                self.made[node] = tuple(self._carried(node, operator))

    def _note(self, arg: Node, dims: Dims, table: bool, direct: bool) -> None:
        for source in self.made[arg]:
            parameter = self.parameters[source.name]
            if parameter.ndim < 2 or (source.inner and direct):
                continue
            mine = tuple(sorted({_back(arg, dim, parameter) for dim in dims}))
            known = self.found.get(source.name)
            if known is None or (known.table and not table):
                self.found[source.name] = Product(mine, table, source.scaled)

    def _carried(self, node: Node, operator: Operator) -> Iterator[_Source]:
        """The parameters whose entries this value, made of parameters alone, has."""
        args = tensor_nodes((node.args, node.kwargs))
        if factors_of(operator, node):
            yield from (replace(source, inner=True) for arg in args for source in self.made[arg])
            return
        if operator.kind.moves:
            yield from (source for arg in args for source in self.made[arg])
            return
        if operator.entries is not None:
            arg = args[operator.entries]
            others = [one for one in args if one is not arg]
            yield from (replace(one, scaled=self._along(one, arg, others[0])) for one in self.made[arg])
            return
        zero = operator.zero_at(node)
        if zero not in (Zero.FIRST, Zero.ANY, Zero.ALL, Zero.SCALED):
            return
        count = _numel(node)
        for arg in args if zero in (Zero.ANY, Zero.ALL) else args[:1]:
            if _numel(arg) == count:  # a smaller one is a scale of the others
                for source in self.made[arg]:
                    yield replace(source, scaled=self._norms(source, arg, [one for one in args if one is not arg]))

    def _norms(self, source: _Source, arg: Node, others: Sequence[Node]) -> Dims | None:
        """Along which of the parameter's dimensions there is a norm of it each, by which it is divided here."""
        for other in others:
            if _numel(other) < _numel(arg) and self._depends(other, source.name):
                return self._along(source, arg, other)
        return source.scaled

    def _along(self, source: _Source, arg: Node, scale: Node) -> Dims:
        """Along which of the parameter's dimensions a scale differs."""
        shape = shape_of(scale)
        wide = [dim for dim in range(-len(shape), 0) if shape[dim] > 1]
        return tuple(sorted({_back(arg, dim, self.parameters[source.name]) for dim in wide}))

    def _depends(self, node: Node, name: str) -> bool:
        todo, seen = [node], set()
        while todo:
            one = todo.pop()
            if one.op == "placeholder" and any(source.name == name for source in self.made[one]):
                return True
            todo += [arg for arg in one.all_input_nodes if arg not in seen]
            seen.update(one.all_input_nodes)
        return False


def _picks(operator: Operator) -> bool:
    return operator.weight is not None and operator.weight.reads is None


def _numel(node: Node) -> int:
    value = node.meta.get("val")
    return math.prod(value.shape) if isinstance(value, Tensor) else 0


def _back(arg: Node, dim: int, parameter: Tensor) -> int:
    """Which dimension of the parameter a dimension of what is made of it is: by its size, and by its stride."""
    value = arg.meta["val"]
    if value.shape == parameter.shape and value.stride() == parameter.stride():
        return dim % value.ndim
    strides = [d for d in range(parameter.ndim) if parameter.stride(d) == value.stride(dim) and parameter.shape[d] > 1]
    if strides:
        return strides[-1]
    sizes = [d for d in range(parameter.ndim) if parameter.shape[d] == value.shape[dim]]
    return sizes[0] if sizes else 0
