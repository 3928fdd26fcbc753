"""The pruner: runs a method beside any training loop. It owns the moment and the cut, nothing else of the loop."""

import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_iter

from earlycrop.allocation import within
from earlycrop.budget import Budget, check_scores
from earlycrop.costs import AbstractCost, Target
from earlycrop.distributed import checksums, grouped, ranks_of
from earlycrop.errors import EarlyCropError, OptimizerError, VerificationError
from earlycrop.evaluation import BatchNormMode, Evaluation, Loss, MeanLoss, ScoringSet
from earlycrop.harvest import HarvestReport, harvest_units
from earlycrop.kernel import empirical_ntk
from earlycrop.methods import Method, get_method
from earlycrop.plan import Plan, candidates, rows_of
from earlycrop.regime import Regimes
from earlycrop.report import Check, Report, Width
from earlycrop.scores import (
    AbstractGatheredScore,
    AbstractGathering,
    AbstractLossScore,
    AbstractNetworkScore,
    CropMixed,
    GateDecorator,
    Network,
)
from earlycrop.starvation import StarvationWarning, remaining, variation
from earlycrop.steps import partway
from earlycrop.structure import Verification, Verifier, names_of
from earlycrop.structure.surgery import rebind, unharmed
from earlycrop.structure.walk import tensors_of
from earlycrop.timing import (
    AbstractCourse,
    AbstractDetector,
    AbstractInstrument,
    Never,
    NtkSettled,
    Reason,
    Regime,
    Rewinding,
)
from earlycrop.units import ChannelUnits, WeightUnits
from earlycrop.widths import Allocation, WidthsOf


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
        model: The network; its channels leave in place, on the same parameters. What `torch.compile` made is
            taken for the module inside it.
        method: A method or its name.
        sparsity: The part that is removed, in [0, 1).
        example_inputs: What `model(*example_inputs)` takes; a tensor is a single input.
        loss: Maps model and batch to the scalar mean loss of the batch.
        batches: The scoring set: batches from the *training* split, or a function that gives them where the data
            change with training (transitions of the policy as it is, a stream). It is asked once for each call that
            scores, however often that scores; let it begin with the same samples, for `NtkSettled` compares kernels
            on them. Not needed by methods without data.
        optimizer: Its state is cut with the model; masks are applied after its steps. If it is made later, give it
            then: `pruner.optimizer = optimizer`.
        epochs: The whole budget; a quarter of it caps how long a detector may wait.
        target: What `sparsity` counts: `weight`, `node`, `params` or `flops`; or a cost of your own, see `costs.py`.
        min_channels: What each layer keeps: channels (int) or a fraction of them (float); the method's own if not
            said, which is one, and a tenth for `gate-decorators`.
        round_to: Widths are multiples of this.
        protect_layers: Each layer keeps at least its best weight (methods for weights).
        ignore: Names of modules or parameters to keep whole.
        together: Tuples of layers: output channel i of one leaves with channel i of the others.
        copies: Models with the same parameter names (averages of the weights, an `AveragedModel`, a deep copy):
            they are cut or masked with the model, all of them or none.
        optimizer_state: `slice` carries momentum and moments through the cut, `reset` forgets them.
        bn_mode: What batch norm does while scoring, see `MeanLoss`; `auto` leaves it to the method.
        micro_batch: Samples scored at once; None: a quarter of the largest given batch, at most 32, see `MeanLoss`.
        verify: Prove after the cut that the model computes what the gated dense one did; keeps a float64 copy
            for that moment.
        seed: Where random scores start.
        group: Where several processes train this model together, each with a part of the data: their process group,
            `torch.distributed.group.WORLD` usually. The scoring set then is the union of all `batches`, and every
            rank cuts the same; all of them call the same methods of the pruner. "alone" if the other processes have
            nothing to do with this one.

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
        batches: Sequence[Any] | Callable[[], Sequence[Any]] | None = None,
        optimizer: Optimizer | None = None,
        epochs: float | None = None,
        target: Target | AbstractCost = "weight",
        min_channels: int | float | None = None,
        round_to: int = 1,
        protect_layers: bool = False,
        ignore: Sequence[str] = (),
        together: Sequence[Sequence[str]] = (),
        copies: Sequence[nn.Module] = (),
        optimizer_state: Literal["slice", "reset"] = "slice",
        bn_mode: BatchNormMode = "auto",
        micro_batch: int | None = None,
        verify: bool = True,
        seed: int = 0,
        group: object = None,
    ) -> None:
        self.model = model = bare(model)
        self._ranks = ranks_of(group)
        self._optimizer, self.epochs, self.seed = optimizer, epochs, seed
        self.method = method if isinstance(method, Method) else get_method(method)
        least = self.method.min_channels if min_channels is None else min_channels
        self.budget = Budget(sparsity, target, least, round_to, protect_layers)
        self.report: Report | None = None
        self.cuts = 0
        self.curve: list[Check] = []
        self._loss, self._optimizer_state, self._verify = loss, optimizer_state, verify
        self._bn_mode: BatchNormMode = self.method.bn_mode if bn_mode == "auto" else bn_mode
        self._widths: Tensor | None = None
        self._instrument: AbstractInstrument | None = None
        self._last: float | None = None
        self._warned = False
        self._rates: list[float] = []
        self._early: dict[str, Tensor] | None = None
        self._gathering: AbstractGathering | None = None
        self._batches, self._micro_batch, self._busy = batches, micro_batch, False
        self._set: ScoringSet | None = None
        for name, value, allowed in (
            ("optimizer_state", optimizer_state, ("slice", "reset")),
            ("bn_mode", bn_mode, get_args(BatchNormMode)),
        ):
            if value not in allowed:
                raise EarlyCropError(f"`{name}` is one of {allowed}; found {value!r}.")
        if self._ranks.size > 1:
            said = {"method": self.method, "budget": self.budget, "seed": seed, "bn_mode": bn_mode, "epochs": epochs}
            self._ranks.compare(
                {name: repr(value) for name, value in said.items()} | checksums(model.named_parameters())
            )
        timing = self.method.timing
        if isinstance(timing, AbstractCourse):
            if epochs is None:
                raise EarlyCropError(
                    f"{self.method.name} prunes at moments that follow from the budget: give `epochs`."
                )
            timing.total(epochs, self._moments)  # complains of a budget that is too short
        coupled = tuple(map(tuple, together)) if self._moments else ()
        self.units = self.method.units.of(model, example_inputs, None, names_of(ignore), coupled)
        self.units.copies = tuple(_copy_of(model, bare(copy)) for copy in copies)
        self._regimes = Regimes(model, self.units.copies)
        self.optimizer = optimizer
        if self._moments:
            self._check_method()
        if isinstance(timing, AbstractDetector):
            self._instrument = timing.instrument(self)
        self._gather()

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that goes with the model."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        self._check_optimizer(optimizer)
        # masks are applied after its steps in any case; only a cut may do without its state
        masks = isinstance(self.units, WeightUnits)
        self.units.optimizer = optimizer if masks or self._optimizer_state == "slice" else None
        if isinstance(self.units, WeightUnits) and self.pruned:
            self.units.hold()
        self._optimizer = optimizer

    @property
    def pruned(self) -> bool:
        """Whether it has pruned, once at least."""
        return self.report is not None

    @property
    def done(self) -> bool:
        """Whether nothing more will leave: it has pruned for the last time, or never will."""
        return self.cuts == self._moments

    @property
    def total_epochs(self) -> float | None:
        """All epochs that the method trains; more than the budget where each round is a training of its own."""
        return None if self.epochs is None else self.method.total_epochs(self.epochs, self.budget.sparsity)

    def check(self, epoch: float) -> Report | None:
        """Look, and prune if it is time; call it with 0 before training, then after every epoch (or part of one).

        Args:
            epoch: Epochs finished; a fraction such as `step / steps_per_epoch` to look more often.

        Returns:
            The report at a call that prunes, else None. Most methods prune once; `done` says whether that was all.

        Raises:
            ScoreError: the loss or the scores are not finite; the model is as it was.
            VerificationError: the cut was not exact; the model is as it was.
            RankError: that, or something else, happened on another rank; the model is as it was.
        """
        with torch.inference_mode(False), self._together():  # what is made in inference mode can never be trained
            report = None if self.done else self._check(epoch)
            if self._gathering is not None and report is None:
                self._gathering.reset()
            regime = self.method.timing.regime(epoch, self.epochs, self._moments)
            self._regimes.enter(regime, anew=report is not None)
        if report is not None and report.complaint is not None:
            warnings.warn(report.complaint, StarvationWarning, stacklevel=2)
        return report

    def dry_run(self) -> Plan:
        """What would leave if the moment were now: scored, cut, counted, and all of it undone.

        Raises:
            EarlyCropError: there is nothing left to plan; or what `check` raises.
        """
        if self.done or self.pruned:
            why = "has pruned already" if self.pruned else "never prunes"
            raise EarlyCropError(f"{self.method.name} {why}, so there is nothing to plan: ask before the cut.")
        before, widths, plan = self.units.counts(self.budget.cost), self.units.widths(), None
        with torch.inference_mode(False), self._together(), suppress(_Undone), self._untouched():
            units, dense = self.units, self._variation()
            worth = self._leave(self.targets)
            plan = Plan(
                method=self.method.name,
                unit=self._unit,
                target=self.budget.cost.name,
                requested_sparsity=self.budget.sparsity,
                samples=self._samples,
                before=before,
                after=units.counts(self.budget.cost),
                rows=rows_of(units, widths, worth),
                frozen=units.frozen,
                classes=candidates(units.dense, units.keep, worth) if isinstance(units, ChannelUnits) else (),
                variation=remaining(dense, self._variation()),
            )
            raise _Undone
        assert plan is not None
        return plan

    def harvest(self) -> HarvestReport:
        """After the last weights have left: channels that the masks emptied leave too; the masks go on with the rest.

        Model, optimizer and copies are cut on the same parameters; `state_dict` remembers it.

        Raises:
            EarlyCropError: more weights will leave, channels left already, or it was harvested before.
            VerificationError: the harvested outputs differ from the masked ones. All is as it was.
        """
        units = self.units
        if not isinstance(units, WeightUnits) or not self.pruned or not self.done or units.left is not None:
            why = (
                f"{self.method.name} removes no single weights"
                if not isinstance(units, WeightUnits)
                else "it has pruned nothing yet"
                if not self.pruned
                else f"more weights will leave after this cut, {self.cuts} of {self._moments}"
                if not self.done
                else "it was harvested already"
            )
            raise EarlyCropError(
                f"Cannot harvest: {why}. Call it once, after the last cut (`pruner.done`) of a method for weights."
            )
        with torch.inference_mode(False), self._ranks.together():
            self._compare()
            self._ranks.share(self.model.buffers())  # what is dead depends on them
            with self._all_or_nothing():
                if self._optimizer_state == "reset" and self.optimizer is not None:
                    self.optimizer.state.clear()
                report = harvest_units(units)
                self._ranks.meet("the end of the harvest")
            return report

    def _check(self, epoch: float) -> Report | None:
        self._compare()
        timing = self.method.timing
        self._take_widths()
        if isinstance(timing, Rewinding) and self._early is None and epoch >= timing.to - 1e-9:
            self._early = {name: tensor.detach().clone() for name, tensor in tensors_of(self.model)}
        if isinstance(timing, AbstractCourse):
            assert self.epochs is not None
            moments, report = timing.moments(self.epochs, self._moments), None
            while self.cuts < len(moments) and epoch >= moments[self.cuts] - 1e-9:
                report = self._prune(epoch, "round")
            return report
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
            "units": self.units.state_dict() if self._moments else None,
            "report": None if self.report is None else asdict(self.report),
            "cuts": self.cuts,
            "early": self._early,
            "widths": self._widths,
            "regime": asdict(self._regimes.now),
            "gathering": None if self._gathering is None else self._gathering.state_dict(),
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
        self.report, self.curve, self._last, self.cuts = report, curve, state["last"], state["cuts"]
        self._rates, self._warned, self._early = list(state["rates"]), state["warned"], state["early"]
        self._widths = state.get("widths")
        self._regimes.enter(Regime(**state["regime"]), anew=True)
        self._gather()
        if self._gathering is not None:
            self._gathering.load_state_dict(state["gathering"])
        if report is not None:
            self._instrument = None
        elif self._instrument is not None:
            self._instrument.load_state_dict(state["instrument"])

    def held(self) -> Iterator[Tensor]:
        """Every tensor that it keeps from step to step beside the model and the optimizer.

        θ(0) while a rule watches, masks, weights to rewind to, sums over steps: training needs memory for these too.
        """
        parts = [each.state_dict() for each in (self._instrument, self._gathering) if each is not None]
        yield from (leaf for leaf in tree_iter([self._early, *parts]) if isinstance(leaf, Tensor))
        if isinstance(self.units, WeightUnits):
            yield from self.units.held()

    # The scene that instruments look at ---------------------------------------------------------------

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The parameters as they are now, by name."""
        names = None if which == "all" else set(self.units.weights.names)
        return {name: p for name, p in self.model.named_parameters() if names is None or name in names}

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        with self._together():
            self._take_widths()
            return self._chosen(self.budget.sparsity, self.scores(), self.method.allocation)

    def kernel(self, samples: int, most: int | None = None) -> Tensor:
        """The empirical neural tangent kernel of what is left now, on the first samples of the scoring set.

        Of more than `most` outputs so many are taken, spread evenly.
        """
        masks = self.units.masks() if isinstance(self.units, WeightUnits) else {}
        parameters = self.parameters("all")
        closed = [masks.get(name) for name in parameters]
        with self._together():  # of the function that is trained, whatever norms do for the score
            return empirical_ntk(self._mean_loss("auto"), list(parameters.values()), samples, closed, most)

    def scores(self) -> Tensor:
        """What each unit is worth now; nothing is changed."""
        with self._together():
            return self._scores(self._gathered())

    # The cut ------------------------------------------------------------------------------------------

    def _scores(self, gathered: Tensor | None, by: AbstractLossScore | AbstractNetworkScore | None = None) -> Tensor:
        score, units = by or self.method.score, self.units
        if isinstance(score, AbstractLossScore):
            scores = units.per_class(score(Evaluation(self._mean_loss(), units.units)))
        else:
            scores = units.per_class(score(self._network(gathered)))
        self._ranks.share([scores])  # not all are sums over ranks, and the last bit may decide
        return scores

    def _chosen(self, sparsity: float, scores: Tensor, allocation: Allocation) -> Tensor:
        """True for each unit that stays at that sparsity."""
        if not isinstance(allocation, WidthsOf):
            return self.units.choose(self.budget.at(sparsity), scores, allocation)
        check_scores(scores)
        widths = self._widths_of(allocation, sparsity) if self._widths is None else self._widths
        alive = self.units.alive  # what left before has no score: a score that is negative would have it back
        return within(scores.cpu().masked_fill(~alive, -torch.inf), self.units.layer, widths)

    def _take_widths(self) -> None:
        """At the first look, where another scoring decides the widths then."""
        allocation = self.method.allocation
        if isinstance(allocation, WidthsOf) and allocation.taken == "first" and self._widths is None:
            self._widths = self._widths_of(allocation, self.budget.sparsity)

    def _widths_of(self, allocation: WidthsOf, sparsity: float) -> Tensor:
        """How many units of each layer another scoring leaves at that sparsity; its cuts are undone."""
        layer, kept, alive = self.units.layer, self.units.alive, self.units.keep.clone()
        with suppress(_Undone), self._plainly(), self._untouched():
            self._leave(allocation.steps.towards(sparsity), allocation)
            kept = self.units.keep[alive].cpu() if isinstance(self.units, ChannelUnits) else self.units.keep.cpu()
            raise _Undone
        return torch.bincount(layer[kept], minlength=int(layer.max()) + 1)

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Within it units may leave; all of it is undone if it ends in an error, as it must.

        In a process group they leave a copy: DistributedDataParallel loses a parameter that is cut, even if that is
        undone. Elsewhere no copy of the model has to fit into memory.
        """
        if not grouped():
            with self._all_or_nothing():
                yield
            return
        model, units = self.model, self.units
        try:
            self.model = copy.deepcopy(model)
            self.units = units.on(self.model)
            yield
        finally:
            self.model, self.units = model, units

    def _gathered(self) -> Tensor | None:
        """What the score has gathered from training: the mean over ranks."""
        total = None if self._gathering is None else self._gathering.total
        return None if total is None else self._ranks.sum(total) / self._ranks.size

    def _compare(self) -> None:
        """All ranks must have the same parameters still."""
        if self._ranks.size > 1:
            self._ranks.compare(checksums(self.model.named_parameters()))

    @property
    def targets(self) -> list[float]:
        """The sparsities on the way to the one that was asked for: it scores anew for each."""
        return self.method.steps.towards(self.budget.sparsity)

    @property
    def _moments(self) -> int:
        """How often units leave: never, at each step in a training of its own, or in all steps at one moment."""
        if isinstance(self.method.timing, Never):
            return 0
        return len(self.targets) if isinstance(self.method.timing, AbstractCourse) else 1

    def _network(self, gathered: Tensor | None = None) -> Network:
        units = self.units
        return Network(
            model=self.model,
            example_inputs=units.example_inputs,
            loss=self._mean_loss,
            weights=units.weights,
            units=units.units,
            made_of=units.made_of,
            scales=units.scales,
            readers=units.readers,
            seed=self.seed,
            gathered=gathered,
        )

    def _gather(self) -> None:
        """Watch training anew, where the score is gathered from it, until nothing more will leave."""
        if self._gathering is not None:
            self._gathering.close()
        watch = isinstance(self.method.score, AbstractGatheredScore) and not self.done
        self._gathering = self.method.score.gather(self._network()) if watch else None  # type: ignore[union-attr]

    def _mean_loss(self, bn_mode: BatchNormMode | None = None) -> MeanLoss:
        assert self._loss is not None
        self._set = self._set or self._scoring_set()
        return MeanLoss(self.model, self._loss, self._set, bn_mode or self._bn_mode, ranks=self._ranks)

    def _scoring_set(self) -> ScoringSet:
        batches = self._batches() if callable(self._batches) else self._batches
        return ScoringSet(self._ranks.union(batches if batches is not None else []), self._micro_batch)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """All ranks, on one scoring set; if it changes, it is not that of the call before."""
        outer, self._busy = self._busy, True
        try:
            with self._ranks.together():
                yield
        finally:
            self._busy = outer
            if not outer and callable(self._batches):
                self._set = None

    def _look(self, timing: AbstractDetector, epoch: float) -> None:
        assert self._instrument is not None
        value = self._ranks.first(self._instrument.read(epoch))  # the last bit may decide
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
        units, method, alive = self.units, self.method, self.units.keep
        before, widths = units.counts(self.budget.cost), units.widths()
        if self.report is not None:  # what earlier cuts removed counts too
            before, widths = self.report.before, [(width.layer, width.before) for width in self.report.widths]
        course = isinstance(method.timing, AbstractCourse)
        with self._plainly(), self._all_or_nothing():
            verifier = unverified = None
            if isinstance(units, ChannelUnits) and self._verify:
                if units.structure.graph is None:
                    units.retrace()
                if units.structure.graph is not None:
                    verifier = Verifier(units.structure, self.model, units.example_inputs)
                else:
                    unverified = "the graph of what the last cut left couples other channels, so nothing was compared"
            dense = self._variation()
            self._leave([self.targets[self.cuts]] if course else self.targets)
            rewound = isinstance(method.timing, Rewinding)
            if (rewound or self._optimizer_state == "reset") and self.optimizer is not None:
                self.optimizer.state.clear()
            left = units.keep[alive]
            verification = None if verifier is None else self._verified(verifier.compare(self.model, left))
            report = Report(
                method=method.name,
                unit=self._unit,
                target=self.budget.cost.name,
                requested_sparsity=self.budget.sparsity,
                epoch=epoch,
                reason=reason,
                seconds=time.perf_counter() - started,
                samples=self._samples,
                before=before,
                after=units.counts(self.budget.cost),
                widths=tuple(Width(name, b, a) for (name, b), (_, a) in zip(widths, units.widths(), strict=True)),
                frozen=units.frozen,
                collapsed=tuple(units.collapsed()),
                verification=verification,
                curve=tuple(self.curve),
                unverified=unverified,
                variation=remaining(dense, self._variation()),
            )
            self._ranks.meet("the end of the cut")
        self.report = report
        self.cuts += 1
        self._gather()
        self._instrument = None  # it has seen enough, and θ(0) is as large as the dense network
        self._early = None if self.done else self._early
        return report

    def _leave(self, sparsities: Sequence[float], ranking: Method | WidthsOf | None = None) -> Tensor:
        """Score and let units leave, step by step; the last score of each unit that there was before.

        Args:
            sparsities: On the way.
            ranking: The score, its steps and how the budget is shared; the method's own by default.
        """
        units, ranking = self.units, ranking or self.method
        channels = isinstance(units, ChannelUnits)
        count = int(units.keep.sum()) if channels else units.keep.numel()
        worth, place = torch.zeros(count, dtype=torch.float64), torch.arange(count)
        gathered = self._gathered()
        ahead = list(sparsities)
        while ahead:
            scores = self._scores(gathered, ranking.score)
            keep = self._chosen(ahead[0], scores, ranking.allocation)
            if ranking.steps.most is None or torch.equal(step := self._step(keep, scores, ranking.steps.most), keep):
                del ahead[0]
            else:
                keep = step
            if channels:
                worth[place] = scores.detach().cpu().double()
                place = place[keep.cpu()]
                gathered = None if gathered is None else gathered[keep.to(gathered.device)]
            else:
                worth = torch.where(units.keep.cpu(), scores.detach().cpu().double(), worth)
            if self._early is not None:
                for name, tensor in tensors_of(self.model):
                    rebind(tensor, self._early[name].to(tensor).clone())
            units.keep_only(keep)
        return worth

    def _step(self, keep: Tensor, scores: Tensor, most: float) -> Tensor:
        """The part of the way to `keep` for which the scores are trusted."""
        alive, step = self.units.alive, keep.clone()
        part = partway(keep.cpu()[alive], scores.detach().cpu()[alive], self.units.layer[alive], most)
        step[alive.to(step.device)] = part.to(step.device)
        return step

    def _variation(self) -> float | None:
        """How far outputs differ between samples, where the method has data and weights stay as they are."""
        with_data = any(one.needs_data for one in self.method.scores) and not isinstance(self.method.timing, Rewinding)
        return variation(self._mean_loss()) if with_data else None

    @property
    def _unit(self) -> str:
        return "channels" if isinstance(self.units, ChannelUnits) else "weights"

    @property
    def _samples(self) -> int:
        return self._set.samples if self._set is not None else 0

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Within it nothing is frozen or gated, as it was when the network was traced; so it stays if all goes well."""
        regime = self._regimes.now
        self._regimes.enter(Regime())
        try:
            yield
        except BaseException:
            self._regimes.enter(regime)
            raise

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If anything fails, model, optimizer, copies and units are as before."""
        restore: Callable[[], None] = self.units.snapshot()
        try:
            with ExitStack() as stack:
                for copy in self.units.copies:
                    stack.enter_context(unharmed(copy, None))
                stack.enter_context(unharmed(self.model, self.optimizer))
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

    def _check_method(self) -> None:
        """The method must have its data, this model what is scored, and the target be in reach."""
        score, units = self.method.score, self.units
        needs_data = any(one.needs_data for one in self.method.scores)
        if needs_data or isinstance(self.method.timing, NtkSettled):
            if self._loss is None:
                raise EarlyCropError(f"{self.method.name} scores with the loss: give `loss(model, batch)`.")
            if not callable(self._batches):
                self._set = self._scoring_set()
        if isinstance(score, AbstractNetworkScore) and score.needs_norms and not units.scales.names:
            raise EarlyCropError(
                f"{self.method.name} ranks channels by their norms, and this {type(self.model).__name__} has no norm "
                f"with a scale behind a channel that can leave. Choose a method that looks at weights or at the loss."
            )
        gates = AbstractLossScore | CropMixed | GateDecorator
        if isinstance(units, ChannelUnits) and any(isinstance(one, gates) for one in self.method.scores):
            units.check_gates(batch_statistics=self._bn_mode == "batch")
        allocation = self.method.allocation
        if isinstance(allocation, WidthsOf):
            allocation = allocation.allocation
        units.choose(self.budget, units.per_class(torch.zeros_like(units.units.values)), allocation)

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


