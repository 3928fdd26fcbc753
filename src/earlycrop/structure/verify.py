"""The proof on the user's own model that the cut network computes the same as the gated dense one.

It is in float64, where rounding hides nothing: the cut model itself runs against the gated graph of the dense one. Some
models are not the same there: a literal in their code is a rounded one in the graph, an epsilon is that of the type of
its input, a table is in float32 and meets weights in float64. Then two things are compared that together say as much:

    the graph of the cut model with the gated graph of the dense one, in float64, with the same constants
    the cut model itself with the gated graph, in the precision that the model has

A wrong channel shows in the first whatever its size; what no graph shows, in the second, if it is not small.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlycrop.structure.distance import distance, leaves
from earlycrop.structure.duplicates import duplicate
from earlycrop.structure.graph import mutates
from earlycrop.structure.registry import Kind, Zero, operator_for, operator_of
from earlycrop.structure.structure import ChannelGraph, Structure
from earlycrop.structure.trace import Call, Inputs, Program, as_inputs, called, without_autocast
from earlycrop.structure.walk import tensors_of

DOUBLE = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64} | {
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
"""What takes the place of each lower precision."""

TF32 = 2.0**-10


@dataclass(frozen=True)
class Verification:
    """How far the cut network's outputs are from the gated dense network's, in eval mode.

    Attributes:
        max_error: The largest of max |a − b| / max(|b|, s) over all entries b of the outputs, see `distance`.
        gating_shift: The same against plain gating, where norms over cut dimensions still count the closed
            channels; equal to `max_error` in networks without such norms.
        tolerance: The largest `max_error` that counts as exact.
        precision: In which the outputs were compared: float64; or that of the model, where it computes something else
            in float64. Its graphs were compared in float64 all the same.
    """

    max_error: float
    gating_shift: float
    tolerance: float = 1e-9
    precision: str = "float64"

    @property
    def exact(self) -> bool:
        """Whether the cut network computes what the gated one does."""
        return self.max_error <= self.tolerance


class Verifier:
    """Holds a copy of the dense tensors, made before a cut, to compare the cut model with."""

    def __init__(self, structure: Structure, model: nn.Module, example_inputs: object) -> None:
        if structure.graph is None:
            raise ValueError("This structure is what a cut left; verify before cutting, or trace the model again.")
        self.structure, self.graph = structure, structure.graph
        self.program, self.inputs = structure.graph.program, as_inputs(example_inputs)
        self.dense = {name: tensor.detach().clone() for name, tensor in tensors_of(model)}
        self.constants = self.program.constants

    @property
    def blind(self) -> str | None:
        """Why nothing can be compared; None if something can."""
        last = next(node for node in reversed(self.program.graph.nodes) if node.op == "output")
        values = [node.meta.get("val") for node in last.all_input_nodes]
        if any(isinstance(value, Tensor) and value.numel() for value in values):
            return None
        return "for the example inputs the model returns no tensor that has entries, so nothing was compared"

    def compare(self, model: nn.Module, keep: Bool[Tensor, "classes"]) -> Verification:
        """Compare a model from which all classes outside `keep` have left with the gated dense one.

        Args:
            model: The cut network.
            keep: True for each class that stayed.

        Raises:
            VerificationError: nothing can be compared, because no output has a finite entry.
            Exception: whatever keeps the cut model from running in its own precision.
        """
        # scoring may have moved what modules keep, in which no channel leaves
        self.constants = {name: _kept(model, name, value) for name, value in self.program.constants.items()}
        double = _tried(lambda: self._measured(self._run(model, double=True), keep))
        if double is not None and double.exact:
            return double
        graphs = _tried(lambda: self._measured(self._graph_of(model), keep))
        if graphs is not None and not graphs.exact:
            return double or graphs
        return self._measured(self._run(model, double=False), keep, self._precision())

    def _run(self, model: nn.Module, double: bool) -> list[Tensor]:
        """The cut model's outputs."""
        cut = duplicate(model).eval()
        inputs = _doubled(self.inputs) if double else self.inputs
        devices = {tensor.device for tensor in self.dense.values()}
        regions = nullcontext if self.program.tracing == "exported with autocast" else without_autocast
        with torch.no_grad(), torch.random.fork_rng([d for d in devices if d.type == "cuda"]), regions():
            if not double:
                return leaves(called(cut, inputs))
            with _in_double():
                return leaves(called(cut._apply(_double), inputs))  # `double` leaves complex parameters as they are

    def _graph_of(self, model: nn.Module) -> list[Tensor]:
        """What the cut model's graph computes in float64."""
        program = replace(self.program, call=Call.of(self.inputs))
        again = program.again(program.copy_of(model))
        tensors = {name: _double(tensor.detach()) for name, tensor in tensors_of(model)}
        return _Run(again, self.structure.names, tensors).outputs(_doubled(self.inputs))

    def _measured(self, found: list[Tensor], keep: Tensor, precision: torch.dtype = torch.float64) -> Verification:
        reference = self._gated(keep, True, precision)
        plain = self._gated(keep, False, precision) if self._mixes() else reference
        coarseness = float(torch.finfo(precision).eps)
        if any(tensor.is_cuda for tensor in self.dense.values()):
            coarseness = max(coarseness, TF32)  # products of float32 there, if PyTorch is allowed
        tolerance = 1e-9 if precision == torch.float64 else coarseness**0.5
        name = str(precision).removeprefix("torch.")
        return Verification(distance(found, reference), distance(found, plain), tolerance, name)

    def _precision(self) -> torch.dtype:
        """The coarsest in which the dense graph holds a value; float64 if it has none."""
        values = pytree.tree_leaves([node.meta.get("val") for node in self.program.graph.nodes])
        tensors = [one for one in (*self.dense.values(), *values) if isinstance(one, Tensor)]
        found = {one.dtype.to_real() for one in tensors if one.is_floating_point() or one.is_complex()}
        return max(found, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)

    def _mixes(self) -> bool:
        norms = (_over_channels(self.graph, node) for node in self.program.graph.nodes)
        return bool(self.graph.statistics) or any(norms)

    def _gated(self, keep: Tensor, kept_statistics: bool, precision: torch.dtype) -> list[Tensor]:
        double = precision == torch.float64
        tensors = {name: _double(tensor) for name, tensor in self.dense.items()} if double else self.dense
        run = _Gated(self.structure, tensors, keep, kept_statistics, double)
        run.constants = self.constants
        return run.outputs(_doubled(self.inputs) if double else self.inputs)


