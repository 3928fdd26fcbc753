"""The pruner: runs a method beside any training loop. It owns the moment and the cut, nothing else of the loop."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.budget import Budget
from earlycrop.counting import Target
from earlycrop.errors import EarlyCropError, OptimizerError, VerificationError
from earlycrop.evaluation import BatchNormMode, Evaluation, Loss, MeanLoss, ScoringSet
from earlycrop.kernel import empirical_ntk
from earlycrop.methods import Method, get_method
from earlycrop.report import Check, Report, Width
from earlycrop.scores import AbstractLossScore, CropMixed, Network
from earlycrop.structure import Verification, Verifier
from earlycrop.structure.surgery import unharmed
from earlycrop.structure.trace import as_inputs
from earlycrop.timing import AbstractDetector, AbstractInstrument, Never, NtkSettled, Reason
from earlycrop.units import ChannelUnits, WeightUnits


class Pruner:
    """Prunes a model in the middle of its training, when the method says that it is time.

    Make it before training, ask it at the start of each epoch (0 is before training), and start the
    learning-rate schedule where it says that it pruned::

        pruner = Pruner(model, "earlycrop-s", sparsity=0.95, example_inputs=images[:2],
                        optimizer=optimizer, loss=loss, batches=scoring, epochs=30)
        for epoch in range(30):
            if report := pruner.check(epoch):
                print(report)
            ...  # an epoch of training as ever

    Args:
        model: The network; its channels leave in place, on the same parameters.
        method: A method or its name.
        sparsity: The part that is removed, in [0, 1).
        example_inputs: What `model(*example_inputs)` takes; a tensor is a single input.
        loss: Maps model and batch to the scalar mean loss of the batch.
        batches: The scoring set: batches from the *training* split. Not needed by methods without data.
        optimizer: Its state is cut with the model; masks are applied after its steps. If it is made later, give it
            then: `pruner.optimizer = optimizer`.
        epochs: The whole budget; a quarter of it caps how long a detector may wait.
        target: What `sparsity` counts: `weight`, `node`, `params` or `flops`.
        min_channels: What each layer keeps: channels (int) or a fraction of them (float).
        round_to: Widths are multiples of this.
        protect_layers: Each layer keeps at least its best weight (methods for weights).
        ignore: Names of modules or parameters to keep whole.
        optimizer_state: `slice` carries momentum and moments through the cut, `reset` forgets them.
        bn_mode: What batch norm does while scoring, see `MeanLoss`.
        micro_batch: Samples scored at once; None takes the largest of the given batches.
        verify: Prove after the cut that the model computes what the gated dense one did; keeps a float64 copy
            for that moment.
        seed: Where random scores start.

    Raises:
        EarlyCropError: in one of its kinds, before anything is touched: the model cannot be traced, the target
            is out of reach, the optimizer does not hold the model's weights, the scoring set is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | str,
        sparsity: float,
        *,
        example_inputs: object,
        loss: Loss | None = None,
        batches: Sequence[Any] | None = None,
        optimizer: Optimizer | None = None,
        epochs: float | None = None,
        target: Target = "weight",
        min_channels: int | float = 1,
        round_to: int = 1,
        protect_layers: bool = False,
        ignore: Sequence[str] = (),
        optimizer_state: Literal["slice", "reset"] = "slice",
        bn_mode: BatchNormMode = "auto",
        micro_batch: int | None = None,
        verify: bool = True,
        seed: int = 0,
    ) -> None:
        self.model, self._optimizer, self.epochs, self.seed = model, optimizer, epochs, seed
        self.method = method if isinstance(method, Method) else get_method(method)
        self.budget = Budget(sparsity, target, min_channels, round_to, protect_layers)
        self.report: Report | None = None
        self.curve: list[Check] = []
        self._inputs, self._verify = as_inputs(example_inputs), verify
        self._loss, self._optimizer_state = loss, optimizer_state
        self._bn_mode: BatchNormMode = bn_mode
        self._instrument: AbstractInstrument | None = None
        self._last: float | None = None
        self._warned = False
        self._rates: list[float] = []
        if isinstance(self.method.timing, Never):
            return
        for name, value, allowed in (
            ("optimizer_state", optimizer_state, ("slice", "reset")),
            ("bn_mode", bn_mode, get_args(BatchNormMode)),
        ):
            if value not in allowed:
                raise EarlyCropError(f"`{name}` is one of {allowed}; found {value!r}.")
        timing = self.method.timing
        self._set: ScoringSet | None = None
        if self.method.score.needs_data or isinstance(timing, NtkSettled):
            if loss is None:
                raise EarlyCropError(f"{self.method.name} scores with the loss: give `loss(model, batch)`.")
            self._set = ScoringSet(batches if batches is not None else [], micro_batch)
        self.units = self.method.units.of(model, self._inputs, None, tuple(ignore))
        if isinstance(self.units, ChannelUnits) and isinstance(self.method.score, AbstractLossScore | CropMixed):
            self.units.check_gates(batch_statistics=bn_mode == "batch")
        self.optimizer = optimizer
        self.units.choose(self.budget, torch.zeros_like(self.units.units.values), self.method.allocation)
        if isinstance(timing, AbstractDetector):
            self._instrument = timing.instrument(self)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that goes with the model."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        if not isinstance(self.method.timing, Never):
            self._check_optimizer(optimizer)
            # masks are applied after its steps in any case; only a cut may do without its state
            masks = isinstance(self.units, WeightUnits)
            self.units.optimizer = optimizer if masks or self._optimizer_state == "slice" else None
            if isinstance(self.units, WeightUnits) and self.pruned:
                self.units.hold()
        self._optimizer = optimizer

    @property
    def pruned(self) -> bool:
        """Whether it has pruned."""
        return self.report is not None

    @property
    def done(self) -> bool:
        """Whether nothing more will leave: it has pruned, or never will."""
        return self.pruned or isinstance(self.method.timing, Never)

    def check(self, epoch: float) -> Report | None:
        """Look, and prune if it is time; call it with 0 before training, then after every epoch (or part of one).

        Args:
            epoch: Epochs finished; a fraction such as `step / steps_per_epoch` to look more often.

        Returns:
            The report at the call that prunes, else None.

        Raises:
            ScoreError: the loss or the scores are not finite; the model is as it was.
            VerificationError: the cut was not exact; the model is as it was.
        """
        if self.done:
            return None
        timing = self.method.timing
        if isinstance(timing, AbstractDetector) and timing.due(epoch, self._last):
            self._look(timing, epoch)
        reason = timing.reason(epoch, self.epochs, [check.value for check in self.curve], self.budget.sparsity)
        return None if reason is None else self._prune(epoch, reason)

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors: what was seen, what left, and the report."""
        return {
            "method": repr(self.method),
            "budget": repr(self.budget),
            "seed": self.seed,
            "bn_mode": self._bn_mode,
            "curve": [asdict(check) for check in self.curve],
            "last": self._last,
            "rates": self._rates,
            "warned": self._warned,
            "instrument": None if self._instrument is None else self._instrument.state_dict(),
            "units": None if isinstance(self.method.timing, Never) else self.units.state_dict(),
            "report": None if self.report is None else asdict(self.report),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, on the dense network built anew.

        Load this first (it cuts or masks the model), then the model's and the optimizer's own states. Loss, scoring set
        and epochs are those that this pruner was made with.

        Raises:
            EarlyCropError: the state is of another method, budget, seed, mode of batch norm or network.
        """
        for name, mine in (
            ("method", repr(self.method)),
            ("budget", repr(self.budget)),
            ("seed", self.seed),
            ("bn_mode", self._bn_mode),
        ):
            if state.get(name) != mine:
                raise EarlyCropError(f"This state is of another {name}: {state.get(name)}, here it is {mine}.")
        report = None if state["report"] is None else Report.from_dict(state["report"])
        curve = [Check(**check) for check in state["curve"]]
        if state["units"] is not None:
            with self._all_or_nothing():
                self.units.load_state_dict(state["units"])
        self.report, self.curve, self._last = report, curve, state["last"]
        self._rates, self._warned = list(state["rates"]), state["warned"]
        if report is not None:
            self._instrument = None
        elif self._instrument is not None:
            self._instrument.load_state_dict(state["instrument"])

    # The scene that instruments look at ---------------------------------------------------------------

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The parameters as they are now, by name."""
        names = None if which == "all" else set(self.units.weights.names)
        return {name: p for name, p in self.model.named_parameters() if names is None or name in names}

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        return self.units.choose(self.budget, self.scores(), self.method.allocation)

    def kernel(self, samples: int) -> Tensor:
        """The empirical neural tangent kernel now, on the first samples of the scoring set."""
        return empirical_ntk(self._mean_loss(), list(self.parameters("all").values()), samples)

    def scores(self) -> Tensor:
        """What each unit is worth now; nothing is changed."""
        score = self.method.score
        if isinstance(score, AbstractLossScore):
            return score(Evaluation(self._mean_loss(), self.units.units))
        units = self.units
        return score(
            Network(self.model, self._inputs, self._mean_loss, units.weights, units.units, units.made_of, self.seed)
        )

    # The cut ------------------------------------------------------------------------------------------

    def _mean_loss(self) -> MeanLoss:
        assert self._set is not None
        assert self._loss is not None
        return MeanLoss(self.model, self._loss, self._set, self._bn_mode)

    def _look(self, timing: AbstractDetector, epoch: float) -> None:
        assert self._instrument is not None
        value = self._instrument.read(epoch)
        self._last = epoch  # not before: a look that fails can be had again
        if value is None:
            return
        rates = [] if self.optimizer is None else [float(group["lr"]) for group in self.optimizer.param_groups]
        last, self._rates = self._rates, rates
        if not self._warned and any(a != b for a, b in zip(last, rates, strict=False)):
            self._warned = True
            before, now = next(pair for pair in zip(last, rates, strict=False) if pair[0] != pair[1])
            warnings.warn(
                f"The learning rate moved from {before:g} to {now:g} before {self.method.name} pruned: its rule then "
                f"sees the schedule, not the network. Hold it constant until the report.",
                stacklevel=3,
            )
        signal = timing.signal([*(check.value for check in self.curve), value])[-1]
        self.curve.append(Check(epoch, value, signal, timing.threshold(self.budget.sparsity), next(iter(rates), None)))

    def _prune(self, epoch: float, reason: Reason) -> Report:
        started = time.perf_counter()
        units, method = self.units, self.method
        before, widths = units.counts(), units.widths()
        with self._all_or_nothing():
            verifier = None
            if isinstance(units, ChannelUnits) and self._verify and units.structure.program is not None:
                verifier = Verifier(units.structure, self.model, self._inputs)
            for sparsity in method.steps.towards(self.budget.sparsity):
                keep = units.choose(self.budget.at(sparsity), self.scores(), method.allocation)
                units.keep_only(keep)
            if self._optimizer_state == "reset" and self.optimizer is not None:
                self.optimizer.state.clear()
            verification = None if verifier is None else self._verified(verifier.compare(self.model, units.keep))
        self.report = Report(
            method=method.name,
            unit="channels" if isinstance(units, ChannelUnits) else "weights",
            target=self.budget.target,
            requested_sparsity=self.budget.sparsity,
            epoch=epoch,
            reason=reason,
            seconds=time.perf_counter() - started,
            samples=self._set.samples if self._set is not None else 0,
            before=before,
            after=units.counts(),
            widths=tuple(Width(name, b, a) for (name, b), (_, a) in zip(widths, units.widths(), strict=True)),
            frozen=units.frozen,
            collapsed=tuple(units.collapsed()),
            verification=verification,
            curve=tuple(self.curve),
        )
        self._instrument = None  # it has seen enough, and θ(0) is as large as the dense network
        return self.report

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If anything fails, model, optimizer and units are as before."""
        restore: Callable[[], None] = self.units.snapshot()
        try:
            with unharmed(self.model, self.optimizer):
                yield
        except BaseException:
            restore()
            raise

    def _verified(self, verification: Verification) -> Verification:
        if not verification.exact:
            raise VerificationError(
                f"The cut network does not compute what the gated one does: outputs differ by "
                f"{verification.max_error:.1e} of the largest (allowed {verification.tolerance:.0e}). The model is as "
                f"it was. Please report the network; meanwhile keep the part that differs whole with `ignore=`, or "
                f"pass `verify=False` if its outputs are random by design."
            )
        return verification

    def _check_optimizer(self, optimizer: Optimizer | None) -> None:
        """The optimizer must hold what will be cut."""
        if optimizer is None:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [
            name
            for name in self.units.weights.names
            if (parameter := self.model.get_parameter(name)).requires_grad and id(parameter) not in held
        ]
        if missing:
            raise OptimizerError(
                f"The optimizer does not hold {len(missing)} of the model's prunable weights, `{missing[0]}` first. "
                f"Make it from this model's parameters (after moving the model to its device), or freeze those "
                f"weights with `requires_grad_(False)`."
            )
