"""The pruner: runs a method beside any training loop. It owns the moment and the cut, and nothing else of the loop.

Scorer   what each unit is worth      (scoring.py: loss, scoring set, norms)
Removal  which units leave            (removal.py: widths, choice, steps)
Watch    when the moment comes        (watching.py: a detector's looks)
Phases   what is asked of training    (phases.py: frozen layers, penalties)
log      what has happened            (logs/: looks, cuts, epochs)
units    what leaves, and how         (units/)
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.adopting import (
    Closed,
    bare,
    check_epoch,
    check_epochs,
    check_given,
    check_method,
    check_optimizer_state,
    check_optimizers,
    check_ranks,
    check_state,
    copy_of,
)
from earlycrop.budget import Budget
from earlycrop.counting import Counts
from earlycrop.deprecated import regrouped
from earlycrop.distributed import ranks_of
from earlycrop.errors import EarlyCropError, VerificationError
from earlycrop.harvesting import HarvestReport, harvest_units, ripe
from earlycrop.logs import Log
from earlycrop.logs.announcing import announce, check_log
from earlycrop.methods import Method, get_method
from earlycrop.phases import Phases
from earlycrop.plan import Plan, findings, plan_of
from earlycrop.removal import Removal
from earlycrop.report import Check, Report, Rescaled, Width
from earlycrop.rescaling import scale_of
from earlycrop.scoring import Scorer, Scoring
from earlycrop.sensitivity import USUAL, Measure, Progress, Sensitivity, named, probed
from earlycrop.starvation import remaining
from earlycrop.structure import Verification, names_of
from earlycrop.timing import Now, Phase, Reason
from earlycrop.units import AbstractUnits
from earlycrop.watching import Watch


class Pruner(Closed):
    """Prunes a model in the middle of its training, at the moment that the method chooses.

    Create it before training, call `check` at the start of each epoch (0 is before training), and start the
    learning-rate schedule when `check` returns a report::

        pruner = Pruner(model, "earlycrop-s", 0.95, example_inputs=images[:2],
                        scoring=Scoring(loss, batches), optimizer=optimizer, epochs=30)
        for epoch in range(30):
            if report := pruner.check(epoch):
                print(report)
            ...  # an epoch of training as usual

    Args:
        model: The network; its channels leave in place, on the same parameters. For a model from `torch.compile`, the
            module inside it is pruned.
        method: A method or its name.
        budget: The part of the weights that is removed, in [0, 1); or a `Budget`, which also states what is counted
            (weights, nodes, parameters, FLOPs) and what each layer keeps.
        example_inputs: What the model takes: a tensor, a tuple of arguments, or a mapping of arguments by name.
        scoring: The loss and the scoring set; methods without data do not need it.
        optimizer: Its state is cut with the model; a list, if several share the parameters (Muon for matrices, AdamW
            for the rest). If it is made later, give it then: `pruner.optimizer = optimizer`.
        epochs: The whole budget of training; a quarter of it caps how long a detector may wait.
        ignore: Names of modules or parameters to keep whole.
        coupled: Tuples of layers: output channel i of one leaves with channel i of the others.
        copies: Models with the same parameter names (averages of the weights, an `AveragedModel`, a deep copy):
            they are cut or masked with the model, all of them or none.
        optimizer_state: `slice` carries momentum and moments through the cut, `reset` discards them.
        verify: Verify after the cut that the model computes what the gated dense one did; needs memory for a float64
            copy during the cut.
        seed: The seed of random scores.
        group: If several processes train this model together, each with a part of the data: their process group,
            usually `torch.distributed.group.WORLD`. The scoring set is then the union of all `batches`, and every rank
            makes the same cut; all of them must call the same methods of the pruner. "alone" if the other processes
            have nothing to do with this one.
        log: Receives looks and cuts, see `earlycrop.logs`; of several processes only the first one's.
        deprecated: The arguments of version 0.5 that are now fields of `Budget` and `Scoring`.

    Attributes:
        units: What may leave, and what is left.
        report: The report of the last cut, None before the first.
        cuts: How many cuts there have been.

    Raises:
        EarlyCropError: or a subclass, before anything is touched: the model cannot be traced, the target is out of
            reach, the optimizer does not hold the model's weights, the scoring set is empty.
    """

    settable = ("model", "method", "budget", "epochs", "seed", "report", "cuts", "units", "optimizer", "copies", "log")

    def __init__(
        self,
        model: nn.Module,
        method: Method | str,
        budget: Budget | float | None = None,
        *,
        example_inputs: object,
        scoring: Scoring | None = None,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        epochs: float | None = None,
        ignore: Sequence[str] = (),
        coupled: Sequence[Sequence[str]] = (),
        copies: Sequence[nn.Module] = (),
        optimizer_state: Literal["slice", "reset"] = "slice",
        verify: bool = True,
        seed: int = 0,
        group: object = None,
        log: Log | None = None,
        **deprecated: Any,
    ) -> None:
        budget, scoring, coupled = regrouped(budget, scoring, coupled, deprecated, Pruner)
        self.model = model = bare(model)
        self.method = method if isinstance(method, Method) else get_method(method)
        self.budget = budget.with_floor(self.method.min_channels)
        self.epochs, self.seed = epochs, seed
        self.report: Report | None = None
        self.cuts, self.log = 0, check_log(log)
        self._optimizer_state, self._verify = check_optimizer_state(optimizer_state), verify
        self._ranks = ranks_of(group)
        self._scorer = Scorer(scoring, self.method.bn_mode, seed, self._ranks)
        self._cuts_in_all = self.method.timing.cuts(len(self.targets))
        check_ranks(self._ranks, model, self._identity() | {"epochs": epochs, "loss": bool(scoring and scoring.loss)})
        check_epochs(self.method, self.budget, epochs)
        if self._cuts_in_all:
            check_given(model, example_inputs, names_of(ignore))
        layers, ways = (tuple(map(tuple, coupled)), self._scorer.calls(model)) if self._cuts_in_all else ((), ())
        self.units = self.method.units.of(model, example_inputs, None, names_of(ignore), layers, ways)
        if self._cuts_in_all and self._scorer.ready:
            self.units.rehearse(self._scorer.rehearsal, self._scorer.aside)
        self._phases = Phases(model, layers=self.units.layers)
        self.copies = copies
        self._removal = Removal(self.method, self.budget, self._scorer, self._phases)
        self.optimizer = optimizer
        if self._cuts_in_all:
            check_method(self.method, self.budget, self.units, self._scorer)
        self._watch = Watch(self.method.timing.detector, self, self.method.name, self._ranks)
        self._removal.watch(self.units, self.done)

    @property
    def copies(self) -> tuple[nn.Module, ...]:
        """Models with the same parameter names, cut or masked with the model; set them before the cut."""
        return self.units.copies

    @copies.setter
    def copies(self, copies: Sequence[nn.Module]) -> None:
        self.units.copies = self._phases.copies = tuple(copy_of(self.model, bare(copy)) for copy in copies)

    @property
    def optimizer(self) -> Optimizer | Sequence[Optimizer] | None:
        """The optimizer that goes with the model; several, if they share its parameters."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | Sequence[Optimizer] | None) -> None:
        self._optimizers = check_optimizers(optimizer, self.units)
        self.units.adopt(self._optimizers, carry=self._optimizer_state == "slice")
        self._optimizer = optimizer

    @property
    def pruned(self) -> bool:
        """Whether it has pruned at least once."""
        return self.report is not None

    @property
    def done(self) -> bool:
        """Whether nothing more will leave: it has pruned for the last time, or never will."""
        return self.cuts == self._cuts_in_all

    @property
    def curve(self) -> list[Check]:
        """Every look of the detector."""
        return self._watch.curve

    @property
    def targets(self) -> list[float]:
        """The sparsities on the way to the requested one; units are scored again for each."""
        return self.method.steps.towards(self.budget.highest)

    @property
    def total_epochs(self) -> float | None:
        """The total number of training epochs; more than the budget if each round of the method is a training."""
        return None if self.epochs is None else self.method.total_epochs(self.epochs, self.budget.highest)

    # The moment ---------------------------------------------------------------------------------------

    def check(self, epoch: float) -> Report | None:
        """Look, and prune if it is time; call it with 0 before training, then after every epoch (or part of one).

        Args:
            epoch: Epochs finished; may be a fraction such as `step / steps_per_epoch`, to look more often.

        Returns:
            The report if this call pruned, else None. Most methods prune once; see `done`.

        Raises:
            EarlyCropError: `epoch` is no finite number.
            ScoreError: the loss or the scores are not finite; the model is as it was.
            VerificationError: the cut was not exact; the model is as it was.
            RankError: that, or something else, happened on another rank; the model is as it was.
        """
        check_epoch(epoch)
        seen = len(self.curve)
        with torch.inference_mode(False), self._scorer.session():  # tensors made in inference mode cannot be trained
            report = None if self.done else self._check(epoch)
            if report is None:
                self._removal.start_gathering()
            if not (self.done or self.pruned or self.method.timing.needs_budget):
                self._watch.warn_of_the_end(epoch, self.epochs)
            self._phases.enter(self.method.timing.phase(epoch, self.epochs, self._cuts_in_all), report is not None)
        announce(self.log if self._ranks.rank == 0 else None, self.curve[seen:], report, self.cuts == 1)
        return report

    def _check(self, epoch: float) -> Report | None:
        check_ranks(self._ranks, self.model)
        report = None
        self._removal.remember(self.units, epoch)
        self._watch.look(epoch, self.budget.highest, self._optimizers)
        while not self.done:
            now = Now(epoch, self.epochs, self._watch.values, self.budget.highest, self.cuts, self._cuts_in_all)
            if (reason := self.method.timing.reason(now)) is None:
                break
            report = self._prune(epoch, reason)
        return report

    # The cut ------------------------------------------------------------------------------------------

    def dry_run(self) -> Plan:
        """What would leave if the moment were now: scored, cut, counted, and all of it undone.

        Raises:
            EarlyCropError: there is nothing left to plan; or any error that `check` raises.
        """
        if self.done or self.pruned:
            why = "has pruned already" if self.pruned else "never prunes"
            raise EarlyCropError(f"{self.method.name} {why}, so there is nothing to plan: ask before the cut.")
        before, widths = _before(self.units, self.budget, None)
        with torch.inference_mode(False), self._scorer.session(), self.units.tried() as units:
            whole, cuts = units.keep, []
            worth = torch.zeros(units.alive.numel(), dtype=torch.float64)
            for sparsities in self._cuts():
                places, alive = units.places(whole), units.alive
                last = torch.zeros(alive.numel(), dtype=torch.float64)
                cuts.append(self._leave(units, sparsities, last))
                worth[places] = torch.where(alive, last, worth[places])
            left = remaining(cuts[0].dense, self._scorer.variation(units.model, self.method))
            return plan_of(self.method, self.budget, units, before, widths, worth, self._scorer.samples, left)

    def sensitivity(
        self, measure: Measure | None = None, sparsities: Sequence[float] = USUAL, progress: Progress | None = None
    ) -> Sensitivity:
        """What becomes of the loss, or of any figure, when one layer alone loses its lowest-scored units; none leaves.

        Args:
            measure: Maps a copy of the model in evaluation mode to a figure, such as its accuracy on the validation
                split; it is called without gradients. None: the mean loss over the scoring set. Of several processes
                all call it, and the first one's figures count.
            sparsities: The parts of a layer's units that leave; one unit of each layer always stays.
            progress: Called with the number of measurements done and of all.

        Raises:
            EarlyCropError: there is neither `measure` nor a loss, or a sparsity is out of range.
            ScoreError: the loss or the scores are not finite.
            RankError: that, or an error of `measure`, happened on another rank; or the ranks ask differently.
        """
        with torch.inference_mode(False), self._scorer.session():
            check_ranks(self._ranks, self.model, {"the figure": named(measure), "sparsities": tuple(sparsities)})
            figure, scores = self._scorer.figure(measure, self.method.name), self._removal.scores(self.units)
            return probed(self.method, self.units, scores, named(measure), figure, sparsities, progress)

    def _prune(self, epoch: float, reason: Reason) -> Report:
        started, units = time.perf_counter(), self.units
        before, widths = _before(units, self.budget, self.report)
        with self._phases.plain(stay=True), units.all_or_nothing(*self._optimizers):
            cut = self._leave(units, self._cuts()[self.cuts])
            left = remaining(cut.dense, self._scorer.variation(units.model, self.method))
            if self._optimizer_state == "reset" or self.method.timing.rewinds_to is not None:
                _forget(self._optimizers)
            report = Report(
                **findings(self.method, self.budget, units, before, self._scorer.samples, left),
                epoch=epoch,
                reason=reason,
                widths=tuple(Width(name, b, a) for (name, b), (_, a) in zip(widths, units.widths(), strict=True)),
                collapsed=tuple(units.collapsed()),
                verification=cut.verification,
                rescaled=cut.rescaled,
                curve=tuple(self.curve),
                unverified=cut.unverified,
                seconds=time.perf_counter() - started,
            )
            self._ranks.meet("the end of the cut")
        self.report = report
        self.cuts += 1
        self._removal.watch(units, self.done)
        self._watch.close()
        return report

    def _cuts(self) -> list[list[float]]:
        """The sparsities of each cut: one step in each, or all steps in one."""
        each = self._cuts_in_all == len(self.targets)
        return [[target] for target in self.targets] if each else [self.targets]

    def _leave(self, units: AbstractUnits, sparsities: Sequence[float], worth: Tensor | None = None) -> "_Cut":
        """One cut: proved, with layers given back their scale, and a training step tried."""
        proof, unverified = units.proof() if self._verify else (None, None)
        rehearsal = self._scorer.rehearsal(units) if self.method.units.whole_channels else None
        dense = self._scorer.variation(units.model, self.method)
        rescale = scale_of(units) if self.method.rescale else tuple
        self._removal.leave(units, sparsities, worth)
        verification = None if proof is None else _exact(proof())
        rescaled = rescale()
        if rehearsal is not None:
            rehearsal.repeat()
        return _Cut(verification, unverified, rescaled, dense)

    def harvest(self) -> HarvestReport:
        """After the last cut of weights, cut the channels that the masks have emptied; the masks follow.

        Model, optimizer state and copies are cut on the same parameters; `state_dict` remembers the harvest.

        Raises:
            EarlyCropError: the method removes channels, nothing was pruned yet, more weights will leave, or the model
                was harvested already.
            VerificationError: the harvested outputs differ from the masked ones. Everything is as it was.
        """
        units = ripe(self.units, self.method.name, self.cuts, self._cuts_in_all)
        with torch.inference_mode(False), self._ranks.in_step():
            check_ranks(self._ranks, self.model)
            self._ranks.share(self.model.buffers())  # what is dead depends on them
            with units.all_or_nothing(*self._optimizers):
                if self._optimizer_state == "reset":
                    _forget(self._optimizers)
                report = harvest_units(units)
                self._ranks.meet("the end of the harvest")
            return report

    # States -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state as plain containers and tensors: what was seen, what left, and the report."""
        return {
            **self._identity(),
            **self._watch.state_dict(),
            "units": self.units.state_dict() if self._cuts_in_all else None,
            "report": None if self.report is None else asdict(self.report),
            "cuts": self.cuts,
            **self._removal.state_dict(),
            "phase": asdict(self._phases.now),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, on a newly built dense network.

        Load this first (it cuts or masks the model), then the model's and the optimizer's own states. Loss, scoring set
        and epochs are those that this pruner was created with.

        Args:
            state: What `state_dict` returned.

        Raises:
            EarlyCropError: the state is of another method, budget, seed, batch-norm mode or network.
        """
        check_state(state, self._identity())
        report = None if state["report"] is None else Report.from_dict(state["report"])
        if state["units"] is not None:
            with self.units.all_or_nothing(*self._optimizers):
                self.units.load_state_dict(state["units"])
        self.report, self.cuts = report, state["cuts"]
        self._watch.load_state_dict(state)
        self._phases.enter(Phase(**(state["phase"] if "phase" in state else state["regime"])), again=True)
        self._removal.watch(self.units, self.done)
        self._removal.load_state_dict(state)

    def _identity(self) -> dict[str, Any]:
        given = {"method": self.method.saved, "budget": repr(self.budget), "seed": self.seed}
        return given | {"bn_mode": self._scorer.bn_mode}

    def held(self) -> Iterator[Tensor]:
        """Every tensor kept from step to step besides model and optimizer: θ(0), masks, weights to rewind to, sums."""
        return chain(self._removal.held(), self._watch.held(), self.units.held())

    # What instruments look at -------------------------------------------------------------------------

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The present parameters by name: the prunable weights, or all."""
        names = None if which == "all" else set(self.units.weights.names)
        return {name: p for name, p in self.model.named_parameters() if names is None or name in names}

    def scores(self) -> Tensor:
        """The score of each unit now; nothing is changed."""
        with self._scorer.session():
            return self._removal.scores(self.units)

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        with self._scorer.session():
            return self._removal.choose(self.units)

    def kernel(self, samples: int, most: int | None = None) -> Tensor:
        """The empirical neural tangent kernel of what is left now, on the first samples of the scoring set.

        Args:
            samples: How many samples.
            most: If there are more outputs than this, that many are taken, spread evenly.

        Returns:
            K = J Jᵀ, of shape (outputs, outputs), see `kernel.empirical_ntk`.
        """
        with self._scorer.session():
            return self._scorer.kernel(self.units, samples, most)


class _Cut(NamedTuple):
    """The proof of a cut, or why there is none; the factors of weights; how the outputs varied before it."""

    verification: Verification | None
    unverified: str | None
    rescaled: tuple[Rescaled, ...]
    dense: float | None


def _before(units: AbstractUnits, budget: Budget, report: Report | None) -> tuple[Counts, list[tuple[str, int]]]:
    """The counts and widths of the dense network: what earlier cuts removed counts too."""
    if report is None:
        return units.counts(budget.cost), units.widths()
    return report.before, [(width.layer, width.before) for width in report.widths]


def _forget(optimizers: Sequence[Optimizer]) -> None:
    """Make optimizers as good as new, but for what a schedule has made of their settings."""
    for optimizer in optimizers:
        optimizer.state.clear()
        if hasattr(optimizer, "_numel_cache"):  # L-BFGS counts the entries of all parameters once
            optimizer._numel_cache = None  # type: ignore[attr-defined]


def _exact(verification: Verification) -> Verification:
    if not verification.exact:
        raise VerificationError(
            f"The cut network does not compute what the gated one does: outputs differ by "
            f"{verification.max_error:.1e} of the largest (allowed {verification.tolerance:.0e}). The model is as "
            f"it was. Please report the network; until then, keep the part that differs whole with `ignore=`, or "
            f"pass `verify=False` if its outputs are random by design."
        )
    return verification
