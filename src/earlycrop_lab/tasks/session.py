"""What surrounds the training loop of every task: the pruner, the instruments, the schedule, the checkpoints.

    with Session(d, setup, optimizer, **around) as session:
        pruner = session.pruner
        for epoch in session.epochs():  # resumes where it was interrupted
            with session.looking():
                pruner.check(epoch)
            with session.training():
                for batch in setup.batches.epoch(epoch):
                    with session.step(*batch):
                        ...  # forward, backward, optimizer.step()
                    session.note(loss, len(batch[0]))
            session.evaluate()
    return session.trained()

The loop is the task's own; only the measurements are hidden from it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import earlycrop
from earlycrop.counting import AbstractCost, Latency, Memory, Target, flops
from earlycrop.distributed import ALONE, Ranks
from earlycrop.logs import Log
from earlycrop_lab.checkpoints import Checkpoints, Followed, Forgetful, Part
from earlycrop_lab.measure.emissions import COUNTRY, Emissions, Tracker
from earlycrop_lab.measure.meters import Meters
from earlycrop_lab.measure.record import Columns, Epoch, History
from earlycrop_lab.measure.time import inference
from earlycrop_lab.tasks.description import Description, pruning_method
from earlycrop_lab.tasks.progress import Progress, Silent
from earlycrop_lab.tasks.schedule import AbstractSchedule, Schedule

MEASURED = "latency.json"
"""The measurements behind a budget of latency, in the folder of a run."""

PROVED = 100_000_000
"""Parameters of the largest network whose cut is verified: verification holds a copy in float64, which for a larger
network may not fit in memory although the pruned network would."""


class Batches(Protocol):
    """Training batches, epoch by epoch; an epoch depends only on the seed, its own number and the network."""

    @property
    def batch_size(self) -> int:
        """The number of samples in a batch."""
        ...

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        ...

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch, whose number counts from 0."""
        ...


@dataclass
class Setup:
    """Everything that a description stands for, before anything is trained.

    Args:
        model: The network at its initial weights.
        batches: The training batches.
        scoring: Batches for scoring, from the training split; or a function that returns them, where they depend on the
            current network.
        loss: Maps model and scoring batch to the scalar mean loss.
        evaluate: Maps the model to its metrics by name, and restores its training flag.
        optimizer: Makes the optimizer of a network such as the model, at the initial learning rate.
        inputs: A batch of the network's inputs, of training size, not from the test split.
        data: What it is trained and tested on, in words.
        samples: Predictions for a few samples, as named tensors that a run keeps for its figures; by default none.
        in_width: Makes the same network in another width, at its initial weights; None if it has only one width.
        micro_batch: Samples to score at once, for a loss that is not a mean over samples; by default any number.
        parts: Further parts of a checkpoint, by name.
        precision: Makes the context of the training steps' forward pass and loss; by default none.
    """

    model: nn.Module
    batches: Batches
    scoring: Sequence[Any] | Callable[[], Sequence[Any]]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    optimizer: Callable[[nn.Module], Optimizer]
    inputs: Tensor
    data: str
    samples: Callable[[nn.Module], dict[str, Tensor]] | None = None
    in_width: Callable[[int], nn.Module] | None = None
    micro_batch: int | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    precision: Callable[[], AbstractContextManager[object]] = nullcontext

    def scoring_now(self) -> Sequence[Any]:
        """The batches for scoring the current network."""
        return self.scoring() if callable(self.scoring) else self.scoring

    @property
    def example(self) -> tuple[Tensor]:
        """Inputs for tracing: the first two samples of `inputs`."""
        return (self.inputs[:2],)


@dataclass
class Trained:
    """The results of training: the model and all numbers."""

    model: nn.Module
    epochs: list[Epoch]
    report: earlycrop.Report | None
    columns: Columns
    emissions: Emissions
    data: str
    samples: dict[str, Tensor] = field(default_factory=dict)


def pruner_of(
    d: Description,
    setup: Setup,
    optimizer: Optimizer | None = None,
    method: earlycrop.Method | None = None,
    ranks: Ranks = ALONE,
    log: Log | None = None,
    target: Target | AbstractCost | None = None,
) -> earlycrop.Pruner:
    """The pruner of a description; with several processes, each contributes a part of the batches for scoring.

    What sparsity counts is `target_of` the description, unless it is known.
    """
    scoring = setup.scoring if callable(setup.scoring) else setup.scoring[ranks.rank :: ranks.size]
    budget = earlycrop.Budget(d.sparsity, target or target_of(d, setup), d.floor, d.round_to, parts={**d.parts})
    return earlycrop.Pruner(
        setup.model,
        method or pruning_method(d),
        budget,
        example_inputs=setup.example,
        scoring=earlycrop.Scoring(setup.loss, scoring, d.bn_mode or "auto", setup.micro_batch),
        optimizer=optimizer,
        epochs=d.budget,
        optimizer_state=d.optimizer_state,
        verify=sum(parameter.numel() for parameter in setup.model.parameters()) <= PROVED,
        seed=d.seed,
        group=ranks,
        log=log,
    )


