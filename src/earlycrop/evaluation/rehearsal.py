"""The loss as training asks it: which calls of the model it makes, and whether it still runs after a cut."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from earlycrop.errors import EarlyCropError
from earlycrop.evaluation.mean_loss import MeanLoss
from earlycrop.evaluation.undisturbed import put_back
from earlycrop.structure.caches import tensors_kept, watched
from earlycrop.structure.trace import Call, Inputs, called, noting

MOST_CALLS = 4
"""The largest number of different calls of a loss, of one batch, that are traced."""


class _Enough(BaseException):
    """Ends a loss whose first call of the model was seen; it is no error that a loss may catch."""


@dataclass
class _Seen:
    """What a loss does with a model.

    Attributes:
        calls: The first different calls, by what they are given.
        aside: Whether parts of the model run outside of all calls of it.
        failed: Whether the loss fails.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    aside: bool = False
    failed: bool = False


def calls_of(loss: MeanLoss) -> tuple[list[Call], bool]:
    """The calls of the model that its loss makes in training mode, and whether it runs parts of the model aside.

    Of one batch of each kind; calls of other shapes once each. The first call is that of the batch as it was given, and
    is only looked at; further calls are those of a part of it, if the loss can be computed of a part. Where it fails
    there are the calls that it had made; everything is as it was.
    """
    calls: dict[str, Call] = {}
    aside = False
    for _, batch in loss.set.kinds():
        part, most = loss.part(batch), len(calls) + MOST_CALLS
        whole = _seen(loss, partial(_ask, loss, batch), first=True).calls if part is not batch else {}
        found = _seen(loss, partial(_step, loss, part))
        if found.failed and part is not batch:
            found = _seen(loss, partial(_step, loss, batch))
        elif whole and found.calls:
            first = next(iter(found.calls))
            if _like(*whole.values()) == _like(found.calls[first]):
                del found.calls[first]  # the same call, of fewer samples
        aside |= found.aside
        for key, call in (whole | found.calls).items():
            if len(calls) < most:
                calls.setdefault(key, call)
    return [*calls.values()], aside


def _seen(loss: MeanLoss, ask: Callable[[], None], first: bool = False) -> _Seen:
    """What a loss does while it is asked, or before the `first` call runs."""
    seen, inside = _Seen(), [0]

    def begun(_: nn.Module, args: Any, kwargs: Any) -> None:
        # they are kept, so they must not fill the memory of a device
        args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), (args, kwargs))
        leaves, tree = pytree.tree_flatten((args, kwargs))
        shapes = [(one.dtype, one.shape) if isinstance(one, Tensor) else one for one in leaves]
        if len(seen.calls) < MOST_CALLS:
            seen.calls.setdefault(f"{tree} {shapes}", Call(args, kwargs, training=True))
        if first:
            raise _Enough
        inside[0] += 1

    def ended(*_: object) -> None:
        inside[0] -= 1

    def runs(*_: object) -> None:
        seen.aside |= not inside[0]

    handles = [loss.model.register_forward_pre_hook(begun, with_kwargs=True)]
    handles.append(loss.model.register_forward_hook(ended, always_call=True))
    handles += [one.register_forward_pre_hook(runs) for one in loss.model.modules() if one is not loss.model]
    try:
        with _as_it_was(loss.model):
            ask()
    except _Enough:
        pass
    except Exception:  # of whatever kind: how the loss is asked is not known here
        seen.failed = True
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _like(call: Call) -> str:
    """What calls with different numbers of samples have in common."""
    leaves, tree = pytree.tree_flatten((call.args, call.kwargs))
    return f"{tree} {[(one.dtype, one.ndim, one.shape[1:]) if isinstance(one, Tensor) else one for one in leaves]}"


class Rehearsal:
    """What ran before a cut and must run after it: the example inputs in evaluation, and the loss in training.

    What does not run before the cut is not asked of the model that is left. Everything stays as it was, random states
    included.

    Args:
        model: The network, before the cut.
        example_inputs: Those of the trace.
        loss: The loss; None where there is none.
    """

    def __init__(self, model: nn.Module, example_inputs: Inputs, loss: MeanLoss | None) -> None:
        def evaluation() -> None:
            model.eval()
            with torch.no_grad():
                called(model, example_inputs)

        self._model = model
        self._parts: dict[str, Callable[[], None]] = {}
        self._keep("evaluates the example inputs", evaluation)
        if loss is None:
            return
        for number, batch in loss.set.kinds():
            what = f"computes the loss of batch {number} of the scoring set, and its gradient, in training mode"
            part = loss.part(batch)
            self._keep(what, *(partial(_step, loss, one) for one in ([part] if part is batch else [part, batch])))

    def _keep(self, what: str, *parts: Callable[[], None]) -> None:
        """Keep the first of these that runs."""
        for part in parts:
            with suppress(Exception):  # whatever the user's code raises: it did so before the cut
                self._run(part)
                self._parts[what] = part
                return

    def repeat(self) -> None:
        """Run all of it again.

        Raises:
            EarlyCropError: something runs no longer; names the module.
        """
        for what, part in self._parts.items():
            running: list[str] = []
            try:
                with noting(self._model, running):
                    self._run(part)
            except Exception as error:  # as above
                where = f"in `{running[-1].split('@')[0]}`" if running and running[-1] else "outside of its modules"
                cause = (str(error).strip().splitlines() or [""])[0]
                kept = ", ".join(f"`{name}`" for name in [*tensors_kept(self._model)][:5])
                raise EarlyCropError(
                    f"After the cut the model no longer {what}: {type(error).__name__} {where} ({cause}). Something "
                    f"reads channels that left and runs in no call that was traced"
                    f"{f'; tensors are kept in {kept}' if kept else ''}. Everything is as it was. Keep the layer whose "
                    f"channels it reads whole with `ignore=`, or give `example_inputs` with which it runs"
                    f"{'; empty what is kept before the cut, if it has the old channels' if kept else ''}."
                ) from error

    def _run(self, part: Callable[[], None]) -> None:
        with _as_it_was(self._model):
            part()


def _step(loss: MeanLoss, batch: Any) -> None:
    """The loss of a batch and its gradient, in training mode."""
    loss.model.train()
    with torch.enable_grad():
        value = loss.loss(loss.model, batch)
        # a hook would take this for a step of training
        trained = [p for p in loss.model.parameters() if p.requires_grad and not p._backward_hooks]
        if trained:
            torch.autograd.grad(value, trained, allow_unused=True)


def _ask(loss: MeanLoss, batch: Any) -> None:
    """The loss of a batch in training mode."""
    loss.model.train()
    with torch.no_grad():
        loss.loss(loss.model, batch)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Modes, buffers, caches and random states are put back afterwards."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    with (
        torch.random.fork_rng([device for device in devices if device.type == "cuda"]),
        watched(model, each=False),
        put_back(model),
    ):
        yield
