"""The graph of a model, recorded without touching the model and, where possible, without copying its weights.

Three ways are tried in this order: record the operators while a copy without data runs; export that copy; export a full
copy. The first takes a third of the time of the second and gives the same graph. In all of them regions of autocast, on
or off, do nothing: they change the precision of operators, not which channels meet. A model that does not run without
them is exported with them; nothing is known of the operators that they become.
"""

import io
import logging
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher, no_python_dispatcher
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from earlycrop.errors import EarlyCropError, TraceError
from earlycrop.structure.caches import Cache, watched
from earlycrop.structure.duplicates import duplicate, weightless
from earlycrop.structure.graph import mark_unread
from earlycrop.structure.heads import head
from earlycrop.structure.registry import operator_for
from earlycrop.structure.returned import StateError, returned

Inputs = tuple[object, ...] | Mapping[str, object]
"""What a model takes: positional arguments, or arguments by name."""

Tracing = Literal["recorded", "exported", "exported with data", "exported with autocast"]


@dataclass(frozen=True, eq=False)
class Call:
    """A call of the model: what it is given, and in which mode.

    Attributes:
        args: Positional arguments.
        kwargs: Arguments by name.
        training: Whether the model is in training mode; dropout and norms with running statistics stay in that of
            evaluation, for they touch the same channels in both.
        times: How often it is made: what a call leaves behind may be read by the next. More than once it is only
            recorded.
    """

    args: tuple[object, ...]
    kwargs: Mapping[str, object] = field(default_factory=dict)
    training: bool = False
    times: int = 1

    @classmethod
    def of(cls, inputs: Inputs) -> "Call":
        """The call with these inputs."""
        return cls((), inputs) if isinstance(inputs, Mapping) else cls(inputs)


@dataclass(frozen=True, eq=False)
class Program:
    """A graph of ATen operators and what goes into it.

    Attributes:
        graph: One node per operator; parameters, buffers and inputs are placeholders.
        graph_signature: What each placeholder stands for.
        constants: Constant tensors in the model's code, by name.
        tracing: How the graph was recorded.
        root: The module that holds whatever the graph's nodes refer to by attribute.
        call: The call that was traced.
        caches: Attributes in which it leaves tensors.
    """

    graph: Graph
    graph_signature: ExportGraphSignature
    constants: Mapping[str, Any]
    tracing: Tracing
    root: nn.Module
    call: Call
    caches: tuple[Cache, ...] = ()

    def copy_of(self, model: nn.Module) -> nn.Module:
        """A copy of the model for `again`, without data if the graph was recorded without data."""
        return _shadow(self.tracing, model, self.call)

    def again(self, shadow: nn.Module) -> "Program":
        """The graph of such a copy after a change, recorded in the same way so that nodes can be compared.

        Raises:
            Exception: whatever keeps the copy from running.
        """
        return _traced(self.tracing, shadow, self.call, [])

    def follow(self, shadow: nn.Module, follower: "Recorder") -> None:
        """Run such a copy under another recorder; the graph must have been recorded.

        Raises:
            Exception: whatever keeps the copy from running.
        """
        _traced("recorded", shadow, self.call, follower.running, follower)


def as_inputs(example_inputs: object) -> Inputs:
    """What the model's `forward` takes: a mapping holds arguments by name; anything but a tuple is one argument."""
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