def _kept(model: nn.Module, name: str, traced: Any) -> Any:
    """The tensor that a module keeps in a plain attribute, as it is now; otherwise what was traced."""
    path, _, attribute = name.rpartition(".")
    try:
        now = getattr(model.get_submodule(path), attribute, None)
    except AttributeError:  # a literal
        return traced
    return now.detach().clone() if isinstance(now, Tensor) and now.shape == traced.shape else traced


def _tried(measure: Callable[[], Verification]) -> Verification | None:
    """What was measured, or None where something does not run in float64."""
    try:
        return measure()
    except Exception:  # whatever it raises there; if it does not run at all, its own precision shows that
        return None


def verify(
    structure: Structure, model: nn.Module, example_inputs: object, keep: Bool[Tensor, "classes"]
) -> Verification:
    """Cut a copy of the model and compare it with the gated dense one; the model is untouched.

    Args:
        structure: The structure of the model.
        model: The network.
        example_inputs: What it takes; a tensor is a single input.
        keep: True for each class that stays.

    Raises:
        EarlyCropError: `keep` does not fit, or would empty a layer.
    """
    from earlycrop.structure.surgery import cut

    verifier = Verifier(structure, model, example_inputs)
    smaller = duplicate(model)
    cut(structure, smaller, keep, None)
    return verifier.compare(smaller, keep)


