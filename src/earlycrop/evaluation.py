"""The loss as a function of one vector: its value's gradient and Hessian products, exact and in two passes.

`MeanLoss` is the mean loss over the scoring set as a function of the model's own parameters. An
`Evaluation` sees it through a `Chart`: as a function of one vector (all weights, or one gate per channel).

Both passes of a Hessian-gradient product cover the whole set. With batches b of n_b among N samples,

    g  = Σ_b (n_b / N) ∇L_b            first pass
    Hg = Σ_b (n_b / N) ∇²L_b g         second pass, with the g of the whole set

so the product holds the cross terms ∇²L_b ∇L_a; the mean of ∇²L_b ∇L_b would be another quantity.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from earlycrop.errors import ScoreError

Loss = Callable[[nn.Module, Any], Tensor]
Vector = Float[Tensor, "units"]
BatchNormMode = Literal["auto", "running", "calibrated", "batch"]


@runtime_checkable
class Chart(Protocol):
    """A linear map from one vector to the model's parameters, at the vector's present value."""

    @property
    def values(self) -> Vector:
        """Where the vector is now."""
        ...

    def parameters(self, model: nn.Module) -> list[Tensor]:
        """The parameters that the vector moves."""
        ...

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """The parameters' move for a move of the vector."""
        ...

    def pull(self, model: nn.Module, slopes: Sequence[Tensor]) -> Vector:
        """The vector's slope for slopes of the parameters: the transpose of `push`."""
        ...


class Evaluation:
    """The mean loss over the scoring set as a function of one vector, at its present value.

    Attributes:
        values: The vector: the weights themselves, or ones for gates.
    """

    def __init__(self, loss: "MeanLoss", chart: Chart) -> None:
        self.loss, self.chart = loss, chart
        self.values = chart.values

    def tempered(self, temperature: float) -> "Evaluation":
        """The same loss with the model's outputs (its logits) divided by a temperature."""
        return self if temperature == 1 else Evaluation(self.loss.tempered(temperature), self.chart)

    def gradient(self) -> Vector:
        """g = ∇L."""
        return self._gradient

    def hessian_gradient(self) -> Vector:
        """H g, with H = ∇²L and the g of the whole scoring set."""
        return self.hessian_product(self._gradient)

    def hessian_product(self, direction: Vector) -> Vector:
        """H v for any v, exact, by differentiating the gradient's slope along v."""
        model = self.loss.model
        parameters = self.chart.parameters(model)
        return self.chart.pull(
            model, self.loss.hessian_product(parameters, self.chart.push(model, direction), parameters)
        )

    @cached_property
    def _gradient(self) -> Vector:
        model = self.loss.model
        return self.chart.pull(model, self.loss.gradient(self.chart.parameters(model)))