def called(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What the model returns for these inputs."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def examples_in(example_inputs: object) -> int:
    """The number of examples: the first size of the first tensor that has dimensions; 1 if there is none.

    Where another dimension counts them, as with `nn.LSTM` without `batch_first`, or where bags of indices lie one after
    the other, what is counted per example is per entry of that first dimension.

    Raises:
        EarlyCropError: it is 0.
    """
    tensors = (leaf for leaf in pytree.tree_leaves(as_inputs(example_inputs)) if isinstance(leaf, Tensor) and leaf.ndim)
    examples = next((tensor.shape[0] for tensor in tensors), 1)
    if not examples:
        raise EarlyCropError("The example inputs hold no example: their first dimension is 0. Give at least one.")
    return examples


def inputs_for(model: nn.Module, inputs: Any, dtype: torch.dtype) -> Any:
    """The inputs on the model's device; those of `dtype`, the parameters' former type, in their present type."""
    now = next(model.parameters(), torch.empty(0))
    return pytree.tree_map_only(Tensor, lambda t: t.to(now.device, now.dtype if t.dtype == dtype else None), inputs)


def export(model: nn.Module, call: object) -> Program:
    """The graph of a call of the model (anything else is the example inputs, in eval mode), one node per operator.

    The trace runs on a copy without data, so it costs neither memory nor arithmetic; a model that
    insists on data (a branch on a value, constants in its code) is traced on a full copy.

    Raises:
        TraceError: no way succeeds; the message names the module that was running, the cause and ways out.
    """
    call = call if isinstance(call, Call) else Call.of(as_inputs(call))
    ways: Sequence[Tracing] = ("recorded", "exported", "exported with data")
    for tracing in ways if call.times == 1 else ways[:1]:
        try:
            return _traced(tracing, _shadow(tracing, model, call), call, [])
        except StateError as error:
            raise _refused(model, "its output", error) from error
        except Exception:  # the last way decides; its error is the one to report
            pass
    running: list[str] = []
    try:
        if call.times > 1:
            raise ValueError("several calls could not be recorded")
        return _traced("exported with autocast", _shadow("exported with autocast", model, call), call, running)
    except Exception as error:
        where = f"`{running[-1].split('@')[0]}`" if running and running[-1] else "the model's own `forward`"
        raise _refused(model, where, error) from error


def _refused(model: nn.Module, where: str, error: Exception) -> TraceError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TraceError(
        f"Cannot trace {type(model).__name__}: {where} could not be exported with these example inputs "
        f"({type(error).__name__}: {cause}). Give example inputs that the model takes (a tensor, a tuple of arguments, "
        f"or a mapping of arguments by name); replace branches that depend on tensor values; or prune weights instead "
        f"of channels, which needs no graph."
    )


def noted(model: nn.Module, example_inputs: object) -> Program | None:
    """The operators of one run, noted on a copy: without data if that can run, otherwise with them.

    Unlike `export` it asks nothing of the model but that it runs: values may decide on the way, and tensors may come
    from anywhere. So this is no graph that could be walked for classes. None where the model does not run.
    """
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    for tracing in ("recorded", "exported with data"):
        try:
            inputs, running = as_inputs(example_inputs), []
            shadow = _shadow(tracing, model, Call.of(inputs))
            if tracing == "recorded":
                inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), inputs)
            with torch.random.fork_rng(list(devices)), noting(shadow, running), torch.no_grad(), _quiet():
                return _record(shadow, Call.of(inputs), Recorder(running, whole=False))
        except Exception:  # what the caller can do without is no reason to fail
            pass
    return None


def _like_first(func: Any, args: Any) -> Tensor | None:
    """An empty result for the most frequent operators, which is like their first argument; None for others.

    PyTorch computes their shapes in Python, which would take three quarters of a ResNet's trace.
    """
    like = operator_for(func).like
    if like is None or not like(*args):
        return None
    return args[0] if func._schema.is_mutable else torch.empty_like(args[0])