class _Run(Interpreter):
    """Runs a graph on tensors that are given by name: in float64, or in the precision in which it was traced."""

    def __init__(self, program: Program, names: Mapping[str, str], tensors: dict[str, Tensor], double: bool = True):
        super().__init__(program.root, graph=program.graph)  # not as a module of its own: no code is made of names
        self.program, self.names, self.tensors, self.double = program, names, tensors, double
        self.constants = program.constants
        self.device = next(iter(tensors.values())).device if tensors else torch.device("cpu")

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """The network's outputs for these inputs."""
        signature, flat = self.program.graph_signature, iter(pytree.tree_leaves(inputs))
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        arguments = []
        for spec in signature.input_specs:
            if (target := names.get(spec.arg.name)) is not None:
                arguments.append(self.tensors[self.names[target]])
            elif spec.target is not None:
                constant = self.constants[spec.target]
                arguments.append(_doubled(constant) if self.double else constant)
            else:
                arguments.append(next(flat))
        with torch.no_grad(), _default_double() if self.double else nullcontext():
            return leaves(self.run(*arguments))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        literal = super().get_attr(target, args, kwargs).to(self.device)
        return _doubled(literal) if self.double else literal

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        # the graph was traced on tensors without data, in the model's precision
        def here(value: Any) -> Any:
            if isinstance(value, torch.device):
                return self.device
            return DOUBLE.get(value, value) if self.double and isinstance(value, torch.dtype) else value

        target = operator_for(target).stand_in or target
        return super().call_function(target, pytree.tree_map(here, args), pytree.tree_map(here, kwargs))