class _Undone(Exception):
    """Ends a dry run, so that all of it is put back."""


def bare(model: nn.Module) -> nn.Module:
    """The module that holds the parameters: inside what `torch.compile` or `AveragedModel` made.

    Raises:
        EarlyCropError: the model is wrapped for several devices, whose buckets and shards hold old shapes.
    """
    if isinstance(inner := model._modules.get("_orig_mod"), nn.Module):  # torch.compile's
        return bare(inner)
    if isinstance(model, AveragedModel):
        return bare(model.module)
    wrappers = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    sharded = sys.modules.get("torch.distributed.fsdp")  # loaded wherever something is sharded
    wrappers += [
        getattr(sharded, name) for name in ("FullyShardedDataParallel", "FSDPModule") if hasattr(sharded, name)
    ]
    for name, module in model.named_modules():
        if isinstance(module, tuple(wrappers)):
            raise EarlyCropError(
                f"{f'`{name}`' if name else 'The model'} is wrapped by {type(module).__name__}, which remembers the "
                f"old shapes. Give the module inside, with the process group as `group`; after the cut wrap it anew, "
                f"with a new optimizer where parameters were sharded."
            )
    return model


def _copy_of(model: nn.Module, copy: nn.Module) -> nn.Module:
    """A model that can be cut with another: the same names and shapes, and parameters of its own."""
    mine, theirs = dict(tensors_of(model)), dict(tensors_of(copy))
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (mine, theirs)]
    if shapes[0] != shapes[1]:
        name = next(name for name in [*mine, *theirs] if shapes[0].get(name) != shapes[1].get(name))
        raise EarlyCropError(
            f"One of `copies` is not a copy of the model: `{name}` is {shapes[0].get(name, 'missing')} in the model "
            f"and {shapes[1].get(name, 'missing')} in the copy. Make it before the cut, from this model."
        )
    shared = next((name for name, tensor in mine.items() if tensor is theirs[name]), None)
    if shared is not None:
        raise EarlyCropError(f"One of `copies` holds the model's own `{shared}`: it is cut with the model anyway.")
    return copy
