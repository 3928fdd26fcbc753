"""The exported graph of a model, had without touching the model and without a copy of its weights."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from earlycrop.errors import TraceError
from earlycrop.structure.heads import head

Inputs = tuple[object, ...]


def as_inputs(example_inputs: object) -> Inputs:
    """The positional arguments of the model's `forward`; a single tensor is one argument."""
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


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


def export(model: nn.Module, example_inputs: object) -> ExportedProgram:
    """The graph of `model(*example_inputs)` in eval mode, one node an operator.

    The trace runs on a copy without data, so it costs neither memory nor arithmetic; a model that
    insists on data (a branch on a value, constants in its code) is traced on a full copy.

    Raises:
        TraceError: names the module that was running, the cause and the ways out.
    """
    inputs = as_inputs(example_inputs)
    try:
        shadow = weightless(model)
        head(shadow)
        program = _export(shadow, pytree.tree_map_only(Tensor, lambda t: t.detach().to("meta"), inputs), [])
        if not any(isinstance(constant, Tensor) and constant.is_meta for constant in program.constants.values()):
            return program
    except Exception:  # the full copy decides; its error is the one to tell
        pass
    running: list[str] = []
    try:
        twin = duplicate(model).eval()
        head(twin)
        return _export(twin, inputs, running)
    except Exception as error:
        where = f"`{running[-1]}`" if running and running[-1] else "the model's own `forward`"
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TraceError(
            f"Cannot trace {type(model).__name__}: {where} could not be exported with these example inputs "
            f"({type(error).__name__}: {cause}). Give example inputs that `model(*example_inputs)` accepts; replace "
            f"branches that depend on tensor values; or prune weights instead of channels, which needs no graph."
        ) from error


def module_of(node: Node) -> str:
    """The path of the innermost module that ran this operator; '' is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1].split("@")[0] if paths else ""  # the second call of a shared module is `name@1`


def _export(model: nn.Module, inputs: Inputs, running: list[str]) -> ExportedProgram:
    with _noting(model, running), torch.no_grad(), _quiet():
        return torch.export.export(model, inputs, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without export's warnings about a copy that is thrown away, and its logs of an error that we tell ourselves."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_subclasses.fake_tensor", "fx.experimental")]
    loggers.append(logging.getLogger("torch.fx.experimental.symbolic_shapes"))
    disabled = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was


@contextmanager
def _noting(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep in `running` the paths of the modules whose forward has begun and not ended."""

    def ended(*_: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(ended))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
