"""The mean loss over a scoring set, differentiated with respect to the leaves of coordinates."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from earlycrop.distributed import ALONE, Ranks
from earlycrop.errors import ScoreError
from earlycrop.evaluation.coordinates import Coordinates, Rows, Slopes
from earlycrop.evaluation.norms import BatchNormMode, Norms
from earlycrop.evaluation.scoring_set import ScoringSet
from earlycrop.evaluation.undisturbed import differentiate, exactly, put_back
from earlycrop.hessian_products import AUTODIFF_MODES, AutodiffMode, Product, double_backward
from earlycrop.vector import Vector

Loss = Callable[[nn.Module, Any], Tensor]

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
            channels keep their proportions, and the signal neither grows nor fades with depth; `auto`: `calibrated` if
            a norm never saw a batch, else `running`.
        micro_batch: Samples processed at once, which changes no score. Default: a quarter of the largest batch and at
            most 32, so that scoring needs no more memory than a training step; or the whole largest batch, if samples
            meet in a norm that uses the batch's own statistics.
        hessian: How products with the Hessian are computed, see `hessian_products.py`; `auto` takes the fastest mode
            that the model's operators allow.
        ranks: The processes that share the work on the micro-batches. While they score, all of them hold the whole
            scoring set and rank 0's buffers; what they compute is summed.

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
    ) -> None:
        self.model, self.loss, self.ranks = model, loss, ranks
        self.hessian: AutodiffMode = hessian
        self.set = batches if isinstance(batches, ScoringSet) else ScoringSet(batches, micro_batch)
        self._norms = Norms(model, bn_mode, ranks)
        self.bn_mode: BatchNormMode = self._norms.mode
        self._temperature, self._failed = 1.0, set[AutodiffMode]()
        whole, largest = self._norms.meet, self.set.largest
        self._micro_batch = self.set.micro_batch or (largest if whole else min(-(-largest // 4), 32))
        self._precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    @property
    def samples(self) -> int:
        """N, the size of the scoring set."""
        return self.set.samples

    def batches(self) -> Iterator[tuple[Any, int]]:
        """The scoring set in micro-batches, with their sizes."""
        return self.set.chunks(self._micro_batch)

    def tempered(self, temperature: float) -> "MeanLoss":
        """The same loss with the model's outputs divided by a temperature."""
        twin = MeanLoss(self.model, self.loss, self.set, self.bn_mode, hessian=self.hessian, ranks=self.ranks)
        twin._temperature = temperature
        return twin

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
        modes: list[AutodiffMode] = [self.hessian]
        if self.hessian == "auto":
            modes = [mode for mode in coordinates.autodiff_modes if mode not in self._failed]
        for mode in modes:
            last, part = mode == modes[-1], None
            try:
                part = self._product(AUTODIFF_MODES[mode], coordinates, direction, of)
            except (NotImplementedError, RuntimeError) as error:  # an operator has no (exact) forward derivative
                if last or isinstance(error, torch.OutOfMemoryError):
                    raise
            found = self.ranks.gather(None if part is None else part[0])
            found = [one for one in found if one is not None]
            # if one rank failed, all try the next mode: a rank without a batch cannot see that an operator is missing
            if part is not None and len(found) == self.ranks.size:
                error = 0.0 if slope is None else abs(sum(found) - slope)
                if last or error <= scale * torch.finfo(self._precision).eps ** 0.5:
                    return self.ranks.sum(part[1])
            self._failed.add(mode)
        raise AssertionError("the last mode returns or raises")

    def _product(
        self, mode: Callable[..., Product], coordinates: Coordinates, direction: Vector, of: Rows | None
    ) -> tuple[float, Float[Tensor, "rows"]]:
        """⟨∇L, v⟩ and the rows of H v in one mode, over this rank's batches."""
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
            total = (coordinates if of is None else of).collect(model, self._each(product))
        return slope, total

    def _each(self, work: Callable[[Any, float], Sequence[Tensor | None]]) -> Slopes:
        """The result of `work` for each of this rank's batches, and the batch's share of the whole set."""
        for batch, samples in islice(self.batches(), self.ranks.rank, None, self.ranks.size):
            yield work(batch, samples / self.samples), samples / self.samples

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

    @contextmanager
    def scoring(self, moved: Sequence[Tensor]) -> Iterator[None]:
        """Within the context the model is in the state in which scores are computed; afterwards it is as before.

        Args:
            moved: The tensors that require gradients; no other does.
        """
        with exactly(self.model), put_back(self.model) as buffers:
            self.ranks.share(buffers)
            self.model.eval()
            differentiate(self.model, moved)
            self._norms.prepare(lambda batch: self.loss(self.model, batch), self.set)
            yield


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
