"""Image classification with early pruning, from the data to the columns of the poster.

Adam, at a constant rate until the cut and One-Cycle over what then remains of a fixed budget; methods that prune at
initialisation, and dense training, have One-Cycle from their first step; those that train in full before they prune
have the budget for each training, unless it is to be divided. The figure that counts is the accuracy after the last
epoch. Test images are looked at for nothing else: batches for scoring come from the training split.
"""

from dataclasses import dataclass, field, fields, replace
from math import ceil, isfinite, nan
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import earlycrop
from earlycrop.counting import Target, flops
from earlycrop.distributed import ALONE, Ranks
from earlycrop.errors import nearest
from earlycrop.scores import READINGS, Reading
from earlycrop.steps import Exponential, Remaining
from earlycrop.timing import AbstractCourse, AbstractDetector, AtEpoch, Never
from earlycrop_lab.checkpoints import Checkpoints, Followed, Forgetful
from earlycrop_lab.data import DATASETS, Batch, Batches, Dataset, load
from earlycrop_lab.measure.emissions import COUNTRY, Emissions, Tracker
from earlycrop_lab.measure.meters import Meters
from earlycrop_lab.measure.record import Columns, Epoch, History
from earlycrop_lab.measure.time import inference
from earlycrop_lab.models import NETWORKS, build, get_network
from earlycrop_lab.tasks.progress import Progress, Silent
from earlycrop_lab.tasks.schedule import Schedule, course
from earlycrop_lab.torchrun import data_parallel


@dataclass(frozen=True)
class Usual:
    """What a data set is usually trained with: the network and its width, the budget, the batch."""

    network: str = "resnet18"
    width: int | None = None
    epochs: int = 80
    batch_size: int = 128


USUAL = {
    "digits": Usual(width=32, epochs=20, batch_size=64),
    "cifar10": Usual(batch_size=256),
    "cifar100": Usual(batch_size=256),
    "tiny-imagenet": Usual("vgg16"),
}
"""By data set; a folder of class folders has the defaults. Batches and epochs are the authors'."""


def option(default: Any = None, *, tag: str | None = None, choices: tuple[str, ...] = (), help: str) -> Any:
    """A field of a description that is an option of the command; `tag` marks it in a folder's name."""
    return field(default=default, metadata={"help": help, "tag": tag, "choices": choices})


