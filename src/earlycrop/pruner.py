"""The pruner: runs a method beside any training loop. It owns the moment and the cut, nothing else of the loop.

Scorer   what each unit is worth      (scoring.py: loss, scoring set, norms)
Removal  which units leave            (removal.py: widths, choice, steps)
Watch    when the moment comes        (watching.py: a detector's looks)
Phases   what training is asked for   (phases.py: frozen layers, penalties)
units    what leaves, and how         (units/)
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from inspect import signature
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_iter

from earlycrop.adopting import bare, check_epochs, check_method, check_optimizer, check_ranks, copy_of
from earlycrop.budget import Budget
from earlycrop.deprecated import regrouped
from earlycrop.distributed import ranks_of
from earlycrop.errors import EarlyCropError, VerificationError
from earlycrop.harvest import HarvestReport, harvest_units
from earlycrop.kernel import empirical_ntk
from earlycrop.methods import Method, get_method
from earlycrop.phases import Phases
from earlycrop.plan import Plan, plan_of
from earlycrop.reach import ReachWarning
from earlycrop.removal import Removal
from earlycrop.report import Check, Report, Width
from earlycrop.scoring import Scorer, Scoring
from earlycrop.starvation import StarvationWarning, remaining
from earlycrop.structure import Verification, names_of
from earlycrop.structure.walk import tensors_of
from earlycrop.timing import Now, Phase, Reason
from earlycrop.watching import Watch


class Pruner:
    """Prunes a model in the middle of its training, when the method says that it is time.

    Make it before training, ask it at the start of each epoch (0 is before training), and start the
    learning-rate schedule where it reports that it pruned::

        pruner = Pruner(model, "earlycrop-s", 0.95, example_inputs=images[:2],
                        scoring=Scoring(loss, batches), optimizer=optimizer, epochs=30)
        for epoch in range(30):
            if report := pruner.check(epoch):
                print(report)
            ...  # an epoch of training as ever

    Args:
        model: The network; its channels leave in place, on the same parameters. What `torch.compile` made is
            taken for the module inside it.
        method: A method or its name.
        budget: The part of the weights that is removed, in [0, 1); or a `Budget`, which also says what is counted
            (weights, nodes, parameters, FLOPs) and what each layer keeps.
        example_inputs: What `model(*example_inputs)` takes; a tensor is a single input.
        scoring: The loss and the scoring set; methods without data do not need it.
        optimizer: Its state is cut with the model; masks are applied after its steps. If it is made later, give it
            then: `pruner.optimizer = optimizer`.
        epochs: The whole budget of training; a quarter of it caps how long a detector may wait.
        ignore: Names of modules or parameters to keep whole.
        coupled: Tuples of layers: output channel i of one leaves with channel i of the others.
        copies: Models with the same parameter names (averages of the weights, an `AveragedModel`, a deep copy):
            they are cut or masked with the model, all of them or none.
        optimizer_state: `slice` carries momentum and moments through the cut, `reset` forgets them.
        verify: Prove after the cut that the model computes what the gated dense one did; keeps a float64 copy
            for that moment.
        seed: Where random scores start.
        group: Where several processes train this model together, each with a part of the data: their process group,
            `torch.distributed.group.WORLD` usually. The scoring set then is the union of all `batches`, and every
            rank cuts the same; all of them call the same methods of the pruner. "alone" if the other processes have
            nothing to do with this one.
        deprecated: The arguments of version 0.5 that are fields of `Budget` and `Scoring` today.

    Attributes:
        units: What may leave, and what is left.
        report: That of the last cut.
        cuts: How many cuts there have been.

    Raises:
        EarlyCropError: in one of its kinds, before anything is touched: the model cannot be traced, the target
            is out of reach, the optimizer does not hold the model's weights, the scoring set is empty.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method | str,
        budget: Budget | float | None = None,
        *,
        example_inputs: object,
        scoring: Scoring | None = None,
        optimizer: Optimizer | None = None,
        epochs: float | None = None,
        ignore: Sequence[str] = (),
        coupled: Sequence[Sequence[str]] = (),
        copies: Sequence[nn.Module] = (),
        optimizer_state: Literal["slice", "reset"] = "slice",
        verify: bool = True,
        seed: int = 0,
        group: object = None,
        **deprecated: Any,
    ) -> None:
        known = [name for name in signature(Pruner).parameters if name != "deprecated"]
        budget, scoring, coupled = regrouped(budget, scoring, coupled, deprecated, known)
        if optimizer_state not in ("slice", "reset"):
            raise EarlyCropError(f"`optimizer_state` is one of ('slice', 'reset'); found {optimizer_state!r}.")
        self.model = model = bare(model)
        self.method = method if isinstance(method, Method) else get_method(method)
        self.budget = replace(
            budget, min_channels=self.method.min_channels if budget.min_channels is None else budget.min_channels
        )
        self.epochs, self.seed = epochs, seed
        self.report: Report | None = None
        self.cuts = 0
        self._optimizer_state, self._verify = optimizer_state, verify
        self._ranks = ranks_of(group)
        self._scorer = Scorer(scoring, self.method.bn_mode, seed, self._ranks)
        given = {"method": self.method, "budget": self.budget, "seed": seed, "epochs": epochs}
        check_ranks(self._ranks, model, given | {"bn_mode": self._scorer.bn_mode})
        check_epochs(self.method, self.budget, epochs)
        layers = tuple(map(tuple, coupled)) if self._cuts_in_all else ()
        self.units = self.method.units.of(model, example_inputs, None, names_of(ignore), layers)
        self.units.copies = tuple(copy_of(model, bare(copy)) for copy in copies)
        self._phases = Phases(model, self.units.copies, self.units.layers)
        self._removal = Removal(self.method, self.budget, self._scorer, self._phases)
        self.optimizer = optimizer
        if self._cuts_in_all:
            check_method(self.method, self.budget, self.units, self._scorer)
        self._watch = Watch(self.method.timing.detector, self, self.method.name, self._ranks)
        self._removal.watch(self.units, self.done)

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that goes with the model."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        check_optimizer(optimizer, self.units)
        self.units.adopt(optimizer, carry=self._optimizer_state == "slice")
        self._optimizer = optimizer

    @property
    def pruned(self) -> bool:
        """Whether it has pruned, once at least."""
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
        """The sparsities on the way to the one that is asked for: units are scored again for each."""
        return self.method.steps.towards(self.budget.sparsity)

    @property
    def total_epochs(self) -> float | None:
        """All epochs that the method trains; more than the budget where each round is a training of its own."""
        return None if self.epochs is None else self.method.total_epochs(self.epochs, self.budget.sparsity)

    @property
    def _cuts_in_all(self) -> int:
        return self.method.timing.cuts(len(self.targets))

    # The moment ---------------------------------------------------------------------------------------

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
        with torch.inference_mode(False), self._scorer.session():  # what is made in inference mode is never trained
            report = None if self.done else self._check(epoch)
            if report is None and self._removal.gathering is not None:
                self._removal.gathering.reset()
            phase = self.method.timing.phase(epoch, self.epochs, self._cuts_in_all)
            self._phases.enter(phase, again=report is not None)
        if report is not None and report.complaint is not None:
            warnings.warn(report.complaint, StarvationWarning, stacklevel=2)
        if report is not None and self.cuts == 1 and (little := self.units.reach.complaint(report.method, report.unit)):
            warnings.warn(little, ReachWarning, stacklevel=2)
        return report

    def _check(self, epoch: float) -> Report | None:
        check_ranks(self._ranks, self.model)
        timing, removal, report = self.method.timing, self._removal, None
        removal.take_widths(self.units)
        if timing.rewinds_to is not None and removal.early is None and epoch >= timing.rewinds_to - 1e-9:
            removal.early = {name: tensor.detach().clone() for name, tensor in tensors_of(self.model)}
        self._watch.look(epoch, self.budget.sparsity, self.optimizer)
        while not self.done:
            seen, sparsity = self._watch.values, self.budget.sparsity
            reason = timing.reason(Now(epoch, self.epochs, seen, sparsity, self.cuts, self._cuts_in_all))
            if reason is None:
                break
            report = self._prune(epoch, reason)
        return report

    # The cut ------------------------------------------------------------------------------------------

    def dry_run(self) -> Plan:
        """What would leave if the moment were now: scored, cut, counted, and all of it undone.

        Raises:
            EarlyCropError: there is nothing left to plan; or what `check` raises.
        """
        if self.done or self.pruned:
            why = "has pruned already" if self.pruned else "never prunes"
            raise EarlyCropError(f"{self.method.name} {why}, so there is nothing to plan: ask before the cut.")
        before, widths = self.units.counts(self.budget.cost), self.units.widths()
        with torch.inference_mode(False), self._scorer.session(), self.units.tried() as units:
            dense = self._scorer.variation(units.model, self.method)
            worth = torch.zeros(units.alive.numel(), dtype=torch.float64)
            self._removal.leave(units, self.targets, worth)
            left = remaining(dense, self._scorer.variation(units.model, self.method))
            return plan_of(self.method, self.budget, units, before, widths, worth, self._scorer.samples, left)

    def _prune(self, epoch: float, reason: Reason) -> Report:
        started, units = time.perf_counter(), self.units
        before, widths = units.counts(self.budget.cost), units.widths()
        if self.report is not None:  # what earlier cuts removed counts too
            before, widths = self.report.before, [(width.layer, width.before) for width in self.report.widths]
        with self._phases.plain(stay=True), units.all_or_nothing(self.optimizer):
            proof, unverified = units.proof() if self._verify else (None, None)
            dense = self._scorer.variation(units.model, self.method)
            several = self._cuts_in_all == len(self.targets)  # one step at each cut; else all of them at this one
            self._removal.leave(units, [self.targets[self.cuts]] if several else self.targets)
            rewound = self.method.timing.rewinds_to is not None
            if self.optimizer is not None and (rewound or self._optimizer_state == "reset"):
                self.optimizer.state.clear()
            report = Report(
                method=self.method.name,
                unit=self.method.units.noun,
                target=self.budget.cost.name,
                requested_sparsity=self.budget.sparsity,
                epoch=epoch,
                reason=reason,
                samples=self._scorer.samples,
                before=before,
                after=units.counts(self.budget.cost),
                widths=tuple(Width(name, b, a) for (name, b), (_, a) in zip(widths, units.widths(), strict=True)),
                frozen=units.frozen,
                collapsed=tuple(units.collapsed()),
                verification=None if proof is None else _exact(proof()),
                curve=tuple(self.curve),
                unverified=unverified,
                variation=remaining(dense, self._scorer.variation(units.model, self.method)),
                reach=units.reach,
                seconds=time.perf_counter() - started,
            )
            self._ranks.meet("the end of the cut")
        self.report = report
        self.cuts += 1
        self._removal.watch(units, self.done)
        self._watch.close()
        self._removal.early = None if self.done else self._removal.early
        return report

    def harvest(self) -> HarvestReport:
        """After the last weights have left: channels that the masks emptied leave too; the masks go on with the rest.

        Model, optimizer and copies are cut on the same parameters; `state_dict` remembers it.

        Raises:
            EarlyCropError: more weights will leave, channels left already, or it was harvested before.
            VerificationError: the harvested outputs differ from the masked ones. All is as it was.
        """
        units, done = self.units.masked, f"{self.cuts} of {self._cuts_in_all}"
        for refused, why in (
            (units is None, f"{self.method.name} removes no single weights"),
            (not self.pruned, "it has pruned nothing yet"),
            (not self.done, f"more weights will leave after this cut, {done}"),
            (units is not None and units.left is not None, "it was harvested already"),
        ):
            if refused:
                raise EarlyCropError(
                    f"Cannot harvest: {why}. Call it once, after the last cut (`pruner.done`) of a method for weights."
                )
        assert units is not None
        with torch.inference_mode(False), self._ranks.in_step():
            check_ranks(self._ranks, self.model)
            self._ranks.share(self.model.buffers())  # what is dead depends on them
            with units.all_or_nothing(self.optimizer):
                if self.optimizer is not None and self._optimizer_state == "reset":
                    self.optimizer.state.clear()
                report = harvest_units(units)
                self._ranks.meet("the end of the harvest")
            return report

    # States -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors: what was seen, what left, and the report."""
        gathering = self._removal.gathering
        return {
            "method": repr(self.method),
            "budget": repr(self.budget),
            "seed": self.seed,
            "bn_mode": self._scorer.bn_mode,
            **self._watch.state_dict(),
            "units": self.units.state_dict() if self._cuts_in_all else None,
            "report": None if self.report is None else asdict(self.report),
            "cuts": self.cuts,
            "early": self._removal.early,
            "widths": self._removal.widths,
            "phase": asdict(self._phases.now),
            "gathering": None if gathering is None else gathering.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, on the dense network built again.

        Load this first (it cuts or masks the model), then the model's and the optimizer's own states. Loss, scoring set
        and epochs are those that this pruner was made with.

        Raises:
            EarlyCropError: the state is of another method, budget, seed, mode of batch norm or network.
        """
        mine = {"method": repr(self.method), "budget": repr(self.budget), "seed": self.seed}
        for name, value in {**mine, "bn_mode": self._scorer.bn_mode}.items():
            if state.get(name) != value:
                raise EarlyCropError(f"This state is of another {name}: {state.get(name)}, here it is {value}.")
        report = None if state["report"] is None else Report.from_dict(state["report"])
        if state["units"] is not None:
            with self.units.all_or_nothing(self.optimizer):
                self.units.load_state_dict(state["units"])
        self.report, self.cuts = report, state["cuts"]
        self._watch.load_state_dict(state)
        self._removal.early, self._removal.widths = state["early"], state.get("widths")
        self._phases.enter(Phase(**(state["phase"] if "phase" in state else state["regime"])), again=True)
        self._removal.watch(self.units, self.done)
        if self._removal.gathering is not None:
            self._removal.gathering.load_state_dict(state["gathering"])

    def held(self) -> Iterator[Tensor]:
        """Every tensor that it keeps from step to step beside the model and the optimizer.

        θ(0) while a rule watches, masks, weights to rewind to, sums over steps: training needs memory for these too.
        """
        gathering = self._removal.gathering
        kept = [self._removal.early, None if gathering is None else gathering.state_dict()]
        own = (leaf for leaf in tree_iter(kept) if isinstance(leaf, Tensor))
        return chain(own, self._watch.held(), self.units.held())

    # What instruments look at -------------------------------------------------------------------------

    def parameters(self, which: Literal["prunable", "all"]) -> dict[str, Tensor]:
        """The parameters as they are now, by name."""
        names = None if which == "all" else set(self.units.weights.names)
        return {name: p for name, p in self.model.named_parameters() if names is None or name in names}

    def scores(self) -> Tensor:
        """What each unit is worth now; nothing is changed."""
        with self._scorer.session():
            return self._removal.scores(self.units)

    def choose(self) -> Tensor:
        """Score now; true for each unit that would stay at the target."""
        with self._scorer.session():
            return self._removal.choose(self.units)

    def kernel(self, samples: int, most: int | None = None) -> Tensor:
        """The empirical neural tangent kernel of what is left now, on the first samples of the scoring set.

        Of more than `most` outputs so many are taken, spread evenly.
        """
        masks, parameters = self.units.masks(), self.parameters("all")
        closed = [masks.get(name) for name in parameters]
        with self._scorer.session():  # of the function that is trained, whatever norms do for the score
            return empirical_ntk(
                self._scorer.loss(self.model, "auto"), list(parameters.values()), samples, closed, most
            )


def _exact(verification: Verification) -> Verification:
    if not verification.exact:
        raise VerificationError(
            f"The cut network does not compute what the gated one does: outputs differ by "
            f"{verification.max_error:.1e} of the largest (allowed {verification.tolerance:.0e}). The model is as "
            f"it was. Please report the network; meanwhile keep the part that differs whole with `ignore=`, or "
            f"pass `verify=False` if its outputs are random by design."
        )
    return verification
