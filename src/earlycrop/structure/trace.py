"""The graph of a model, recorded without touching the model and without a copy of its weights.

Three ways lead to it, tried in this order: the operators are noted while a copy without data runs; that copy is
exported; a full copy is exported. The first takes a third of the time of the second and gives the same graph.
"""

import copy
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from earlycrop.errors import TraceError
from earlycrop.structure.heads import head
from earlycrop.structure.registry import operator_for

Inputs = tuple[object, ...]
Tracing = Literal["recorded", "exported", "exported with data"]


@dataclass(frozen=True, eq=False)
class Program:
    """A graph of aten operators and what goes into it.

    Attributes:
        graph: One node an operator; parameters, buffers and inputs are placeholders.
        graph_signature: What each placeholder stands for.
        constants: Tensors in the model's code, by name.
        tracing: How the graph was recorded.
        root: The module that holds what the graph's own nodes refer to.
    """

    graph: Graph
    graph_signature: ExportGraphSignature
    constants: Mapping[str, Any]
    tracing: Tracing
    root: nn.Module

    @cached_property
    def graph_module(self) -> GraphModule:
        """The graph as a module that takes all placeholders."""
        return self.root if isinstance(self.root, GraphModule) else GraphModule(self.root, self.graph)

    def copy_of(self, model: nn.Module) -> nn.Module:
        """A copy of the model for `again`: without data where that is enough."""
        return _shadow(self.tracing, model)

    def again(self, shadow: nn.Module, example_inputs: object) -> "Program":
        """The graph of such a copy after a change, recorded in the same way, to be compared node by node.

        Raises:
            Exception: whatever keeps the copy from running.
        """
        return _traced(self.tracing, shadow, as_inputs(example_inputs), [])


def as_inputs(example_inputs: object) -> Inputs:
    """The positional arguments of the model's `forward`; a single tensor is one argument."""
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


def examples_in(example_inputs: object) -> int:
    """How many examples they are: the first size of the first tensor that has one."""
    tensors = (leaf for leaf in pytree.tree_leaves(as_inputs(example_inputs)) if isinstance(leaf, Tensor) and leaf.ndim)
    return next((tensor.shape[0] for tensor in tensors), 1)


