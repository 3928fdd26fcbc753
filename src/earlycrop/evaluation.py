"""The loss as a function of one vector: its value's gradient and Hessian products, exact and in two passes.

A `Chart` says what the vector is (all weights, or one gate per channel) and puts its leaves in place in the
model; `MeanLoss` differentiates the mean loss over the scoring set with respect to them.

Both passes of a Hessian-gradient product cover the whole set. With batches b of n_b among N samples,

    g  = Σ_b (n_b / N) ∇L_b            first pass
    Hg = Σ_b (n_b / N) ∇²L_b g         second pass, with the g of the whole set

so the product holds the cross terms ∇²L_b ∇L_a; the mean of ∇²L_b ∇L_b would be another quantity.
"""

import math
import sys
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from itertools import accumulate, islice, pairwise
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils import _pytree as pytree

from earlycrop.distributed import ALONE, Ranks
from earlycrop.errors import ScoreError
from earlycrop.products import WAYS, Product, Way, double_backward

Loss = Callable[[nn.Module, Any], Tensor]
Vector = Float[Tensor, "units"]
BatchNormMode = Literal["auto", "running", "calibrated", "scaled", "batch"]


Slopes = Iterable[tuple[Sequence[Tensor | None], float]]
"""For each batch the slopes of the leaves (None: does not depend on it), and the batch's share of the set."""


CONTRACT = "`loss(model, batch)` must return the scalar mean loss of the batch with its graph"