class MeanLoss:
    """The mean loss over a scoring set as a function of the model's parameters.

    While it works, dropout is off, batch norm is in the mode that was asked for, autocast and TF32 are
    off; afterwards parameters, buffers, gradients, modes, flags and random states are bit for bit as before.

    Args:
        model: The network.
        loss: Maps the model and a batch to the scalar mean loss of that batch.
        batches: The scoring set, from the training split; cut anew into `micro_batch` samples.
        bn_mode: `running`: statistics as they are; `calibrated`: estimated anew on the scoring set and put
            back afterwards; `batch`: of each micro-batch; `auto`: calibrated where a norm never saw a batch,
            else running.
        micro_batch: Samples worked through at once; None takes the largest of the given batches.

    Raises:
        ScoreError: the set is empty, or the loss is not a finite scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: "Sequence[Any] | ScoringSet",
        bn_mode: BatchNormMode = "auto",
        micro_batch: int | None = None,
    ) -> None:
        self.model, self.loss = model, loss
        self.set = batches if isinstance(batches, ScoringSet) else ScoringSet(batches, micro_batch)
        norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
        if bn_mode == "auto":
            unseen = any(n.num_batches_tracked is not None and int(n.num_batches_tracked) == 0 for n in norms)
            bn_mode = "calibrated" if unseen else "running"
        self.bn_mode: BatchNormMode = bn_mode
        self._norms, self._temperature = norms, 1.0

    @property
    def samples(self) -> int:
        """N, the size of the scoring set."""
        return self.set.samples

    def tempered(self, temperature: float) -> "MeanLoss":
        """The same loss with the model's outputs divided by a temperature."""
        twin = MeanLoss(self.model, self.loss, self.set, self.bn_mode)
        twin._temperature = temperature
        return twin

    def gradient(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """∇L for these parameters; one pass over the set."""
        return self._accumulate(parameters, lambda loss: self._grad(loss, parameters))

    def hessian_product(
        self, along: Sequence[Tensor], direction: Sequence[Tensor], of: Sequence[Tensor]
    ) -> list[Tensor]:
        """The rows `of` of H v, where v moves the parameters `along` by `direction`; one pass over the set."""

        def product(loss: Tensor) -> Sequence[Tensor]:
            gradient = self._grad(loss, along, create_graph=True)
            slope = sum((g * v).sum() for g, v in zip(gradient, direction, strict=True) if g.requires_grad)
            if not isinstance(slope, Tensor):  # the loss is linear in what is moved
                return [torch.zeros_like(parameter) for parameter in of]
            return self._grad(slope, of)

        return self._accumulate([*along, *of], product, of)

    def _grad(self, loss: Tensor, parameters: Sequence[Tensor], create_graph: bool = False) -> Sequence[Tensor]:
        return torch.autograd.grad(
            loss, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )

    def _accumulate(
        self, moved: Sequence[Tensor], work: Callable[[Tensor], Sequence[Tensor]], of: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Σ_b (n_b / N) work(L_b) over the set."""
        total = [
            torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            for parameter in (moved if of is None else of)
        ]
        with self.scoring(moved):
            subject: Any = self.model if self._temperature == 1 else _Tempered(self.model, self._temperature)
            for batch, samples in self.set:
                loss = self.loss(subject, batch)
                self._check(loss)
                for sum_, part in zip(total, work(loss), strict=True):
                    sum_.add_(part, alpha=samples / self.samples)
                del loss
        return total

    def _check(self, loss: object) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            if isinstance(loss, Tensor) and loss.numel() == 1:
                found = "a scalar that does not depend on the model's parameters"
            raise ScoreError(
                f"`loss(model, batch)` must return the scalar mean loss of the batch with its graph; found {found}."
            )
        if not bool(torch.isfinite(loss)):
            raise ScoreError(
                f"The loss on the scoring set is {loss.item()}: scores would be meaningless. Check the scoring batches "
                f"and the state of training (a learning rate too high, inputs that are not finite)."
            )

    @contextmanager
    def scoring(self, moved: Sequence[Tensor]) -> Iterator[None]:
        """The state in which scores are computed; everything is put back afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in moved]
        buffers = [  # all of them, for a model may keep a count of its own in one
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        devices = {t.device for t in (*self.model.parameters(), *self.model.buffers())}
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([d for d in devices if d.type == "cuda"]))
            stack.enter_context(torch.enable_grad())
            for kind in {d.type for d in devices} or {"cpu"}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the fused kernels have no second derivative
            stack.enter_context(_without_tf32())
            try:
                self.model.eval()
                for parameter, _ in flags:
                    parameter.requires_grad_(True)
                if self.bn_mode == "calibrated":
                    self._calibrate()
                elif self.bn_mode == "batch":
                    for norm in self._norms:
                        norm.train()
                yield
            finally:
                for module, training in modes:
                    module.training = training
                for parameter, flag in flags:
                    parameter.requires_grad_(flag)
                with torch.no_grad():
                    for module, name, buffer, value in buffers:
                        module._buffers[name] = buffer
                        if not torch.equal(buffer, value):
                            buffer.copy_(value)

    def _calibrate(self) -> None:
        """Estimate batch norm's statistics anew: their mean over the set, each micro-batch by its size."""
        momenta = [(norm, norm.momentum) for norm in self._norms]
        try:
            for norm in self._norms:
                norm.train()
            seen = 0
            with torch.no_grad():
                for batch, samples in self.set.chunks(CALIBRATION):
                    seen += samples
                    for norm in self._norms:
                        norm.momentum = samples / seen
                    self.loss(self.model, batch)
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum
                norm.eval()


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Products and convolutions in full single precision, by whichever of PyTorch's two switches is in use."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches: list[tuple[Any, str, Any]] = [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
    try:
        before = [getattr(where, name) for where, name, _ in switches]
    except RuntimeError:  # the newer switch was touched, and then the older cannot even be read
        switches = [(where, "fp32_precision", "ieee") for where in (matmul, cudnn.conv, cudnn.rnn)]
        before = [getattr(where, name) for where, name, _ in switches]
    try:
        for where, name, value in switches:
            setattr(where, name, value)
        yield
    finally:
        for (where, name, _), value in zip(switches, before, strict=True):
            setattr(where, name, value)


CALIBRATION = 256
"""Samples in one batch of the calibration of batch norm, so that the micro-batch changes no statistics."""


class ScoringSet:
    """The scoring set as one collection of samples, however it was cut when it was given.

    Batches are nested tuples, lists or dicts of tensors whose first dimension counts samples; they are
    joined and cut evenly. Batches that cannot be joined (texts of different lengths) are kept as given.

    Raises:
        ScoreError: there is no sample in it.
    """

    def __init__(self, batches: Sequence[Any], micro_batch: int | None = None) -> None:
        batches = list(batches)
        sizes = [_samples(batch) for batch in batches]
        if not batches or sum(sizes) == 0:
            raise ScoreError(
                "The scoring set is empty: give `batches`, a list of batches from the training split "
                "(ten samples a class, or 512, are a good size)."
            )
        if micro_batch is not None and micro_batch < 1:
            raise ScoreError(f"`micro_batch` must be at least 1; found {micro_batch}.")
        self.samples, self.micro_batch = sum(sizes), micro_batch or max(sizes)
        self._joined = _join(batches)
        self._given = list(zip(batches, sizes, strict=True))

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return self.chunks(self.micro_batch)

    def first(self, size: int) -> Any:
        """The first `size` samples as one batch, or all if there are fewer (of the first batch if they do not join)."""
        batch = self._given[0][0] if self._joined is None else self._joined
        return pytree.tree_map_only(Tensor, lambda t: t[:size] if t.ndim else t, batch)

    def chunks(self, size: int) -> Iterator[tuple[Any, int]]:
        """Batches of about `size` samples, as even as can be, with their sizes."""
        if self._joined is None:
            yield from self._given
            return
        pieces = math.ceil(self.samples / size)
        bounds = [self.samples * k // pieces for k in range(pieces + 1)]
        for start, stop in pairwise(bounds):
            yield pytree.tree_map_only(Tensor, lambda t, a=start, b=stop: t[a:b], self._joined), stop - start


def _samples(batch: Any) -> int:
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise ScoreError(
        f"A scoring batch must hold a tensor whose first dimension counts samples; found {type(batch).__name__}."
    )


def _join(batches: list[Any]) -> Any:
    """All batches as one, or None if they do not fit together."""
    flat = [pytree.tree_flatten(batch) for batch in batches]
    for leaves, spec in flat:
        if spec != flat[0][1] or not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves):
            return None
        if len({leaf.shape[0] for leaf in leaves}) != 1:
            return None
        if any(a.shape[1:] != b.shape[1:] or a.dtype != b.dtype for a, b in zip(leaves, flat[0][0], strict=True)):
            return None
    joined = [torch.cat(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    return pytree.tree_unflatten(joined, flat[0][1])


class _Tempered:
    """The model with its output divided by a temperature; everything else is the model's own."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        self._model, self._temperature = model, temperature

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        logits = self._model(*args, **kwargs)
        if not isinstance(logits, Tensor):
            raise ScoreError(
                f"A temperature divides the model's output, which must be a tensor of logits; found "
                f"{type(logits).__name__}. Use `Grasp(temperature=1)`, or a loss whose model returns logits."
            )
        return logits / self._temperature

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