@dataclass(frozen=True)
class Classification:
    """One training run. What is not said is the data set's usual, and is filled in at once.

    >>> usual = Classification(data="digits")
    >>> usual.method, usual.sparsity, usual.network, usual.width, usual.epochs, usual.batch_size
    ('earlycrop-s', 0.95, 'resnet18', 32, 20, 64)
    """

    method: str = option("earlycrop-s", help="what is removed, by which score and when: see `earlycrop methods`")
    sparsity: float = option(0.95, help="the part to remove, between 0 and 1")
    target: Target = option("weight", tag="", choices=get_args(Target), help="what sparsity counts")  # noqa: RUF009 - frozen
    reading: Reading | None = option(  # noqa: RUF009 - frozen
        tag="",
        choices=tuple(READINGS),
        help="how CroP reads a channel's worth; the method's own if not said",
    )
    prune_at: float | None = option(tag="at", help="prune after so many epochs, whatever the method would wait for")
    rounds: int | None = option(tag="rounds", help="cuts of a method that cuts often, each taking the same part")
    per_round: float | None = option(tag="each", help="the part of what is left that leaves in each of its cuts")
    equal_budget: bool = option(
        False, tag="equal", help="divide the epochs between the trainings of a method that needs several"
    )
    round_to: int = option(1, tag="round", help="widths in multiples of this")
    min_channels: int = option(1, tag="least", help="channels that every layer keeps")
    min_part: float | None = option(tag="part", help="the part of its channels that every layer keeps instead")
    data: str = option("digits", help=f"{', '.join(DATASETS)}, or folder:PATH for a folder of class folders")
    train_size: int | None = option(tag="train", help="train on a fixed class-balanced part of this many images")
    image_size: int | None = option(tag="size", help="pixels a side of the images; their own if not said")
    recipe: Literal["usual", "paper"] = option(
        "usual", tag="", choices=("usual", "paper"), help="image sizes and augmentation"
    )
    network: str = option(help=f"{', '.join(NETWORKS)}; the data set's usual if not said")
    width: int | None = option(tag="width", help="channels of its first layer; its usual width if not said")
    epochs: int = option(
        tag="epochs", help="the whole budget, before and after the cut; the data set's usual if not said"
    )
    batch_size: int = option(tag="batch", help="images in a training batch; the data set's usual if not said")
    learning_rate: float = option(2e-3, tag="lr", help="constant until the cut; the peak of One-Cycle after it")
    weight_decay: float = option(5e-5, tag="decay", help="L2, in Adam's gradient")
    clip_norm: float = option(10.0, tag="clip", help="the gradient's norm is cut to this")
    max_steps: int | None = option(
        tag="rehearsal",
        help="a rehearsal, no result: every epoch, evaluation and scoring ends after so many batches",
    )
    seed: int = option(0, help="of initial weights, order of images, augmentation and scoring batches")

    def __post_init__(self):
        earlycrop.get_method(self.method)
        usual = USUAL.get(self.data, Usual())
        for name in ("network", "epochs", "batch_size"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(usual, name))
        if self.width is None:
            width = usual.width if self.network == usual.network else None
            object.__setattr__(self, "width", width or get_network(self.network).width)
        self._check()

    def _check(self) -> None:
        get_network(self.network)
        for each in fields(self):
            value, choices = getattr(self, each.name), each.metadata["choices"]
            if choices and value is not None and value not in choices:
                near = nearest(value, choices)
                raise ValueError(f"{each.name} cannot be {value!r}. Did you mean {near!r}? {', '.join(choices)}.")
        if self.min_part is not None and not 0 < self.min_part < 1:
            raise ValueError(f"min_part is the part of each layer's channels that stays, not {self.min_part:g}.")
        if not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is the part to remove, between 0 and 1; {self.sparsity:g} is not.")
        counts = ("epochs", "batch_size", "train_size", "image_size", "width", "round_to", "min_channels", "max_steps")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} has to be 1 or more, not {value}.")
        for name, least in (("learning_rate", 0), ("clip_norm", 0), ("weight_decay", -1)):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > least):
                raise ValueError(f"{name} cannot be {getattr(self, name):g}.")
        method = earlycrop.get_method(self.method)
        for name in ("rounds", "per_round"):
            if getattr(self, name) is not None and not isinstance(method.timing, AbstractCourse):
                raise ValueError(f"{self.method} cuts at one moment: leave out {name}.")
        if self.prune_at is not None:
            if isinstance(method.timing, AbstractCourse):
                raise ValueError(f"{self.method} trains in full before it prunes: leave out prune_at.")
            if not 0 <= self.prune_at < self.epochs:
                raise ValueError(f"prune_at is an epoch from 0 to {self.epochs - 1}, not {self.prune_at:g}.")
        if not prunes(method):
            said = [name for name in PRUNING if getattr(self, name) != self._default(name)]
            if said:
                raise ValueError(f"{self.method} removes nothing: leave out {' and '.join(said)}, or choose a method.")
        method = pruning_method(self)
        if self.budget < 1:
            raise ValueError(f"{self.epochs} epochs cannot be divided between the trainings of {self.method}.")
        method.total_epochs(self.budget, self.sparsity)  # complains of a budget that is too short
        if isinstance(method.timing, AbstractDetector) and (cap := method.timing.cap(self.epochs)) >= self.epochs:
            raise ValueError(
                f"{self.method} may watch until epoch {cap:g} and then needs epochs to train what is left: "
                f"epochs has to be more than {cap:g}, not {self.epochs}."
            )

    def _default(self, name: str) -> Any:
        return next(each.default for each in fields(self) if each.name == name)

    @property
    def head(self) -> tuple[str | float, ...]:
        """What begins the folder's name: the data, the network, the method and how much it removes."""
        pruned = (self.sparsity,) if prunes(earlycrop.get_method(self.method)) else ()
        return (self.data, self.network, self.method, *pruned)

    @property
    def budget(self) -> int:
        """Epochs of one training: all that were asked for, unless they are to be divided between several."""
        if not self.equal_budget:
            return self.epochs
        method, fitting = pruning_method(self), 0
        for epochs in range(1, self.epochs + 1):
            try:
                if method.total_epochs(epochs, self.sparsity) <= self.epochs:
                    fitting = epochs
            except ValueError:  # too short to be rewound
                pass
        return fitting

    @property
    def total_epochs(self) -> int:
        """Everything that is trained."""
        return ceil(pruning_method(self).total_epochs(self.budget, self.sparsity))

    def usual(self) -> "Classification":
        """The same data, network and method, with everything else as it is where nothing is said."""
        return Classification(method=self.method, data=self.data, network=self.network)

    def dense_twin(self) -> "Classification":
        """The same training without pruning."""
        return replace(self, method="dense", **{name: self._default(name) for name in PRUNING})


def prunes(method: earlycrop.Method) -> bool:
    """Whether anything will ever leave."""
    return not isinstance(method.timing, Never)


