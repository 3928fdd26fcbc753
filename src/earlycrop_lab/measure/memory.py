"""Peak memory of a training step: the bytes of every tensor that is alive at once.

One instrument for every device: it counts what the program holds (parameters, buffers, gradients, optimizer state,
the batch, activations), whatever the allocator makes of it. Scratch space inside an operator is not counted.
"""

import sys
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Within the block, tracks the bytes of storage alive (`now`) and their maximum (`peak`), `held` tensors included.

    A storage counts once, however many views it has, from the operator that made it until the last tensor, saved
    activation or Python name releases it.

    >>> x = torch.zeros(1000)
    >>> with LiveBytes([x]) as live:
    ...     y = (x + 1).exp()  # x, x + 1 and y, of 4000 bytes each; then x and y
    >>> live.peak, live.now
    (12000, 8000)
    """

    def __init__(self, held: Iterable[Tensor] = ()):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.finalize] = {}
        for tensor in held:
            self._see(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for end in self._alive.values():
            end.detach()  # stop watching what outlives the block
        self._alive.clear()

    def _see(self, tensor: Tensor) -> None:
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes()
        # torch keeps one Python object per storage for as long as the storage lives, even if only autograd holds it:
        # the end of the object is the end of the storage
        self._alive[key] = weakref.finalize(storage, self._gone, key, size)
        self._alive[key].atexit = False
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self._alive.pop(key, None)
        self.now -= size


def held_by(model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[Tensor]:
    """Every tensor that lives between steps: parameters, their gradients, buffers and the optimizer's state."""
    for parameter in model.parameters():
        yield parameter.detach()
        if parameter.grad is not None:
            yield parameter.grad
    yield from model.buffers()
    if optimizer is not None:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def process_peak_bytes() -> int | None:
    """Peak resident memory of this process, in bytes; None where the system does not report it.

    It includes the interpreter, the libraries and the data: only numbers of two fresh processes can be compared.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