def inputs_for(model: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The inputs on the model's device; those of `dtype`, which its parameters had once, in the precision of now."""
    now = next(model.parameters(), torch.empty(0))
    return pytree.tree_map_only(Tensor, lambda t: t.to(now.device, now.dtype if t.dtype == dtype else None), inputs)


def weightless(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode whose parameters and buffers have shapes and no data."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return duplicate(model, memo).eval()


def duplicate(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy of the model whose forward hooks are the same objects, for they may hold files or whole trainers."""
    taken = []
    for module in model.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            taken.append((name, holder := getattr(module, name), dict(holder)))
            holder.clear()
    try:
        twin = copy.deepcopy(model, memo)
    finally:
        for _, holder, hooks in taken:
            holder.update(hooks)
    for module in twin.modules():
        for _ in range(4):
            name, _, hooks = taken.pop(0)
            getattr(module, name).update(hooks)
    return twin


def export(model: nn.Module, example_inputs: object) -> Program:
    """The graph of `model(*example_inputs)` in eval mode, one node an operator.

    The trace runs on a copy without data, so it costs neither memory nor arithmetic; a model that
    insists on data (a branch on a value, constants in its code) is traced on a full copy.

    Raises:
        TraceError: names the module that was running, the cause and the autodiff_modes out.
    """
    inputs = as_inputs(example_inputs)
    for tracing in ("recorded", "exported"):
        try:
            return _traced(tracing, _shadow(tracing, model), inputs, [])
        except Exception:  # the full copy decides; its error is the one to tell
            pass
    running: list[str] = []
    try:
        return _traced("exported with data", _shadow("exported with data", model), inputs, running)
    except Exception as error:
        where = f"`{running[-1].split('@')[0]}`" if running and running[-1] else "the model's own `forward`"
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TraceError(
            f"Cannot trace {type(model).__name__}: {where} could not be exported with these example inputs "
            f"({type(error).__name__}: {cause}). Give example inputs that `model(*example_inputs)` accepts; replace "
            f"branches that depend on tensor values; or prune weights instead of channels, which needs no graph."
        ) from error


def noted(model: nn.Module, example_inputs: object) -> Program | None:
    """The operators of one run, noted on a copy: without data if that can run, otherwise with them.

    Unlike `export` it asks nothing of the model but that it runs: values may decide on the way, and tensors may come
    from anywhere. So this is no graph that could be walked for classes. None where the model does not run.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    for tracing in ("recorded", "exported with data"):
        try:
            shadow, inputs, running = _shadow(tracing, model), as_inputs(example_inputs), []
            if tracing == "recorded":
                inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), inputs)
            with torch.random.fork_rng(list(devices)), _noting(shadow, running), torch.no_grad(), _quiet():
                return _record(shadow, inputs, running, whole=False)
        except Exception:  # what the caller can do without is no reason to fail
            pass
    return None


def _like_first(func: Any, args: Any) -> Tensor | None:
    """What the commonest operators return, which is like their first argument; None for other operators.

    PyTorch finds their shapes in Python, and would spend three quarters of a ResNet's trace on them.
    """
    like = operator_for(func).like
    if like is None or not like(*args):
        return None
    return args[0] if func._schema.is_mutable else torch.empty_like(args[0])


def module_of(node: Node) -> str:
    """The path of the innermost module that ran this operator; '' is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].split("@")[0] if paths else ""  # the second call of a shared module is `name@1`


def _shadow(tracing: Tracing, model: nn.Module) -> nn.Module:
    shadow = duplicate(model).eval() if tracing == "exported with data" else weightless(model)
    head(shadow)
    return shadow


def _traced(tracing: Tracing, shadow: nn.Module, inputs: Inputs, running: list[str]) -> Program:
    """The graph, recorded in this way; whatever goes wrong is raised."""
    if tracing != "exported with data":
        inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), inputs)
    with _noting(shadow, running), torch.no_grad(), _quiet():
        if tracing == "recorded":
            return _record(shadow, inputs, running)
        program = torch.export.export(shadow, inputs, strict=False)
    if tracing == "exported" and any(isinstance(one, Tensor) and one.is_meta for one in program.constants.values()):
        raise ValueError("a constant without data")
    return Program(program.graph, program.graph_signature, program.constants, tracing, program.graph_module)


def _record(model: nn.Module, inputs: Inputs, running: list[str], whole: bool = True) -> Program:
    """Note the operators that run, above autograd, where a linear layer is still one operator.

    Args:
        model: The network.
        inputs: What it takes.
        running: The calls of modules that have begun and not ended.
        whole: Whether this must be the whole graph.

    Raises:
        ValueError: a value came from elsewhere, so this is not the whole graph.
    """
    recorder, specs = _Recorder(running, whole), []

    def placeholder(name: str, value: object, kind: InputKind, target: str | None) -> None:
        node = recorder.graph.placeholder(name.replace(".", "_"))
        specs.append(InputSpec(kind, TensorArgument(node.name), target, True if kind is InputKind.BUFFER else None))
        recorder.note(node, value)

    for name, parameter in model.named_parameters():
        placeholder(f"p_{name}", parameter, InputKind.PARAMETER, name)
    for name, buffer in model.named_buffers():
        placeholder(f"b_{name}", buffer, InputKind.BUFFER, name)
    for number, value in enumerate(pytree.tree_leaves(inputs)):
        placeholder(f"input_{number}", value, InputKind.USER_INPUT, None)
    # a compiled module must run its own code here, and the operators must meet PreDispatch before anything else
    with torch.compiler.set_stance("force_eager"), _compiling(), enable_python_dispatcher(), recorder:
        outputs = pytree.tree_leaves(model(*inputs))
    for value in outputs if whole else ():
        if not isinstance(value, Tensor | int | float | str | None):
            raise ValueError(f"an output of type {type(value).__name__}")
    if whole:
        recorder.graph.output(tuple(recorder.nodes_of(outputs)))
    return Program(recorder.graph, ExportGraphSignature(specs, []), {}, "recorded", nn.Module())


@contextmanager
def _compiling() -> Iterator[None]:
    """Code that asks (`torch.compiler.is_compiling()`) is told what `torch.export` tells it, and reads no values."""
    was = torch.compiler._is_compiling_flag
    try:
        torch.compiler._is_compiling_flag = True
        yield
    finally:
        torch.compiler._is_compiling_flag = was


class _Recorder(ProxyTorchDispatchMode):
    """Notes each operator that reaches PyTorch's PreDispatch key, which lets in no mode of another parent."""

    def __init__(self, running: list[str], whole: bool = True) -> None:
        super().__init__(PythonKeyTracer(), "real", pre_dispatch=True)
        self.graph, self.running, self.whole = Graph(), running, whole
        # weakly: a new tensor that somebody else holds is copied on its tracing out of a factory, and would be lost
        self._nodes = WeakTensorKeyDictionary()

    def note(self, node: Node, value: object) -> None:
        """This node's value is that one."""
        node.meta["val"] = pytree.tree_map_only(Tensor, Tensor.detach if self.whole else _outline, value)
        if isinstance(value, Tensor):
            self._nodes[value] = node

    def nodes_of(self, arguments: Any) -> Any:
        """The same arguments with nodes for tensors."""
        return pytree.tree_map_only(Tensor, self._node_of, arguments)

    def _node_of(self, tensor: Tensor) -> Node:
        if tensor not in self._nodes and not self.whole:
            self.note(self.graph.placeholder("elsewhere"), tensor)
        if tensor not in self._nodes:
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} that no operator made")
        return self._nodes[tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # a question, not an operator
            return func(*args, **kwargs)
        taken = self.nodes_of((args, kwargs))
        result = _like_first(func, args)
        if result is None:
            with no_python_dispatcher():  # the same shapes at half the price
                result = func(*args, **kwargs)
        node = self._called(func, *taken)
        self.note(node, result)
        if isinstance(result, tuple | list):
            for number, part in enumerate(result):
                self.note(self._called(operator.getitem, (node, number), {}), part)
        elif self.whole and not isinstance(result, Tensor | None):
            raise ValueError(f"{func} returns a {type(result).__name__}")
        return result

    def _called(self, target: Any, args: Any, kwargs: Any) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        call = self.running[-1] if self.running else ""
        node.meta["nn_module_stack"] = {call: (call, nn.Module)}
        return node


def _outline(tensor: Tensor) -> Tensor:
    """Its shape, without data."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without export's warnings of a copy that is thrown away, and its prints of an error that we tell ourselves."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental")]
    loggers.append(logging.getLogger("torch.fx.experimental.symbolic_shapes"))
    disabled = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was


@contextmanager
def _noting(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep in `running` the calls of modules that have begun and not ended: a path, then path@1, path@2, …"""
    times: dict[str, int] = {}

    def begun(name: str) -> None:
        number = times[name] = times.get(name, -1) + 1
        running.append(f"{name}@{number}" if number else name)

    def ended(*_: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: begun(name)))
        handles.append(module.register_forward_hook(ended))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