def pruning_method(d: Classification) -> earlycrop.Method:
    """The method of the table, with another reading of CroP, moment or number of cuts if one was asked for."""
    method = earlycrop.get_method(d.method)
    if d.reading is not None:
        method = method.reading(d.reading)
    if d.prune_at is not None:
        method = replace(method, timing=AtEpoch(d.prune_at))
    if d.per_round is not None:
        return replace(method, steps=Remaining(d.per_round))
    return method if d.rounds is None else replace(method, steps=Exponential(d.rounds))


PRUNING = (
    *("sparsity", "target", "reading", "prune_at", "rounds", "per_round", "equal_budget"),
    *("round_to", "min_channels", "min_part"),
)
"""The fields that mean nothing to a run that does not prune."""


@dataclass
class Outcome:
    """What training leaves: the model and every number."""

    model: nn.Module
    epochs: list[Epoch]
    report: earlycrop.Report | None
    columns: Columns
    emissions: Emissions


def train(
    d: Classification,
    *,
    root: str | None = None,
    device: torch.device | str = "cpu",
    country: str = COUNTRY,
    pue: float = 1.0,
    progress: Progress | None = None,
    checkpoints: Checkpoints | Followed | Forgetful | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Train as described and measure.

    Args:
        d: The description.
        root: Where the data set lies.
        device: Where to train.
        country: Whose electricity mix counts, as an ISO 3166-1 alpha-3 code.
        pue: Power usage effectiveness of the site.
        progress: Who watches.
        checkpoints: Where it goes on if it was cut off, and what it keeps on its way.
        ranks: The processes that train it together, each on its part of every batch. What is measured is rank 0's.

    Raises:
        ValueError: If the data, the network and the method do not fit together, or the loss is no longer finite.
        OSError: If the data cannot be had.
    """
    device, progress, checkpoints = torch.device(device), progress or Silent(), checkpoints or Forgetful()
    torch.manual_seed(d.seed + 1009 * ranks.rank)  # dropout; the model and the data have their own seeds

    # Data, model and optimizer.
    data, batches, scoring = read(d, root, device, ranks)
    example = scoring[0][0][:2]
    model = network(d, data, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=d.learning_rate, weight_decay=d.weight_decay)
    schedule = Schedule(optimizer)
    meters = Meters(model, optimizer, device)
    clock = meters.clock
    epochs = History(Epoch)

    with Tracker(country, pue, counts=ranks.rank == 0) as tracker:
        with clock.phase("scoring"):
            pruner = pruner_of(d, model, scoring, optimizer, ranks=ranks)

        # The pruner first, which makes the model small; the optimizer after the schedule, which sets its rates.
        done = checkpoints.restore(
            pruner=pruner,
            model=model,
            schedule=schedule,
            optimizer=optimizer,
            meters=meters,
            tracker=tracker,
            epochs=epochs,
        )
        total = d.total_epochs
        progress.begin(total, len(batches), done)
        for epoch in range(done, total):
            with clock.phase("scoring"):
                report = pruner.check(epoch)
                parallel = data_parallel(model, ranks)  # anew, for the one before it remembers the old shapes
            schedule.begin(course(pruner, epoch, report is not None, len(batches), d.learning_rate, total))
            if report:
                meters.forget("sparse")  # the figures of a step are those of the last cut's network
                progress.cut(report)
                checkpoints.save(epoch, now=True)

            phase = "sparse" if pruner.pruned else "dense"
            first_rate = rate = optimizer.param_groups[0]["lr"]
            losses, hits, seen = [], [], 0
            model.train()
            with clock.phase(phase):
                for x, y in batches.epoch(epoch):
                    with meters.step(phase, x, y):
                        optimizer.zero_grad()
                        logits = parallel(x)
                        loss = F.cross_entropy(logits, y)
                        (loss * (ranks.size * len(y) / batches.batch_size)).backward()  # parts may differ by an image
                        nn.utils.clip_grad_norm_(model.parameters(), d.clip_norm)
                        optimizer.step()
                    rate = optimizer.param_groups[0]["lr"]
                    schedule.step()
                    losses.append(loss.detach() * len(y))  # stays on the device: the loop does not wait for it
                    hits.append((logits.argmax(1) == y).sum())
                    seen += len(y)
                    progress.step()
                seen, hit, lost = ranks.total(seen, int(torch.stack(hits).sum()), float(torch.stack(losses).sum()))
                mean_loss = lost / seen
            if not isfinite(mean_loss):
                raise ValueError(f"The loss is {mean_loss} in epoch {epoch + 1}: try a smaller --learning-rate.")

            with clock.phase("evaluation"):
                accuracy = evaluate(model, data.test_batches()) if ranks.rank == 0 else nan
            trained = clock.seconds["dense"] + clock.seconds["scoring"] + clock.seconds["sparse"]
            epochs.append(Epoch(epoch + 1, phase, mean_loss, hit / seen, accuracy, first_rate, rate, trained))
            progress.epoch(epochs[-1])
            checkpoints.save(epoch + 1)

    emissions = tracker.emissions
    images = next(iter(data.test_batches()))[0][: d.batch_size]
    milliseconds = inference(model, images) if ranks.rank == 0 else nan  # the others leave it the machine
    columns = measure(model, example, pruner, meters, epochs[-1].test_accuracy, emissions, milliseconds)
    return Outcome(model, list(epochs), pruner.report, columns, emissions)


def read(
    d: Classification, root: str | None, device: torch.device, ranks: Ranks = ALONE
) -> tuple[Dataset, Batches, list[Batch]]:
    """The data on the device, where images lie in one tensor and are augmented batch by batch; batches for scoring."""
    data = load(d.data, root, size=d.image_size, recipe=d.recipe).to(device)
    if d.image_size is None:
        data = data.enlarged(get_network(d.network).least)
    if d.train_size is not None:
        data = data.subset(d.train_size)
    batches = data.batches(d.batch_size, seed=d.seed, part=ranks.rank, parts=ranks.size)
    scoring = data.scoring_batches(seed=d.seed)
    if d.max_steps is not None:
        batches = replace(batches, most=d.max_steps)
        scoring = data.scoring_batches(seed=d.seed, batch_size=d.batch_size)[: d.max_steps]
        data = data.tested_on(d.max_steps * d.batch_size)
    return data, batches, scoring


def network(d: Classification, data: Dataset, device: torch.device) -> nn.Module:
    """The network at its initial weights."""
    shape = {"classes": len(data.classes), "channels": data.channels, "size": data.size}
    return build(d.network, **shape, width=d.width, seed=d.seed).to(device)


def pruner_of(
    d: Classification,
    model: nn.Module,
    scoring: list[Batch],
    optimizer: torch.optim.Optimizer | None = None,
    method: earlycrop.Method | None = None,
    ranks: Ranks = ALONE,
) -> earlycrop.Pruner:
    """What prunes the network as described; of several processes each brings a part of the batches for scoring."""
    return earlycrop.Pruner(
        model,
        method or pruning_method(d),
        sparsity=d.sparsity,
        target=d.target,
        example_inputs=(scoring[0][0][:2],),
        optimizer=optimizer,
        loss=mean_loss,
        batches=scoring[ranks.rank :: ranks.size],
        epochs=d.budget,
        min_channels=d.min_channels if d.min_part is None else d.min_part,
        round_to=d.round_to,
        seed=d.seed,
        group=ranks,
    )


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def plan(d: Classification, root: str | None = None, device: str = "cpu") -> earlycrop.Plan:
    """What would leave if the network were cut at its initial weights; nothing is trained.

    Raises:
        ValueError: If the data, the network and the method do not fit together, or the method removes nothing.
        OSError: If the data cannot be had.
    """
    torch.manual_seed(d.seed)
    data, _, scoring = read(d, root, torch.device(device))
    return pruner_of(d, network(d, data, torch.device(device)), scoring).dry_run()


@torch.no_grad()
def evaluate(model: nn.Module, batches) -> float:
    """The part of the images that the model names rightly, from 0 to 1; its training flag is left as found."""
    training = model.training
    model.eval()
    hits, seen = [], 0
    for x, y in batches:
        hits.append((model(x).argmax(1) == y).sum())
        seen += len(y)
    model.train(training)
    return int(torch.stack(hits).sum()) / seen


def measure(
    model: nn.Module,
    example: Tensor,
    pruner: earlycrop.Pruner,
    meters: Meters,
    accuracy: float,
    emissions: Emissions,
    inference_milliseconds: float,
) -> Columns:
    """The columns of the poster; what the saved file and the process say is added by who keeps the run."""
    report, seconds = pruner.report, meters.clock.seconds
    if report is None:
        parameters, operations = sum(p.numel() for p in model.parameters()), flops(model, (example,))
        before = after = (parameters, operations)
    else:
        before, after = ((counts.params, counts.flops) for counts in (report.before, report.after))
    dense, sparse = meters.clock.steps("dense"), meters.clock.steps("sparse")
    return Columns(
        test_accuracy=accuracy,
        weight_sparsity=report.weight_sparsity if report else None,
        node_sparsity=report.node_sparsity if report else None,
        parameters_before=before[0],
        parameters_after=after[0],
        flops_before=_whole(before[1]),
        flops_after=_whole(after[1]),
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
