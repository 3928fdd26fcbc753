"""The loss as training asks it: which calls of the model it makes, and whether it still runs after a cut."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
"""The largest number of different calls of a loss that are traced."""


def calls_of(loss: MeanLoss) -> list[Call]:
    """The calls of the model that its loss makes for one batch in training mode, those of other shapes once each.

    If it fails there are those that it had made; everything is as it was.
    """
    calls: dict[str, Call] = {}

    def seen(_: nn.Module, args: Any, kwargs: Any) -> None:
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        leaves, tree = pytree.tree_flatten((args, kwargs))
        shapes = [(one.dtype, one.shape) if isinstance(one, Tensor) else one for one in leaves]
        if len(calls) < MOST_CALLS:
            calls.setdefault(f"{tree} {shapes}", Call(args, kwargs, training=True))

    handle = loss.model.register_forward_pre_hook(seen, with_kwargs=True)
    try:
        with _as_it_was(loss.model), suppress(Exception):  # of whatever kind: how the loss is asked is not known here
            _step(loss)
    finally:
        handle.remove()
    return list(calls.values())


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
        self._parts: dict[str, Callable[[], None]] = {"evaluates the example inputs": evaluation}
        if loss is not None:
            self._parts["computes the loss of a scoring batch, and its gradient, in training mode"] = lambda: _step(
                loss
            )
        for what, part in [*self._parts.items()]:
            try:
                self._run(part)
            except Exception:  # whatever the user's code raises: it did so before the cut
                del self._parts[what]

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


def _step(loss: MeanLoss) -> None:
    """The loss of a batch and its gradient, in training mode."""
    loss.model.train()
    batch, _ = next(loss.batches())
    with torch.enable_grad():
        value = loss.loss(loss.model, batch)
        # a hook would take this for a step of training
        trained = [p for p in loss.model.parameters() if p.requires_grad and not p._backward_hooks]
        if trained:
            torch.autograd.grad(value, trained, allow_unused=True)


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
