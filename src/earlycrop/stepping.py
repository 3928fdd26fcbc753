"""What is done at the steps of every optimizer in this process, as long as somebody needs it."""

import weakref
from collections.abc import Callable
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
    there = weakref.ref(owner)

    def call(optimizer: Optimizer, *_: Any) -> None:
        if (here := there()) is not None:
            hook(here, optimizer)

    register = register_optimizer_step_pre_hook if before else register_optimizer_step_post_hook
    handle = register(call)
    weakref.finalize(owner, handle.remove)
    return handle