def module_of(node: Node) -> str:
    """The path of the innermost module that ran this operator; '' for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].split("@")[0] if paths else ""  # the second call of a shared module is `name@1`


def _shadow(tracing: Tracing, model: nn.Module, call: Call) -> nn.Module:
    shadow = duplicate(model).eval() if "with" in tracing else weightless(model)
    if call.training:
        to_training(shadow)
    head(shadow)
    return shadow


QUIET = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)
"""Modules that touch the same channels in both modes: in training they update statistics, or draw random numbers."""


def to_training(model: nn.Module) -> None:
    """Training mode, but for modules that would update statistics or draw random numbers."""
    for module in model.modules():
        module.training = not isinstance(module, QUIET)


def _traced(
    tracing: Tracing, shadow: nn.Module, call: Call, running: list[str], recorder: "Recorder | None" = None
) -> Program:
    """The graph, recorded in the given way; whatever goes wrong is raised."""
    if "with" not in tracing:
        args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), (call.args, call.kwargs))
    else:
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.detach, (call.args, call.kwargs))
    plain = nullcontext() if tracing == "exported with autocast" else without_autocast()
    watching = nullcontext([]) if recorder else watched(shadow, each=call.times == 1)  # who follows puts all back
    with noting(shadow, running), watching as caches, torch.no_grad(), _quiet(), plain:
        if tracing == "recorded":
            recorder = recorder or Recorder(running)
            found = _record(shadow, replace(call, args=args, kwargs=kwargs), recorder)
        else:
            made = torch.export.export(shadow, args, dict(kwargs), strict=False)
            found = Program(made.graph, made.graph_signature, made.constants, tracing, made.graph_module, call)
    if tracing == "exported" and any(isinstance(one, Tensor) and one.is_meta for one in found.constants.values()):
        raise ValueError("a constant without data")
    if not caches:  # what is left in an attribute may be read from there
        mark_unread(found.graph)
    return replace(found, call=call, caches=tuple(caches))


@contextmanager
def without_autocast() -> Iterator[None]:
    """Regions that switch autocast on or off do nothing, and it is off."""
    kind: Any = torch.amp.autocast_mode.autocast
    own = kind.__init__, kind.__enter__, kind.__exit__

    def made(region: Any, device_type: str, *_: object, **__: object) -> None:
        region.device, region._enabled = device_type, False  # on which device is not asked: "meta" has no autocast

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        kind.__init__, kind.__enter__, kind.__exit__ = made, lambda region: region, lambda *_: None
        try:
            yield
        finally:
            kind.__init__, kind.__enter__, kind.__exit__ = own


def _record(model: nn.Module, call: Call, recorder: "Recorder") -> Program:
    """Record the operators that run, above autograd, where a linear layer is still one operator.

    Args:
        model: The network.
        call: What it takes.
        recorder: Notes the operators.

    Raises:
        ValueError: a value has another origin than recorded operators, so this is not the whole graph.
    """
    specs, whole = [], recorder.whole

    def placeholder(name: str, value: object, kind: InputKind, target: str | None) -> None:
        node = recorder.placeholder(name)
        specs.append(InputSpec(kind, TensorArgument(node.name), target, True if kind is InputKind.BUFFER else None))
        recorder.note(node, value)

    for name, parameter in model.named_parameters():
        placeholder(f"p_{name}", parameter, InputKind.PARAMETER, name)
    for name, buffer in model.named_buffers():
        placeholder(f"b_{name}", buffer, InputKind.BUFFER, name)
    for number, value in enumerate(pytree.tree_leaves((call.args, call.kwargs))):
        placeholder(f"input_{number}", value, InputKind.USER_INPUT, None)
    # a compiled module must run its own code here, and operators must reach PreDispatch before any other key
    with torch.compiler.set_stance("force_eager"), _compiling(), enable_python_dispatcher(), recorder:
        outputs = [returned(model, model(*call.args, **call.kwargs), whole) for _ in range(call.times)]
    outputs = pytree.tree_leaves(outputs)
    if whole:
        recorder.output(outputs)
    return Program(recorder.graph, ExportGraphSignature(specs, []), {}, "recorded", recorder.constants, call)


@contextmanager
def _compiling() -> Iterator[None]:
    """Make `torch.compiler.is_compiling()` true, as under `torch.export`, so that code that asks reads no values."""
    was = torch.compiler._is_compiling_flag
    try:
        torch.compiler._is_compiling_flag = True
        yield
    finally:
        torch.compiler._is_compiling_flag = was


class Recorder(ProxyTorchDispatchMode):
    """Records each operator that reaches PyTorch's PreDispatch key, which accepts only modes of this base class."""

    def __init__(self, running: list[str], whole: bool = True) -> None:
        super().__init__(PythonKeyTracer(), "real", pre_dispatch=True)
        self.graph, self.running, self.whole, self.constants = Graph(), running, whole, nn.Module()
        # weakly: if a factory's new tensor had another owner, tracing would copy it on the way out, and lose it here
        self._nodes = WeakTensorKeyDictionary()

    def placeholder(self, name: str) -> Node:
        """The node of a parameter, a buffer or an input."""
        return self.graph.placeholder(re.sub(r"\W", "_", name))  # any text may be the name of a module

    def output(self, values: list[Any]) -> None:
        """Record what the network returns."""
        self.graph.output(tuple(self.nodes_of(values)))

    def note(self, node: Node, value: object) -> None:
        """Record `value` as the value of this node."""
        node.meta["val"] = pytree.tree_map_only(Tensor, Tensor.detach if self.whole else _outline, value)
        if isinstance(value, Tensor):
            self._nodes[value] = node

    def nodes_of(self, arguments: Any) -> Any:
        """The arguments with each tensor replaced by its node."""
        return pytree.tree_map_only(Tensor, self._node_of, arguments)

    def _node_of(self, tensor: Tensor) -> Node:
        if tensor not in self._nodes and not self.whole:
            self.note(self.graph.placeholder("elsewhere"), tensor)
        if tensor not in self._nodes:
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} that no operator made")
        return self._nodes[tensor]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # asks for the device; no operator
            return func(*args, **kwargs)
        taken = self.taken(func, args, kwargs)
        result = self.run(func, args, kwargs)
        node = self._called(func, *taken)
        self.note(node, result)
        if isinstance(result, tuple | list):
            for number, part in enumerate(result):
                self.note(self._called(operator.getitem, (node, number), {}), part)
        elif self.whole and not isinstance(result, Tensor | None):
            raise ValueError(f"{func} returns a {type(result).__name__}")
        return result

    def taken(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The arguments of an operator with each tensor replaced by its node."""
        if operator_for(func).literal and args[0] not in self._nodes and not (args[0].is_meta and args[0].numel()):
            self.note(self.literal(args[0]), args[0])
        return self.nodes_of((args, kwargs))

    def literal(self, tensor: Tensor) -> Node:
        """The node of a tensor that the code makes of numbers; of one without data only that it has no entries."""
        name = f"literal_{len(self.constants._buffers)}"
        self.constants.register_buffer(name, torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
        return self.graph.get_attr(name)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator returns, without data where its arguments have none."""
        result, stand_in = _like_first(func, args), operator_for(func).stand_in
        if stand_in is not None:
            result = stand_in(*args, **kwargs)
        if result is None:
            with no_python_dispatcher():  # the same shapes in half the time
                result = func(*args, **kwargs)
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
    """Silence export's warnings about a copy that is thrown away, and what it prints of an error that we raise."""
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
def noting(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep in `running` the module calls that have begun but not ended, as path, then path@1, path@2, …"""
    times: dict[str, int] = {}

    def begun(name: str) -> None:
        number = times[name] = times.get(name, -1) + 1
        running.append(f"{name}@{number}" if number else name)

    def ended(*_: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        # before other hooks, for what they compute (a weight) is the module's as well
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: begun(name), prepend=True))
        handles.append(module.register_forward_hook(ended))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
