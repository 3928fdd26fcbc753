"""The mean loss over a scoring set, differentiated with respect to the leaves of coordinates."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree

from earlycrop.distributed import ALONE, Ranks
from earlycrop.errors import ScoreError
from earlycrop.evaluation.coordinates import Coordinates, Rows, Slopes
from earlycrop.evaluation.manner import manner_of
from earlycrop.evaluation.norms import BatchNormMode, Norms
from earlycrop.evaluation.scoring_set import ScoringSet
from earlycrop.evaluation.undisturbed import differentiate, exactly, put_back
from earlycrop.hessian_products import AUTODIFF_MODES, AutodiffMode, Product, central_difference, double_backward
from earlycrop.structure.duplicates import duplicate
from earlycrop.structure.trace import to_training
from earlycrop.vector import Vector

Loss = Callable[[nn.Module, Any], Tensor]

NEAR = 0.05
"""The part of its norm up to which a product may differ from a difference of gradients."""

STEPS = (1.0, 1 / 4, 1 / 16)
"""The distances of such differences, in units of `central_difference`'s own."""

CONTRACT = "`loss(model, batch)` must return the scalar mean loss of the batch with its graph"


class MeanLoss:
    """The mean loss over a scoring set as a function of the model's parameters.

    While it computes, dropout, autocast and TF32 are off and batch norm is in the requested mode; afterwards
    parameters, buffers, gradients, modes, flags and random states are bit for bit as before.

    Args:
        model: The network.
        loss: Maps the model and a batch to the scalar mean loss of that batch.
        batches: The scoring set, from the training split; it is split again into `micro_batch` samples.
        bn_mode: What norms with running statistics do. `running`: they use the statistics that they have; `calibrated`:
            statistics of the scoring set, put back afterwards; `batch`: those of each micro-batch; `scaled`: each norm
            divides its whole input by one number, its root mean square, so that it is linear, all of a layer's
            channels keep their proportions, and the signal neither grows nor fades with depth; `auto`: calibrated where
            a norm never saw a batch, else running.
        micro_batch: Samples worked through at once, which changes no score. None takes a quarter of the largest
            given batch and at most 32 on a CPU, so that scoring needs no more memory than a training step, and
            elsewhere the largest given batch, or half of it, a quarter, … until the device has the memory; where
            samples meet in a norm with the batch's own statistics, it takes the largest given batch whole; and where
            the loss of a batch is not the mean of its parts' (contrastive losses, ignored labels), batches stay as
            given.
        hessian: How products with the Hessian are computed, see `hessian_products.py`; `auto` takes the fastest mode
            that the model's operators allow, and a difference of gradients where none does.
        ranks: The processes that share the work on the micro-batches. All of them hold the whole scoring set, and
            while they score rank 0's buffers; what they compute is summed.
        training: Whether the model is in training mode (but for norms and dropout) while the loss is computed. None
            takes evaluation mode, or training mode if the loss fails there, as that of detectors does.

    Raises:
        ScoreError: the set is empty, the loss is not a finite scalar, or a norm would wait for other ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Sequence[Any] | ScoringSet,
        bn_mode: BatchNormMode = "auto",
        micro_batch: int | None = None,
        hessian: AutodiffMode = "auto",
        ranks: Ranks = ALONE,
        training: bool | None = None,
    ) -> None:
        self.model, self.loss, self.ranks = model, loss, ranks
        self.hessian: AutodiffMode = hessian
        self._training = training
        self._own_backward: bool | None = None  # until there is a graph
        self.set = batches if isinstance(batches, ScoringSet) else ScoringSet(batches, micro_batch)
        self._norms = Norms(model, bn_mode, ranks)
        self.bn_mode: BatchNormMode = self._norms.mode
        self._temperature, self._failed = 1.0, set[AutodiffMode]()
        largest = self.set.largest
        small = not self._norms.meet and next(model.parameters(), torch.empty(0)).device.type == "cpu"
        self._micro_batch = self.set.micro_batch or (min(-(-largest // 4), 32) if small else largest)
        self._precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def samples(self) -> int:
        """N, the size of the scoring set."""
        return self.set.samples

    def batches(self) -> Iterator[tuple[Any, int]]:
        """The scoring set in micro-batches, with their sizes."""
        return self.set.chunks(self._micro_batch)

    def part(self, batch: Any) -> Any:
        """The first samples of a batch, no more than a micro-batch has; the batch itself if it is no larger."""
        halves = self.set.halves(batch)
        while sum(samples for _, samples in halves) > self._micro_batch:
            batch = halves[0][0]
            halves = self.set.halves(batch)
        return batch

    def tempered(self, temperature: float) -> "MeanLoss":
        """The same loss with the model's outputs divided by a temperature."""
        twin = MeanLoss(
            self.model,
            self.loss,
            self.set,
            self.bn_mode,
            hessian=self.hessian,
            ranks=self.ranks,
            training=self._training,
        )
        twin._temperature = temperature
        return twin

    def value(self) -> float:
        """L, in one pass over the set."""
        device = next((parameter.device for parameter in self.model.parameters()), None)
        total = torch.zeros(1, dtype=torch.float64, device=device)
        with self.scoring(()), torch.no_grad():
            for batch, samples in islice(self.batches(), self.ranks.rank, None, self.ranks.size):
                total += self._value(batch).double() * (samples / self.samples)
        return float(self.ranks.sum(total))

    def gradient(self, coordinates: Coordinates) -> Vector:
        """∇L with respect to the vector of `coordinates`, in one pass over the set."""
        leaves = coordinates.leaves(self.model)

        def slopes(batch: Any, _share: float) -> Sequence[Tensor | None]:
            with coordinates.placed(self.model, leaves):
                loss = self._value(batch)
                self._check_graph(loss)
                return torch.autograd.grad(loss, leaves, allow_unused=True)

        if not leaves:
            return coordinates.collect(self.model, ())
        with self.scoring(leaves):
            return self.ranks.sum(coordinates.collect(self.model, self._each(slopes)))

    def hessian_product(
        self, coordinates: Coordinates, direction: Vector, gradient: Vector | None = None, of: Rows | None = None
    ) -> Float[Tensor, "rows"]:
        """Rows of H v, in one pass over the set.

        Args:
            coordinates: The vector by which H differentiates.
            direction: v, in these coordinates.
            gradient: ∇L, if known: then the tangent of the loss along v is checked against ⟨∇L, v⟩. They differ if the
                model computes a part under `no_grad`, which has a tangent but no gradient; `auto` then takes another
                mode.
            of: The rows to compute; default: those of `coordinates`.
        """
        slope, scale = None, 0.0
        if gradient is not None:
            slope, scale = float((gradient * direction).sum()), float(gradient.norm() * direction.norm())
        asked = coordinates, direction, of
        if self.hessian != "auto":
            return self.ranks.sum(self._product(AUTODIFF_MODES[self.hessian], *asked)[1])
        for mode in coordinates.autodiff_modes:
            if mode in self._failed:
                continue
            part = None
            try:
                part = self._product(AUTODIFF_MODES[mode], *asked)
            except (NotImplementedError, RuntimeError) as error:  # an operator without (an exact) derivative
                if isinstance(error, torch.OutOfMemoryError):
                    raise
            found = self.ranks.gather(None if part is None else part[0])
            found = [one for one in found if one is not None]
            # if one rank failed, all try the next mode: a rank without a batch cannot see that an operator is missing
            if part is not None and len(found) == self.ranks.size:
                off = 0.0 if slope is None or mode == "double_backward" else abs(sum(found) - slope)
                if off <= scale * torch.finfo(self._precision).eps ** 0.5 and self._holds(mode, *asked):
                    return self.ranks.sum(part[1])
            self._failed.add(mode)
        return self._difference(*asked)

    def _holds(self, mode: AutodiffMode, coordinates: Coordinates, direction: Vector, of: Rows | None) -> bool:
        """Whether a product is that of the loss, where functions with a backward of their own are used.

        Such a backward may compute with numbers that it kept, and then has no graph to be differentiated: PyTorch takes
        them for constants without a word. A difference of gradients, on the first batch, finds it out.
        """
        if not self._own_backward:
            return True
        modes = AUTODIFF_MODES[mode], partial(central_difference, scale=STEPS[1])
        rows, other = (self._product(one, coordinates, direction, of, first=True)[1] for one in modes)
        return all(self.ranks.gather(_near(rows, other)))

    def _difference(self, coordinates: Coordinates, direction: Vector, of: Rows | None) -> Float[Tensor, "rows"]:
        """A difference of gradients over a short distance, in float64, once that over a shorter one agrees.

        In single precision there is no good distance: a long one meets kinks, a short one drowns in rounding.

        Raises:
            ScoreError: none agrees with the one before.
        """
        before, double = None, self._in_double()
        for step in STEPS:
            mode = partial(central_difference, scale=step)
            rows = self.ranks.sum(double._product(mode, coordinates, direction.double(), of)[1])
            if before is not None and _near(before, rows):
                return rows.to(direction.dtype)
            before = rows
        raise ScoreError(
            "The loss has no second derivative that PyTorch can compute, and differences of its gradients do not agree "
            "with each other: scores that need one would be wrong. Use a method without it (snip, snap, magnitude-u), "
            "or write the operator's backward with differentiable operations."
        )

    def _in_double(self) -> "MeanLoss":
        """The same loss of a copy of the model in float64."""

        def double(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        copy = duplicate(self.model).double()
        batches = [pytree.tree_map_only(Tensor, double, batch) for batch, _ in self.batches()]
        twin = MeanLoss(copy, self.loss, batches, self.bn_mode, self.set.largest, "central_difference", self.ranks)
        twin.set.manner, twin._temperature = self.set.manner, self._temperature
        return twin

    def _product(
        self,
        mode: Callable[..., Product],
        coordinates: Coordinates,
        direction: Vector,
        of: Rows | None,
        first: bool = False,
    ) -> tuple[float, Float[Tensor, "rows"]]:
        """⟨∇L, v⟩ and the rows of H v in one mode, of the batches of this rank, or of the first of them alone."""
        model, slope = self.model, 0.0
        at, along = coordinates.leaves(model), coordinates.push(model, direction)
        rows = at if of is None else of.leaves(model)
        moved = rows if mode is not double_backward else [*at, *rows]

        def product(batch: Any, share: float) -> Sequence[Tensor | None]:
            @contextmanager
            def loss(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
                with coordinates.placed(model, tensors), nullcontext() if of is None else of.placed(model, rows):
                    yield self._value(batch)

            nonlocal slope
            part, found = mode(loss, at, along, rows)
            slope += part * share
            return found

        if not at or not rows:
            return 0.0, (coordinates if of is None else of).collect(model, ())
        with self.scoring(moved):
            total = (coordinates if of is None else of).collect(
                model, islice(self._each(product), 1 if first else None)
            )
        return slope, total

    def _each(self, work: Callable[[Any, float], Sequence[Tensor | None]]) -> Slopes:
        """The result of `work` for each of this rank's batches, and the batch's share of the whole set."""
        for batch, samples in islice(self.batches(), self.ranks.rank, None, self.ranks.size):
            yield from self._within_memory(work, batch, samples)

    def _within_memory(self, work: Callable[[Any, float], Sequence[Tensor | None]], batch: Any, samples: int) -> Slopes:
        """The same for one batch, or for its halves if the device has not the memory for it."""
        halves = [] if samples <= self.set.fits else self._halves(batch)
        if not halves:
            try:
                found = work(batch, samples / self.samples)
            except torch.OutOfMemoryError:
                if not (halves := self._halves(batch)):
                    raise
                self.set.fits = samples // 2  # and what it took is free once this block ends
            else:
                yield found, samples / self.samples
                return
        for half, size in halves:
            yield from self._within_memory(work, half, size)

    def _halves(self, batch: Any) -> list[tuple[Any, int]]:
        """The halves of a batch; nothing where it must stay as it is."""
        return self.set.halves(batch) if self.set.micro_batch is None and not self._norms.meet else []

    def _value(self, batch: Any) -> Tensor:
        """The loss on one batch, with what is in place now.

        Raises:
            ScoreError: it is not a finite scalar.
        """
        subject: Any = self.model if self._temperature == 1 else _Tempered(self.model, self._temperature)
        loss = self.loss(subject, batch)
        self._check(loss)
        return loss

    def _check(self, loss: object) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ScoreError(f"{CONTRACT}; found {found}.")
        if not bool(torch.isfinite(loss)):
            raise ScoreError(
                f"The loss on the scoring set is {loss.item()}: scores would be meaningless. Check the scoring batches "
                f"and the state of training (too high a learning rate, inputs that are not finite)."
            )

    def _check_graph(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise ScoreError(f"{CONTRACT}; found a scalar that does not depend on the model's parameters.")
        if self._own_backward is None:
            self._own_backward = _has_own_backward(loss)

    @contextmanager
    def scoring(self, moved: Sequence[Tensor]) -> Iterator[None]:
        """Within the context the model is in the state in which scores are computed; afterwards it is as before.

        Args:
            moved: The tensors that require gradients; no other does.
        """
        with exactly(self.model), put_back(self.model) as buffers:
            self.ranks.share(buffers)
            self.model.eval()
            if self.set.manner is None:
                parts = self.set.micro_batch is None and not self._norms.meet
                found = manner_of(self.model, partial(self.loss, self.model), self.set, self._training, parts)
                self.set.manner = self.ranks.first(found)
            if self.set.manner.training:
                to_training(self.model)
            differentiate(self.model, moved)
            self._norms.prepare(lambda batch: self.loss(self.model, batch), self.set)
            yield


def _near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= NEAR * torch.maximum(a.norm(), b.norm()))


def _has_own_backward(loss: Tensor) -> bool:
    """Whether some function of the graph was written in Python, as a `torch.autograd.Function`."""
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction):
            return True
        seen.add(node)
        ahead += [one for one, _ in node.next_functions]
    return False


class _Tempered:
    """The model with its logits divided by a temperature: its output, or the first of a tuple of outputs.

    Everything else is the model's own.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        self._model, self._temperature = model, temperature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._model(*args, **kwargs)
        if isinstance(outputs, Tensor):
            return outputs / self._temperature
        if type(outputs) is tuple and outputs and isinstance(outputs[0], Tensor):
            return outputs[0] / self._temperature, *outputs[1:]
        raise ScoreError(
            f"A temperature divides the model's output, which must be a tensor of logits or a tuple that begins with "
            f"it; found {type(outputs).__name__}. Use `Grasp(temperature=1)`, or a loss whose model returns logits."
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