class _Gated(_Run):
    """Runs the dense graph with closed channels; norms over channels count only the open ones, if asked.

    Channels are closed where parameters, or values computed from parameters entry by entry, meet other values: there
    they become zeros. A divisor stays open, for its quotient is zero only where what it divides is zero. A channel that
    divides by a statistic of its own is 0 / 0 once it is closed, which no cut network computes: what is not finite in
    closed channels becomes zero.
    """

    def __init__(
        self, structure: Structure, tensors: dict[str, Tensor], keep: Tensor, kept_statistics: bool, double: bool
    ) -> None:
        assert structure.graph is not None
        super().__init__(structure.graph.program, structure.names, tensors, double)
        self.channels, self.kept_statistics = structure.graph, kept_statistics
        self.stays = torch.cat([keep, torch.tensor([True])])
        self.closes = not bool(keep.all())
        specs = {spec.arg.name: spec.kind for spec in self.program.graph_signature.input_specs}
        self.made: set[Node] = set()
        for node in self.program.graph.nodes:
            inputs = node.all_input_nodes
            if specs.get(node.name) in (InputKind.PARAMETER, InputKind.BUFFER) or (
                # computed from parameters without mixing channels: closed, like a parameter, where it is read
                inputs and self.made.issuperset(inputs) and operator_of(node).kind.apart
            ):
                self.made.add(node)

    def run_node(self, n: Node) -> Any:
        if self.kept_statistics and _over_channels(self.channels, n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self._finite(n, self._normed(n, args, kwargs))
        if self.kept_statistics and n.name in self.channels.statistics:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self.call_function(n.target, (self._opened(n, args[0]), *args[1:]), kwargs)
        result = super().run_node(n)
        computed = n.op == "call_function" and not operator_of(n).kind.moves
        return self._finite(n, result) if computed and self.closes else result

    def _finite(self, node: Node, value: Any) -> Any:
        """The same with zeros instead of infinities and nan in closed channels."""
        if not isinstance(value, Tensor) or bool(value.sum().isfinite()):
            return value
        for dim, classes in enumerate(self.channels.nodes.get(node.name, ())):
            if classes is not None:
                bad = ~self._along(dim, self.stays[classes], value) & ~value.isfinite()
                # what is changed in place may be a view of what is read later
                value = value.masked_fill_(bad, 0) if mutates(node) else value.masked_fill(bad, 0)
        return value

    def _along(self, dim: int, entries: Tensor, value: Tensor) -> Tensor:
        """A vector in the shape of a dimension of a value."""
        return entries.to(value.device).view([-1 if d == dim else 1 for d in range(value.ndim)])

    def _opened(self, node: Any, value: Tensor) -> Tensor:
        """The open channels of what a statistic is taken of."""
        for dim in self.channels.statistics[node.name]:
            classes = self.channels.nodes[node.args[0].name][dim]
            if classes is not None:
                value = value.index_select(dim, self.stays[classes].nonzero().flatten().to(value.device))
        return value

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        divides = n.op == "call_function" and _by_first(n)

        def load(arg: Node) -> Any:
            value, open_ = self.env[arg], divides and arg is not n.args[0]
            return self._closed(arg, value) if arg in self.made and n not in self.made and not open_ else value

        return map_arg(n.args, load), map_arg(n.kwargs, load)  # type: ignore[return-value]

    def _closed(self, node: Node, value: Any) -> Any:
        """A value computed from parameters, with zeros where its channels are closed."""
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            return value
        for dim, classes in enumerate(self.channels.nodes.get(node.name, ())):
            if classes is not None:
                value = value * self._along(dim, self.stays[classes].to(value), value)
        return value

    def _normed(self, node: Node, args: Any, kwargs: Any) -> Tensor:
        """Normalise the open channels among themselves, as the cut network does; closed channels become zeros."""
        x = args[0]
        classes = self.channels.nodes[node.args[0].name]  # type: ignore[union-attr]
        stays = self.stays
        index = [None if one is None else stays[one].nonzero().flatten().to(x.device) for one in classes]
        kind = operator_of(node).kind
        per_channel = kind is not Kind.TRAILING_NORM  # its parameters are vectors, which belong to dimension 1
        first = 1 if per_channel else x.ndim - len(args[1])
        inside = {Kind.GROUP_NORM: (1,), Kind.CHANNEL_NORM: range(x.ndim)}.get(kind, range(first, x.ndim))
        kept = {dim: one for dim, one in enumerate(index) if dim in inside and one is not None}
        small, args = x, [*args]
        for dim, one in kept.items():
            small = small.index_select(dim, one)
        for position in range(1, 5) if kind is Kind.CHANNEL_NORM else (2, 3):
            if len(args) > position and isinstance(args[position], Tensor):
                for dim, one in kept.items():
                    if dim == 1 or not per_channel:
                        args[position] = args[position].index_select(dim - first, one)
        if kind is Kind.GROUP_NORM:
            groups = self.channels.arguments.get(node.name)
            args[1] = args[1] if groups is None else int(stays[groups].sum())
        elif kind is Kind.TRAILING_NORM:
            args[1] = list(small.shape[first:])
        args[0] = small
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        for dim, one in kept.items():
            shape = [*result.shape]
            shape[dim] = x.shape[dim]
            result = torch.zeros(shape, dtype=result.dtype, device=result.device).index_copy(dim, one, result)
        return result


def _by_first(node: Node) -> bool:
    """Whether the result is zero where the first operand is, whatever the others are, as that of a division."""
    operator = operator_of(node)
    return operator.kind is Kind.ENTRYWISE and operator.zero_at(node) is Zero.FIRST


def _over_channels(graph: ChannelGraph, node: Node) -> bool:
    """Whether the statistics of a norm count channels that a cut may remove."""
    kind = operator_of(node).kind
    if kind is not Kind.CHANNEL_NORM:
        return kind.norm_over_channels
    classes = graph.nodes.get(node.args[0].name, ())  # type: ignore[union-attr]
    return any(one is not None and dim != 1 for dim, one in enumerate(classes))


class _Double(TorchFunctionMode):
    """Gives code that asks for a lower precision (such as a norm computed in float32) float64 instead."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return args[0].double()
        if getattr(func, "__name__", "") in ("cfloat", "chalf"):
            return args[0].to(torch.complex128)
        args, kwargs = pytree.tree_map(
            lambda value: DOUBLE.get(value, value) if isinstance(value, torch.dtype) else value, (args, kwargs or {})
        )
        return func(*args, **kwargs)


@contextmanager
def _default_double() -> Iterator[None]:
    """Make new tensors float64 by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _in_double() -> Iterator[None]:
    with _default_double(), _Double():
        yield


def _doubled(values: Any) -> Any:
    return pytree.tree_map_only(Tensor, _double, values)


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(DOUBLE.get(tensor.dtype, tensor.dtype))
