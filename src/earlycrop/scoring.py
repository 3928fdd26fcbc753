"""What units are scored with: the loss, the scoring set, and what norms do meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from earlycrop.distributed import Ranks
from earlycrop.errors import EarlyCropError
from earlycrop.evaluation import BatchNormMode, Loss, MeanLoss, ScoringSet
from earlycrop.evaluation.rehearsal import Rehearsal, calls_of
from earlycrop.kernel import empirical_ntk
from earlycrop.methods import Method
from earlycrop.scores import AbstractScore, Network
from earlycrop.starvation import variation
from earlycrop.structure.trace import Call
from earlycrop.units import AbstractUnits


@dataclass(frozen=True, eq=False)
class Scoring:
    """The loss and the data by which a method scores.

    Args:
        loss: Maps model and batch to the scalar mean loss of the batch.
        batches: The scoring set: batches from the *training* split; or, if the data change during training (the present
            policy's transitions, a stream), a function that returns them. It is called once for each call that scores,
            however often that call scores. Let it always begin with the same samples: `NtkSettled` compares kernels on
            them.
        bn_mode: What norms with running statistics do while scoring, see `MeanLoss`; `auto` leaves it to the method.
        micro_batch: Samples scored at once; None: a quarter of the largest given batch, at most 32, see `MeanLoss`.
        training: Whether the model is in training mode (but for norms and dropout) while the loss is computed; None
            asks in evaluation mode, and in training mode if the loss fails there.

    Raises:
        EarlyCropError: there is no such mode.
    """

    loss: Loss | None = None
    batches: Sequence[Any] | Callable[[], Sequence[Any]] | None = None
    bn_mode: BatchNormMode = "auto"
    micro_batch: int | None = None
    training: bool | None = None

    def __post_init__(self) -> None:
        if self.bn_mode not in get_args(BatchNormMode):
            raise EarlyCropError(f"`bn_mode` is one of {get_args(BatchNormMode)}; found {self.bn_mode!r}.")


class Scorer:
    """Scores units as the network is now, on one scoring set for all ranks.

    Args:
        scoring: The loss and the data.
        bn_mode: The method's own mode of norms, used where `scoring` leaves it at `auto`.
        seed: The seed of random scores.
        ranks: The processes that share the work.

    Attributes:
        aside: Whether the loss runs parts of the model by themselves, as `calls` found.
    """

    def __init__(self, scoring: Scoring, bn_mode: BatchNormMode, seed: int, ranks: Ranks) -> None:
        self.scoring, self.seed, self.ranks = scoring, seed, ranks
        self.bn_mode: BatchNormMode = bn_mode if scoring.bn_mode == "auto" else scoring.bn_mode
        self._set: ScoringSet | None = None
        self._busy = False
        self.aside = False

    @property
    def samples(self) -> int:
        """The size of the scoring set; 0 until something has been scored with data."""
        return 0 if self._set is None else self._set.samples

    def prepare(self, method: str) -> None:
        """Refuse a missing loss or an empty scoring set before training.

        Args:
            method: The method's name, for the error.

        Raises:
            EarlyCropError: there is no loss, or no batch.
        """
        if self.scoring.loss is None:
            raise EarlyCropError(
                f"{method} scores with the loss: give `scoring=Scoring(loss, batches)`, where `loss(model, batch)` is "
                f"the scalar mean loss of a batch."
            )
        if not callable(self.scoring.batches):
            self._set = self._set or self._gathered()

    def loss(self, model: nn.Module, bn_mode: BatchNormMode | None = None) -> MeanLoss:
        """The mean loss over the scoring set, with norms in this mode, by default the scorer's."""
        assert self.scoring.loss is not None  # `prepare`
        self._set = self._set or self._gathered()
        return MeanLoss(
            model,
            self.scoring.loss,
            self._set,
            bn_mode or self.bn_mode,
            ranks=self.ranks,
            training=self.scoring.training,
        )

    def mean(self, model: nn.Module) -> float:
        """The mean loss over the scoring set, with norms as the user asked, or in evaluation."""
        return self.loss(model, self.scoring.bn_mode).value()

    def figure(self, measure: Callable[[nn.Module], float] | None, method: str) -> Callable[[nn.Module], float]:
        """What maps a network to a figure: the mean loss over the scoring set, or what a user measures on rank 0."""
        if measure is None:
            self.prepare(method)
            return self.mean
        return lambda model: self.ranks.first(float(measure(model)))

    def calls(self, model: nn.Module) -> list[Call]:
        """The calls of the model that the loss makes; none without a loss, or where the data change with training."""
        calls, self.aside = calls_of(self.loss(model)) if self.ready else ([], False)
        return calls

    @property
    def ready(self) -> bool:
        """Whether the loss can be asked before training: not where the data change with it."""
        return not callable(self.scoring.batches) and self._has_data()

    def rehearsal(self, units: AbstractUnits) -> Rehearsal:
        """What runs now and must run when units have left."""
        return Rehearsal(units.model, units.example_inputs, self.loss(units.model) if self._has_data() else None)

    def network(self, units: AbstractUnits, gathered: Tensor | None = None) -> Network:
        """The network as scores see it, with what a score has gathered from training."""
        return Network(
            model=units.model,
            example_inputs=units.example_inputs,
            loss=lambda: self.loss(units.model),
            weights=units.weights,
            coordinates=units.coordinates,
            made_of=units.made_of,
            scales=units.scales,
            readers=units.readers,
            seed=self.seed,
            gathered=gathered,
        )

    def scores(self, units: AbstractUnits, score: AbstractScore, gathered: Tensor | None = None) -> Tensor:
        """The score of each unit now, the same on every rank; nothing is changed.

        Args:
            units: The units.
            score: The score.
            gathered: What the score has gathered from training, if it does.
        """
        scores = units.per_class(score.worth(self.network(units, gathered)))
        self.ranks.share([scores])  # not every score is a sum over ranks, and the last bit may decide
        return scores

    def kernel(self, units: AbstractUnits, samples: int, most: int | None) -> Tensor:
        """The empirical neural tangent kernel of what is left, whatever norms do for the score; see `Pruner.kernel`."""
        parameters, masks = dict(units.model.named_parameters()), units.masks()
        closed = [masks.get(name) for name in parameters]
        return empirical_ntk(self.loss(units.model, "auto"), list(parameters.values()), samples, closed, most)

    def variation(self, model: nn.Module, method: Method) -> float | None:
        """How much outputs differ between samples; None if the method has no data or rewinds its weights."""
        with_data = any(score.needs_data for score in method.scores)
        return variation(self.loss(model)) if with_data and method.timing.rewinds_to is None else None

    @contextmanager
    def session(self) -> Iterator[None]:
        """Within the context all ranks work in step, on one scoring set; a function `batches` is called only once."""
        outer, self._busy = self._busy, True
        try:
            with self.ranks.in_step():
                yield
        finally:
            self._busy = outer
            if not outer and callable(self.scoring.batches):
                self._set = None

    def _has_data(self) -> bool:
        """Whether there are a loss and a scoring set, the same on every rank: some may bring no batch."""
        return self.scoring.loss is not None and any(self.ranks.gather(bool(self.scoring.batches)))

    def _gathered(self) -> ScoringSet:
        batches = self.scoring.batches
        batches = batches() if callable(batches) else batches
        return ScoringSet(self.ranks.union(batches if batches is not None else []), self.scoring.micro_batch)
