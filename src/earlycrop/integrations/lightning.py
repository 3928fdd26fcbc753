"""Lightning: a callback that prunes in `Trainer.fit`, and checkpoints of pruned modules.

    pruner = Pruner(task, "earlycrop-s", 0.9, example_inputs=images[:2], scoring=Scoring(loss, batches), epochs=30)
    trainer = Trainer(max_epochs=30, callbacks=[Prune(pruner)])
    trainer.fit(task, loader)                                  # ckpt_path="last.ckpt" resumes, before or after the cut
    task = load_from_checkpoint(Task, "last.ckpt")

The callback works through hooks of the module (`on_save_checkpoint`, `on_load_checkpoint`), because states of callbacks
are loaded after the weights, which would no longer fit. It is the same for `lightning` and `pytorch_lightning`.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from earlycrop.adopting import bare
from earlycrop.errors import EarlyCropError
from earlycrop.integrations.following import Follower, inside
from earlycrop.pruner import Pruner
from earlycrop.resizing import resize, sizes_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback  # the same class, in a package of its own

__all__ = ["Prune", "Resized", "load_from_checkpoint"]

KEY = "earlycrop"
"""Under this name a checkpoint holds the sizes of the module and the state of the pruner."""


class Prune(Callback):
    """Asks a pruner at the start of each epoch, and takes everything that Lightning keeps through the cut.

    Optimizers and averages of the weights (`WeightAveraging`, `StochasticWeightAveraging`) are cut with the module.
    Every look and the report go to the trainer's loggers. After a cut `ModelCheckpoint` and `EarlyStopping` begin to
    compare again, because a dense network is no better version of a pruned one.

    Args:
        pruner: The pruner, made from the module or from a network inside it.
        every_steps: Ask after that many optimizer steps instead of after each epoch. For a stream of data without a
            length, under `max_steps`, the pruner's `epochs` are as many equal parts of these.
        schedule_from_cut: Whether learning-rate schedulers wait for the cut. Until then rates are the optimizer's own,
            as detectors want it; at each cut the schedule begins.

    Raises:
        EarlyCropError: it is no pruner; or when training begins: the pruner's network is no part of the module, or
            there are several processes.
    """

    def __init__(self, pruner: Pruner, *, every_steps: int | None = None, schedule_from_cut: bool = False) -> None:
        self._follower = Follower(pruner, schedule_from_cut)
        self._every, self._asked = every_steps, -1

    @property
    def pruner(self) -> Pruner:
        """The pruner; `pruner.report` is the report of the last cut."""
        return self._follower.pruner

    # Checkpoints --------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Join the module's hooks, so that checkpoints hold sizes, and sizes are there before values are loaded.

        Raises:
            EarlyCropError: there are several processes, or the pruner's network is no part of the module.
        """
        if trainer.world_size > 1:
            raise EarlyCropError(
                f"This trainer has {trainer.world_size} processes, whose strategy wraps the module before the cut and "
                f"remembers its shapes. Train on one device, or in a loop of your own with `Pruner(group=...)`."
            )
        inside(pl_module, self.pruner.model, "module")
        save, load = pl_module.on_save_checkpoint, pl_module.on_load_checkpoint

        def saving(checkpoint: dict[str, Any]) -> None:
            checkpoint[KEY] = {"sizes": sizes_of(pl_module), **self._follower.state_dict()}
            save(checkpoint)

        def loading(checkpoint: dict[str, Any]) -> None:
            if KEY in checkpoint and stage == "fit":
                self._adopt_averages(trainer, pl_module)
                self._follower.load_state_dict(checkpoint[KEY])
            _resize(pl_module, checkpoint)
            load(checkpoint)

        pl_module.on_save_checkpoint, pl_module.on_load_checkpoint = saving, loading

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module's hooks as they were."""
        for hook in ("on_save_checkpoint", "on_load_checkpoint"):
            vars(pl_module).pop(hook, None)

    # The moment ---------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Adopt the optimizers, the averages and, if they shall wait, the schedulers."""
        self._adopt_averages(trainer, pl_module)
        self._follower.begin(trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Ask, if it is asked by epochs."""
        self._follower.wait()
        if self._every is None and not _streams(trainer):
            self._ask(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Ask, if it is asked by steps, or if a stream has no epochs; between two steps of the optimizer."""
        self._follower.wait()
        step, steps, streams = trainer.global_step, trainer.max_steps, _streams(trainer)
        if step != self._asked and self._follower.due(step, steps, self._every, streams):
            self._asked = step
            epoch = trainer.current_epoch + batch_idx / trainer.num_training_batches
            self._ask(trainer, pl_module, self._follower.progress(step, steps) if streams else epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hold the schedulers, which have been stepped."""
        self._follower.wait()

    def _ask(self, trainer: Any, module: Any, epoch: float) -> None:
        with _alone(self.pruner.model):
            report, numbers = self._follower.check(epoch)
        if numbers:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
        if report is not None:
            _compare_again(trainer)

    def _adopt_averages(self, trainer: Any, module: Any) -> None:
        """Cut the averages that callbacks of Lightning keep with the network: each holds a copy of the whole module."""
        where = inside(module, self.pruner.model, "module")
        averages = [bare(one) for each in trainer.callbacks if isinstance(one := _average(each), nn.Module)]
        copies = [average.get_submodule(where) for average in averages]
        self._follower.adopt(copies)


class Resized:
    """Makes `Task.load_from_checkpoint` take checkpoints of pruned modules: `class Task(Resized, LightningModule)`."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring the module to the checkpoint's sizes before values are loaded.

        Args:
            checkpoint: The checkpoint.

        Raises:
            CheckpointError: it is of another network.
        """
        _resize(self, checkpoint)
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]


def load_from_checkpoint(kind: Any, path: str | os.PathLike[str], **options: Any) -> Any:
    """`kind.load_from_checkpoint(path)` for a pruned module, whatever its class does; dense ones are loaded as usual.

    Args:
        kind: The class of the module.
        path: The checkpoint.
        options: What `load_from_checkpoint` takes: `map_location`, hyperparameters, and so on.

    Returns:
        The module.

    Raises:
        CheckpointError: the checkpoint is of another network.
    """
    module = type(kind.__name__, (Resized, kind), {"__module__": kind.__module__}).load_from_checkpoint(path, **options)
    module.__class__ = kind
    return module


def _resize(module: Any, checkpoint: dict[str, Any]) -> None:
    if KEY in checkpoint:
        resize(module, checkpoint[KEY]["sizes"])


def _streams(trainer: Any) -> bool:
    """Whether only a number of steps says when training ends: data without a length may have no epochs."""
    return math.isinf(trainer.num_training_batches) and trainer.max_steps > 0


def _average(callback: Any) -> Any:
    """The average of the weights that a callback keeps, if it does."""
    return getattr(callback, "_average_model", None)


def _compare_again(trainer: Any) -> None:
    """Let `ModelCheckpoint` and `EarlyStopping` forget the dense network's results; its files stay."""
    for callback in trainer.callbacks:
        if getattr(callback, "monitor", None) is None:
            continue
        worst = torch.tensor(torch.inf if getattr(callback, "mode", "min") == "min" else -torch.inf)
        if hasattr(callback, "best_k_models"):
            callback.best_k_models, callback.kth_best_model_path, callback.kth_value = {}, "", worst
            callback.best_model_path, callback.best_model_score = "", None
        elif hasattr(callback, "wait_count"):
            callback.wait_count, callback.best_score = 0, worst


@contextmanager
def _alone(network: nn.Module) -> Iterator[None]:
    """Modules without their trainer: it is copied with none of them, and `log` within a loss does nothing."""
    trainers = [(one, vars(one)["_trainer"]) for one in network.modules() if vars(one).get("_trainer") is not None]
    for one, _ in trainers:
        vars(one)["_trainer"] = None
    try:
        yield
    finally:
        for one, trainer in trainers:
            vars(one)["_trainer"] = trainer
