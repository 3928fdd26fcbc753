"""The proof on the user's own model that the cut network computes the same as the gated dense one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from earlycrop.structure.registry import Kind, operator_of
from earlycrop.structure.structure import Structure
from earlycrop.structure.trace import as_inputs, duplicate
from earlycrop.structure.walk import tensors_of

LOWER = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Verification:
    """How far the cut network's outputs are from the gated dense network's, in float64 and eval mode.

    Attributes:
        max_error: The largest absolute difference of any output, divided by the largest absolute value of all outputs.
        gating_shift: The same against plain gating, where norms over cut dimensions still count the closed
            channels; equal to `max_error` in networks without such norms.
        tolerance: The largest `max_error` that counts as exact.
    """

    max_error: float
    gating_shift: float
    tolerance: float = 1e-9

    @property
    def exact(self) -> bool:
        """Whether the cut network computes what the gated one does."""
        return self.max_error <= self.tolerance


class Verifier:
    """Holds a dense float64 copy, made before a cut, to compare the cut model with."""

    def __init__(self, structure: Structure, model: nn.Module, example_inputs: object) -> None:
        if structure.graph is None:
            raise ValueError("This structure is what a cut left; verify before cutting, or trace the model again.")
        self.structure = structure
        self.inputs = pytree.tree_map_only(Tensor, _double, as_inputs(example_inputs))
        self.dense = {name: _double(tensor.detach().clone()) for name, tensor in tensors_of(model)}

    def compare(self, model: nn.Module, keep: Bool[Tensor, "classes"]) -> Verification:
        """Compare a model from which all classes outside `keep` have left with the gated dense one."""
        cut = duplicate(model).double().eval()
        devices = {tensor.device for tensor in self.dense.values()}
        with torch.no_grad(), torch.random.fork_rng([d for d in devices if d.type == "cuda"]), _in_double():
            found = _leaves(cut(*self.inputs))
        reference = self._gated(keep, kept_statistics=True)
        plain = self._gated(keep, kept_statistics=False) if self._mixes() else reference
        return Verification(_distance(found, reference), _distance(found, plain))

    def _mixes(self) -> bool:
        graph = self.structure.graph
        return graph is not None and any(operator_of(n).kind.norm_over_channels for n in graph.program.graph.nodes)

    def _gated(self, keep: Tensor, kept_statistics: bool) -> list[Tensor]:
        return _Gated(self.structure, self.dense, keep, kept_statistics).outputs(self.inputs)


def verify(
    structure: Structure, model: nn.Module, example_inputs: object, keep: Bool[Tensor, "classes"]
) -> Verification:
    """Cut a copy of the model and compare it with the gated dense one; the model is untouched."""
    from earlycrop.structure.surgery import cut

    verifier = Verifier(structure, model, example_inputs)
    smaller = duplicate(model)
    cut(structure, smaller, keep, None)
    return verifier.compare(smaller, keep)


class _Gated(Interpreter):
    """Runs the dense graph with closed channels; norms over channels count only the open ones, if asked.

    Channels are closed where parameters, or values computed from parameters entry by entry, meet other values.
    """

    def __init__(self, structure: Structure, tensors: dict[str, Tensor], keep: Tensor, kept_statistics: bool) -> None:
        assert structure.graph is not None
        self.channels, program = structure.graph, structure.graph.program
        super().__init__(program.graph_module)
        self.structure, self.tensors, self.keep, self.kept_statistics = structure, tensors, keep, kept_statistics
        self.stays = torch.cat([keep, torch.tensor([True])])
        self.device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        specs = {spec.arg.name: spec.kind for spec in program.graph_signature.input_specs}
        self.made: set[Node] = set()
        for node in program.graph.nodes:
            inputs = node.all_input_nodes
            if specs.get(node.name) in (InputKind.PARAMETER, InputKind.BUFFER) or (
                # computed from parameters without mixing channels: closed, like a parameter, where it is read
                inputs and self.made.issuperset(inputs) and operator_of(node).kind.apart
            ):
                self.made.add(node)

    def outputs(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """The network's float outputs for these inputs."""
        program = self.channels.program
        signature, flat = program.graph_signature, iter(pytree.tree_leaves(inputs))
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        arguments = []
        for spec in signature.input_specs:
            if (target := names.get(spec.arg.name)) is not None:
                arguments.append(self.tensors[self.structure.names[target]])
            elif spec.target is not None:
                arguments.append(pytree.tree_map_only(Tensor, _double, program.constants[spec.target]))
            else:
                arguments.append(next(flat))
        with torch.no_grad(), _default_double():
            return _leaves(self.run(*arguments))

    def run_node(self, n: Node) -> Any:
        if self.kept_statistics and operator_of(n).kind.norm_over_channels:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            return self._normed(n, args, kwargs)
        return super().run_node(n)

    def fetch_args_kwargs_from_env(self, n: Node) -> tuple[Any, Any]:
        def load(arg: Node) -> Any:
            value = self.env[arg]
            return self._closed(arg, value) if arg in self.made and n not in self.made else value

        return map_arg(n.args, load), map_arg(n.kwargs, load)  # type: ignore[return-value]

    def _closed(self, node: Node, value: Any) -> Any:
        """A value computed from parameters, with zeros where its channels are closed."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        for dim, classes in enumerate(self.channels.nodes.get(node.name, ())):
            if classes is not None:
                open_ = self.stays[classes].to(value)
                value = value * open_.view([-1 if d == dim else 1 for d in range(value.ndim)])
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        # the graph was traced on tensors without data, in the model's precision
        def here(value: Any) -> Any:
            if isinstance(value, torch.device):
                return self.device
            return torch.float64 if isinstance(value, torch.dtype) and value in LOWER else value

        return super().call_function(target, pytree.tree_map(here, args), pytree.tree_map(here, kwargs))

    def _normed(self, node: Node, args: Any, kwargs: Any) -> Tensor:
        """Normalise the open channels among themselves, as the cut network does; closed channels become zeros."""
        x = args[0]
        classes = self.channels.nodes[node.args[0].name]  # type: ignore[union-attr]
        stays = self.stays
        index = [None if one is None else stays[one].nonzero().flatten().to(x.device) for one in classes]
        grouped = operator_of(node).kind is Kind.GROUP_NORM
        channels = range(1, 2) if grouped else range(x.ndim - len(args[1]), x.ndim)
        kept = {dim: one for dim, one in enumerate(index) if dim in channels and one is not None}
        small, args = x, [*args]
        for dim, one in kept.items():
            small = small.index_select(dim, one)
        for position in (2, 3):
            if len(args) > position and isinstance(args[position], Tensor):
                for dim, one in kept.items():
                    args[position] = args[position].index_select(dim - channels[0], one)
        if grouped:
            groups = self.channels.arguments.get(node.name)
            args[1] = args[1] if groups is None else int(stays[groups].sum())
        else:
            args[1] = list(small.shape[channels[0] :])
        args[0] = small
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        for dim, one in kept.items():
            shape = [*result.shape]
            shape[dim] = x.shape[dim]
            result = torch.zeros(shape, dtype=result.dtype, device=result.device).index_copy(dim, one, result)
        return result


class _Double(TorchFunctionMode):
    """Gives code that asks for a lower precision (such as a norm computed in float32) float64 instead."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return _double(args[0])
        args, kwargs = pytree.tree_map(
            lambda value: torch.float64 if isinstance(value, torch.dtype) and value in LOWER else value,
            (args, kwargs or {}),
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


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _leaves(outputs: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor) and one.is_floating_point()]


def _distance(found: list[Tensor], reference: list[Tensor]) -> float:
    if [one.shape for one in found] != [one.shape for one in reference]:
        return float("inf")
    scale = max((float(one.abs().max()) for one in reference if one.numel()), default=0.0) or 1.0
    worst = [float((a - b).abs().max()) / scale for a, b in zip(found, reference, strict=True) if a.numel()]
    return max((w if w == w else float("inf") for w in worst), default=0.0)