@runtime_checkable
class Rows(Protocol):
    """Something to differentiate with respect to: leaves in the model, of whose slopes one vector is made."""

    def leaves(self, model: nn.Module) -> list[Tensor]:
        """The tensors to differentiate with respect to, at their present value."""
        ...

    def collect(self, model: nn.Module, slopes: Slopes) -> Vector:
        """Σ share · slopes as one vector, in float32 at least."""
        ...

    def placed(self, model: nn.Module, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within it the model computes with these tensors in the leaves' place."""
        ...


@runtime_checkable
class Chart(Rows, Protocol):
    """One vector, at its present value, and the leaves through which the model computes with it.

    Attributes:
        ways: To a product with the Hessian, the fastest first; the last works for every operator.
    """

    ways: ClassVar[tuple[Way, ...]]

    @property
    def values(self) -> Vector:
        """Where the vector is now."""
        ...

    def push(self, model: nn.Module, direction: Vector) -> list[Tensor]:
        """The leaves' move for a move of the vector."""
        ...


class Evaluation:
    """The mean loss over the scoring set as a function of one vector, at its present value."""

    def __init__(self, loss: "MeanLoss", chart: Chart) -> None:
        self.loss, self.chart = loss, chart

    @property
    def values(self) -> Vector:
        """The vector: the weights themselves, or ones for gates."""
        return self.chart.values

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
        """H v for any v, exact."""
        return self.loss.hessian_product(self.chart, direction, self._gradient)

    @cached_property
    def _gradient(self) -> Vector:
        return self.loss.gradient(self.chart)


class MeanLoss:
    """The mean loss over a scoring set as a function of the model's parameters.

    While it works, dropout is off, batch norm is in the mode that was asked for, autocast and TF32 are
    off; afterwards parameters, buffers, gradients, modes, flags and random states are bit for bit as before.

    Args:
        model: The network.
        loss: Maps the model and a batch to the scalar mean loss of that batch.
        batches: The scoring set, from the training split; cut anew into `micro_batch` samples.
        bn_mode: What norms with running statistics do. `running`: they use the statistics that they have; `calibrated`:
            statistics of the scoring set, put back afterwards; `batch`: those of each micro-batch; `scaled`: each norm
            divides its whole input by one number, its root mean square, so that it is linear, all of a layer's
            channels keep their proportions, and the signal neither grows nor fades with depth; `auto`: calibrated where
            a norm never saw a batch, else running.
        micro_batch: Samples worked through at once, which changes no score. None takes a quarter of the largest
            given batch and at most 32, so that scoring needs no more memory than a training step; where samples
            meet in a norm with the batch's own statistics, it takes the largest given batch whole.
        hessian: How products with the Hessian are had, see `products.py`; `auto` takes the fastest that the
            model's operators allow.
        ranks: The processes that share the work on the micro-batches. All of them hold the whole scoring set, and
            while they score rank 0's buffers; what they compute is summed.

    Raises:
        ScoreError: the set is empty, the loss is not a finite scalar, or a norm would wait for other ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: "Sequence[Any] | ScoringSet",
        bn_mode: BatchNormMode = "auto",
        micro_batch: int | None = None,
        hessian: Way = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.loss, self.ranks = model, loss, ranks
        self.hessian: Way = hessian
        self.set = batches if isinstance(batches, ScoringSet) else ScoringSet(batches, micro_batch)
        norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
        if bn_mode == "auto":
            unseen = any(n.num_batches_tracked is not None and int(n.num_batches_tracked) == 0 for n in norms)
            bn_mode = ranks.first("calibrated" if unseen else "running")
        self.bn_mode: BatchNormMode = bn_mode
        self._norms, self._temperature = norms, 1.0
        self._failed: set[Way] = set()
        if bn_mode == "batch" and ranks.size > 1 and any(isinstance(norm, nn.SyncBatchNorm) for norm in norms):
            raise ScoreError(
                "SyncBatchNorm takes its statistics over all ranks at once, but each of them scores batches of its own "
                "and not as many as others. Score with `bn_mode='running'` or 'calibrated'."
            )
        meets = bn_mode == "batch" and bool(norms)  # samples meet in the batch's own statistics
        meets |= any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())
        self._micro_batch = self.set.micro_batch or (self.set.largest if meets else min(-(-self.set.largest // 4), 32))
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

    def gradient(self, chart: Chart) -> Vector:
        """∇L; one pass over the set."""
        leaves = chart.leaves(self.model)

        def slopes(batch: Any, _share: float) -> Sequence[Tensor | None]:
            with chart.placed(self.model, leaves):
                loss = self._value(batch)
                self._check_graph(loss)
                return torch.autograd.grad(loss, leaves, allow_unused=True)

        if not leaves:
            return chart.collect(self.model, ())
        with self.scoring(leaves):
            return self.ranks.sum(chart.collect(self.model, self._each(slopes)))

    def hessian_product(
        self, chart: Chart, direction: Vector, gradient: Vector | None = None, of: Rows | None = None
    ) -> Float[Tensor, "rows"]:
        """The rows `of` (the chart's own, if not said) of H v, v a direction of the chart; one pass over the set.

        Args:
            gradient: ∇L, if known: then the tangent of the loss along v must be ⟨∇L, v⟩. It is not where the model
                computes a part under `no_grad`, which has a tangent and no gradient; then `auto` goes another way.
        """
        slope, scale = None, 0.0
        if gradient is not None:
            slope, scale = float((gradient * direction).sum()), float(gradient.norm() * direction.norm())
        ways: list[Way] = [self.hessian]
        if self.hessian == "auto":
            ways = [way for way in chart.ways if way not in self._failed]
        for way in ways:
            last, part = way == ways[-1], None
            try:
                part = self._product(WAYS[way], chart, direction, of)
            except (NotImplementedError, RuntimeError) as error:  # an operator without (an exact) forward derivative
                if last or isinstance(error, torch.OutOfMemoryError):
                    raise
            found = self.ranks.gather(None if part is None else part[0])
            found = [one for one in found if one is not None]
            # where one has failed all go on: a rank without a batch does not see that an operator is missing
            if part is not None and len(found) == self.ranks.size:
                error = 0.0 if slope is None else abs(sum(found) - slope)
                if last or error <= scale * torch.finfo(self._precision).eps ** 0.5:
                    return self.ranks.sum(part[1])
            self._failed.add(way)
        raise AssertionError("the last way returns or raises")

    def _product(
        self, way: Callable[..., Product], chart: Chart, direction: Vector, of: Rows | None
    ) -> tuple[float, Float[Tensor, "rows"]]:
        """⟨∇L, v⟩ and the rows of H v in one way; of the batches of this rank."""
        model, slope = self.model, 0.0
        at, along = chart.leaves(model), chart.push(model, direction)
        rows = at if of is None else of.leaves(model)
        moved = rows if way is not double_backward else [*at, *rows]

        def product(batch: Any, share: float) -> Sequence[Tensor | None]:
            @contextmanager
            def loss(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
                with chart.placed(model, tensors), nullcontext() if of is None else of.placed(model, rows):
                    yield self._value(batch)

            nonlocal slope
            part, found = way(loss, at, along, rows)
            slope += part * share
            return found

        if not at or not rows:
            return 0.0, (chart if of is None else of).collect(model, ())
        with self.scoring(moved):
            total = (chart if of is None else of).collect(model, self._each(product))
        return slope, total

    def _each(self, work: Callable[[Any, float], Sequence[Tensor | None]]) -> Slopes:
        """What is had of each batch of this rank, and the batch's share of the whole set."""
        for batch, samples in islice(self.batches(), self.ranks.rank, None, self.ranks.size):
            yield work(batch, samples / self.samples), samples / self.samples

    def _value(self, batch: Any) -> Tensor:
        """The loss on one batch, in place."""
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
                f"and the state of training (a learning rate too high, inputs that are not finite)."
            )

    def _check_graph(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise ScoreError(f"{CONTRACT}; found a scalar that does not depend on the model's parameters.")

    @contextmanager
    def scoring(self, moved: Sequence[Tensor]) -> Iterator[None]:
        """The state in which scores are computed; everything is put back afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        wanted = {id(tensor) for tensor in moved}
        flags = [
            (parameter, parameter.requires_grad)
            for parameter in self.model.parameters()
            if parameter.requires_grad != (id(parameter) in wanted)
        ]
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
            stack.enter_context(_without_tf32())
            stack.enter_context(self._without_fused_kernels())
            try:
                self.ranks.share(buffer for _, _, buffer, _ in buffers)
                self.model.eval()
                for tensor in (*(parameter for parameter, _ in flags), *moved):
                    tensor.requires_grad_(id(tensor) in wanted)  # what is not differentiated saves no activations
                if self.bn_mode == "calibrated":
                    self._calibrate()
                elif self.bn_mode == "scaled":
                    self._scale()
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

    @contextmanager
    def _without_fused_kernels(self) -> Iterator[None]:
        """Attention, transformer and recurrent layers operator by operator: fused, they have no second derivative."""
        mha: Any = torch.backends.mha
        mkldnn: Any = torch.backends.mkldnn
        cudnn: Any = torch.backends.cudnn
        fast, fused = mha.get_fastpath_enabled(), (mkldnn.enabled, cudnn.enabled)
        recurrent = any(isinstance(module, nn.RNNBase) for module in self.model.modules())
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if "torch._dynamo" in sys.modules:  # nor have compiled models
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

    def _scale(self) -> None:
        """Have every norm divide its whole input by one number, the root mean square over the first samples."""

        def measure(norm: Any, inputs: tuple[Tensor, ...]) -> None:
            mean_square = inputs[0].detach().square().mean()
            norm.running_mean.zero_()
            # a part of eps stays: an input of zeros stays zero, and a tiny one does not drown in rounding
            least = norm.eps * torch.finfo(norm.running_var.dtype).eps ** 0.5
            norm.running_var.fill_((mean_square - norm.eps).clamp_min(least - norm.eps))

        handles = [norm.register_forward_pre_hook(measure) for norm in self._norms]
        try:
            with torch.no_grad():
                self.loss(self.model, self.set.first(CALIBRATION))
        finally:
            for handle in handles:
                handle.remove()


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
"""Samples in one batch of the calibration of batch norm, so that the micro-batch changes no statistics; and those of
which `scaled` takes the root mean square."""


class ScoringSet:
    """The scoring set as one collection of samples, however it was cut when it was given.

    Batches are nested tuples, lists or dicts of tensors whose first dimension counts samples; they are cut evenly, as
    if they were one. Batches that cannot be joined (texts of different lengths) are cut one by one, and those that hold
    something else than samples are kept as given.

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
        self.samples, self.largest, self.micro_batch = sum(sizes), max(sizes), micro_batch
        self._batches, self._ends = batches, list(accumulate(sizes))
        self._joins = _fit(batches)

    def first(self, size: int) -> Any:
        """The first `size` samples as one batch, or all if there are fewer (of the first batch if they do not join)."""
        if self._joins:
            return self._between(0, min(size, self.samples))
        return pytree.tree_map_only(Tensor, lambda t: t[:size] if t.ndim else t, self._batches[0])

    def chunks(self, size: int) -> Iterator[tuple[Any, int]]:
        """Batches of at most `size` samples, as even as can be, with their sizes."""
        for begin, end in [(0, self.samples)] if self._joins else pairwise([0, *self._ends]):
            if begin == end:
                continue
            even = self._joins or _even(pytree.tree_leaves(self._batches[bisect(self._ends, begin)]))
            pieces = math.ceil((end - begin) / size) if even else 1
            bounds = [begin + (end - begin) * k // pieces for k in range(pieces + 1)]
            for start, stop in pairwise(bounds):
                yield self._between(start, stop), stop - start

    def _between(self, start: int, stop: int) -> Any:
        """These samples as one batch; views where they lie in one, and a batch itself where it is asked for whole."""
        first, last = bisect(self._ends, start), bisect(self._ends, stop - 1)
        offsets, parts = [0, *self._ends], []
        for number in range(first, last + 1):
            begin, end = max(start - offsets[number], 0), min(stop, self._ends[number]) - offsets[number]
            part = self._batches[number]
            if (begin, end) != (0, self._ends[number] - offsets[number]):
                part = pytree.tree_map_only(Tensor, lambda t, a=begin, b=end: t[a:b], part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else pytree.tree_map(lambda *column: torch.cat(column), *parts)


def _samples(batch: Any) -> int:
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise ScoreError(
        f"A scoring batch must hold a tensor whose first dimension counts samples; found {type(batch).__name__}."
    )


def _fit(batches: list[Any]) -> bool:
    """Whether all batches can be joined along their first dimension."""
    if not all(_even(pytree.tree_leaves(batch)) for batch in batches):
        return False
    flat = [pytree.tree_flatten(batch) for batch in batches]
    kinds = [(spec, [(leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves]) for leaves, spec in flat]
    return all(kind == kinds[0] for kind in kinds)


def _even(leaves: list[Any]) -> bool:
    """Whether these are tensors of the same samples."""
    tensors = all(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves)
    return tensors and len({leaf.shape[0] for leaf in leaves}) == 1


class _Tempered:
    """The model with its logits divided by a temperature: its output, or the first of a tuple of several.

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
