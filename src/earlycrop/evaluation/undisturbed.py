"""The state in which scores are computed, exact and deterministic, and the way back to the state before."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint


@contextmanager
def exactly(model: nn.Module) -> Iterator[None]:
    """Gradients are on; autocast, TF32 and kernels without a second derivative are off; random states are restored.

    The search for the fastest kernel (`cudnn.benchmark`) is off too: it takes seconds for shapes that are seen once.
    """
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([d for d in devices if d.type == "cuda"]))
        stack.enter_context(torch.enable_grad())
        for kind in {d.type for d in devices} or {"cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_without_tf32())
        stack.enter_context(without_search())
        stack.enter_context(_without_reentrant_checkpoints())
        stack.enter_context(_without_fused_kernels(any(isinstance(one, nn.RNNBase) for one in model.modules())))
        yield


@contextmanager
def put_back(model: nn.Module) -> Iterator[Sequence[Tensor]]:
    """Within the context modes, buffers and `requires_grad` may change; all are restored. Yields the buffers."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [  # all of them, because a model may keep a counter of its own in one
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield [buffer for _, _, buffer, _ in buffers]
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            _require(parameter, flag)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def differentiate(model: nn.Module, moved: Sequence[Tensor]) -> None:
    """Only these tensors require gradients, no other parameter: what is not differentiated saves no activations."""
    wanted = {id(tensor) for tensor in moved}
    for tensor in (*model.parameters(), *moved):
        _require(tensor, id(tensor) in wanted)


def _require(tensor: Tensor, flag: bool) -> None:
    if tensor.requires_grad != flag:
        tensor.requires_grad_(flag)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Matrix products and convolutions in full single precision, by whichever of PyTorch's two switches is in use."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: list[tuple[Any, str, Any]] = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    try:
        before = [getattr(where, name) for where, name, _ in switches]
    except RuntimeError:  # the newer switch was used, after which the older cannot even be read
        switches = [(where, "fp32_precision", "ieee") for where in (matmul, cudnn.conv, cudnn.rnn)]
        before = [getattr(where, name) for where, name, _ in switches]
    try:
        for where, name, value in switches:
            setattr(where, name, value)
        yield
    finally:
        for (where, name, _), value in zip(switches, before, strict=True):
            setattr(where, name, value)


@contextmanager
def without_search() -> Iterator[None]:
    """cuDNN takes the kernel that it expects to be fast, instead of trying them all for every new shape."""
    cudnn: Any = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, False
    try:
        yield
    finally:
        cudnn.benchmark = before


@contextmanager
def _without_fused_kernels(recurrent: bool) -> Iterator[None]:
    """Attention, transformer and recurrent layers run operator by operator: fused, they have no second derivative."""
    mha: Any = torch.backends.mha
    mkldnn: Any = torch.backends.mkldnn
    cudnn: Any = torch.backends.cudnn
    fast, fused = mha.get_fastpath_enabled(), (mkldnn.enabled, cudnn.enabled)
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # compiled models have no second derivative either
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            mha.set_fastpath_enabled(False)
            if recurrent:
                mkldnn.enabled = cudnn.enabled = False
            yield
        finally:
            mha.set_fastpath_enabled(fast)
            if recurrent:
                mkldnn.enabled, cudnn.enabled = fused


@contextmanager
def _without_reentrant_checkpoints() -> Iterator[None]:
    """Activations are computed again by PyTorch's other kind of checkpoint, which allows `autograd.grad` twice."""
    before = checkpoint.CheckpointFunction
    checkpoint.CheckpointFunction = _NotReentrant  # type: ignore[misc]
    try:
        yield
    finally:
        checkpoint.CheckpointFunction = before  # type: ignore[misc]


class _NotReentrant:
    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return checkpoint.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)