def target_of(d: Description, setup: Setup, kept: Path | None = None) -> Target | AbstractCost:
    """What sparsity counts: a count by its name, or a cost of a whole batch, of which the example is only a part.

    Args:
        d: The description.
        setup: Its setup; for a budget of latency the network is measured with its `inputs`, where they are.
        kept: The file of what was measured, which is not measured again.

    Raises:
        ValueError: The file is of another device, number of threads or version of PyTorch.
    """
    if d.target == Memory.name:
        return Memory(batch=d.batch_size)
    if d.target == "latency":
        return Latency.measured(setup.model, setup.inputs, kept)
    return d.target


class Session:
    """A training with its pruner, its instruments and its checkpoints.

    Args:
        d: The description.
        setup: The description's setup.
        optimizer: The optimizer of the setup's model.
        schedule: The schedule of the optimizer's rate; by default the laboratory's usual one, `Schedule`.
        device: The device to train on.
        country: ISO 3166-1 alpha-3 code of the country whose electricity mix counts.
        pue: Power usage effectiveness of the site.
        progress: Receives the progress of training.
        checkpoints: Where training resumes from if it was interrupted, and where its state is saved.
        ranks: The processes that train it together, each on its part of every batch; measurements are rank 0's.

    Attributes:
        pruner: The pruner of the setup's model.
        phase: "dense" before the first cut, "sparse" after it.
    """

    def __init__(
        self,
        d: Description,
        setup: Setup,
        optimizer: Optimizer,
        *,
        schedule: AbstractSchedule | None = None,
        device: torch.device,
        country: str = COUNTRY,
        pue: float = 1.0,
        progress: Progress | None = None,
        checkpoints: Checkpoints | Followed | Forgetful | None = None,
        ranks: Ranks = ALONE,
    ):
        self.d, self.setup, self.optimizer, self.ranks = d, setup, optimizer, ranks
        self.schedule = schedule or Schedule(optimizer, d.learning_rate)
        self.progress, self.checkpoints = progress or Silent(), checkpoints or Forgetful()
        self.meters = Meters(setup.model, optimizer, device, lambda: self.pruner.held())
        self.tracker = Tracker(country, pue, counts=ranks.rank == 0)
        self.history = History(Epoch)
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        # not a part of training: before its clock and its tracker start
        target = target_of(self.d, self.setup, self.checkpoints.file(MEASURED))
        self._flops = flops(self.setup.model, self.setup.example)
        torch.manual_seed(self.d.seed + 1009 * self.ranks.rank)  # dropout; the model and the data have their own seeds
        self.tracker.__enter__()
        with self.meters.clock.phase("scoring"):
            self.pruner = pruner_of(
                self.d, self.setup, self.optimizer, ranks=self.ranks, log=self.progress, target=target
            )
        return self

    def __exit__(self, *error: Any) -> None:
        self.tracker.__exit__(*error)

    @property
    def phase(self) -> str:
        """The phase of training: "dense" before the first cut, "sparse" after it."""
        return "sparse" if self.pruner.pruned else "dense"

    def epochs(self) -> Iterator[int]:
        """Yield the epochs that are still to be done, counted from 0; record and save each before yielding the next."""
        # The pruner comes first, because it makes the model small; the optimizer after the schedule, which would
        # overwrite its rates.
        done = self.checkpoints.restore(
            pruner=self.pruner,
            model=self.setup.model,
            schedule=self.schedule,
            optimizer=self.optimizer,
            meters=self.meters,
            tracker=self.tracker,
            epochs=self.history,
            **self.setup.parts,
        )
        total = self.d.total_epochs
        self.progress.begin(total, len(self.setup.batches), done)
        for self._epoch in range(done, total):
            yield self._epoch
            self._end()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Surround the pruner's check, which prunes when it is time; then set the learning rate of what follows."""
        cuts = self.pruner.cuts
        with self.meters.clock.phase("scoring"):
            yield
        cut = self.pruner.cuts > cuts
        self.schedule.enter(self.pruner, self._epoch, cut, len(self.setup.batches), self.d.total_epochs)
        if cut:
            self.meters.forget("sparse")  # a step is measured on the network after the last cut
            self.checkpoints.save(self._epoch, now=True)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Surround the training of an epoch.

        Raises:
            ValueError: The epoch's mean loss is not finite.
        """
        self._losses: list[Tensor] = []
        self._figures: list[Tensor] = []
        self._seen = 0
        self._first_rate = self._rate = self.optimizer.param_groups[0]["lr"]
        self.setup.model.train()
        with self.meters.clock.phase(self.phase):
            yield
            sums = [float(torch.stack(each).sum()) if each else nan for each in (self._losses, self._figures)]
            seen, *sums = self.ranks.total(self._seen, *sums)
            self._loss, self._figure = (each / seen for each in sums)
        if not isfinite(self._loss):
            raise ValueError(f"The loss is {self._loss} in epoch {self._epoch + 1}: try a smaller --learning-rate.")

    @contextmanager
    def step(self, *batch: Tensor) -> Iterator[None]:
        """Measure the training step within the block: forward, backward, optimizer."""
        with self.meters.step(self.phase, *batch):
            yield
        self._rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step()
        self.progress.step()

    def note(self, loss: Tensor, count: int, figure: Tensor | None = None) -> None:
        """Record a step's mean loss over `count` samples, and optionally the mean of the main metric over the same.

        They stay on the device, so that the loop does not wait for them.
        """
        self._losses.append(loss.detach() * count)
        self._seen += count
        if figure is not None:
            self._figures.append(figure.detach() * count)

    def evaluate(self) -> dict[str, float]:
        """Evaluate the model at the end of an epoch: its metrics by name; only rank 0 evaluates, others get nan."""
        with self.meters.clock.phase("evaluation"):
            named = [metric.name for metric in self.d.metrics]
            self.figures = self.setup.evaluate(self.setup.model) if self.ranks.rank == 0 else dict.fromkeys(named, nan)
        return self.figures

    def _end(self) -> None:
        seconds = self.meters.clock.seconds
        done = Epoch(
            epoch=self._epoch + 1,
            phase=self.phase,
            loss=self._loss,
            train=self._figure if self._figures else None,
            test=self.figures[self.d.metric.name],
            first_learning_rate=self._first_rate,
            learning_rate=self._rate,
            seconds=seconds["dense"] + seconds["scoring"] + seconds["sparse"],
        )
        self.history.append(done)
        self.progress.epoch(done.epoch, done.figures)
        self.checkpoints.save(self._epoch + 1)

    def trained(self) -> Trained:
        """The results of training, available once the session has ended."""
        if not self.figures:  # training was interrupted after its last epoch
            self.evaluate()
        seconds = self.meters.clock.seconds  # timing inference takes a two-hundredth of these, or six passes
        worth = min(0.005 * (seconds["dense"] + seconds["sparse"]), 1.0)
        milliseconds = inference(self.setup.model, self.setup.inputs, worth) if self.ranks.rank == 0 else nan
        model, emissions, samples = self.setup.model, self.tracker.emissions, self.setup.samples
        return Trained(
            model,
            list(self.history),
            self.pruner.report,
            self._columns(milliseconds, emissions),
            emissions,
            self.setup.data,
            samples(model) if samples else {},
        )

    def _columns(self, inference_milliseconds: float, emissions: Emissions) -> Columns:
        """The columns of the poster; `runs` adds those of the saved file and of the process."""
        model, report, meters = self.setup.model, self.pruner.report, self.meters
        seconds = meters.clock.seconds
        if report is None:
            parameters = (sum(p.numel() for p in model.parameters()),) * 2
        else:
            parameters = (report.before.params, report.after.params)
        # not the report's, which only has products with parameters: the pointer of `psmm` multiplies activations
        operations = self._flops if report is None else flops(model, self.setup.example)
        dense, sparse = meters.clock.steps("dense"), meters.clock.steps("sparse")
        return Columns(
            metrics=self.figures,
            weight_sparsity=report.weight_sparsity if report else None,
            node_sparsity=report.node_sparsity if report else None,
            parameters_before=parameters[0],
            parameters_after=parameters[1],
            flops_before=_whole(self._flops),
            flops_after=_whole(operations),
            dense_seconds=seconds["dense"],
            scoring_seconds=seconds["scoring"],
            sparse_seconds=seconds["sparse"],
            evaluation_seconds=seconds["evaluation"],
            dense_step_milliseconds=dense.milliseconds if dense else None,
            dense_step_cpu_milliseconds=dense.cpu_milliseconds if dense else None,
            dense_steps_timed=dense.steps if dense else 0,
            sparse_step_milliseconds=sparse.milliseconds if sparse else None,
            sparse_step_cpu_milliseconds=sparse.cpu_milliseconds if sparse else None,
            sparse_steps_timed=sparse.steps if sparse else 0,
            dense_memory_bytes=meters.peak_bytes.get("dense"),
            sparse_memory_bytes=meters.peak_bytes.get("sparse"),
            dense_cuda_bytes=meters.cuda_bytes.get("dense"),
            sparse_cuda_bytes=meters.cuda_bytes.get("sparse"),
            process_bytes=None,
            disk_bytes=None,
            grams_co2=emissions.grams_co2,
            kwh=emissions.kwh,
            optimizer_steps=meters.taken,
            inference_milliseconds=inference_milliseconds,
        )


def _whole(count: float) -> int | None:
    return round(count) if isfinite(count) else None
