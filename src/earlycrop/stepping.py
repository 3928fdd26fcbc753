"""What is done at the steps of every optimizer in this process, as long as somebody needs it."""

import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

Owner = TypeVar("Owner")


def at_steps(owner: Owner, hook: Callable[[Owner, Optimizer], None], before: bool = False) -> RemovableHandle:
    """Call `hook(owner, optimizer)` at each step of any optimizer, until the handle is removed or the owner is gone.

    Args:
        owner: Is not kept alive by this.
        hook: Must not hold the owner itself.
        before: Before the step, or after it.
    """
    there, calls = weakref.ref(owner), _calls(before)

    def call(optimizer: Optimizer) -> None:
        if (here := there()) is not None:
            hook(here, optimizer)

    handle = RemovableHandle(calls)
    calls[handle.id] = call
    weakref.finalize(owner, handle.remove)
    return handle


@cache
def _calls(before: bool) -> OrderedDict[int, Callable[[Optimizer], None]]:
    """What is called before each step, or after it; PyTorch has a single hook for all of it, which stays.

    An owner may go at any moment, in the middle of a step too, and PyTorch must not find its own hooks changed then.
    """
    calls: OrderedDict[int, Callable[[Optimizer], None]] = OrderedDict()

    def hook(optimizer: Optimizer, *_: Any) -> None:
        for call in [*calls.values()]:
            call(optimizer)

    (register_optimizer_step_pre_hook if before else register_optimizer_step_post_hook)(hook)
    return calls
