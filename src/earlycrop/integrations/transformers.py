"""Hugging Face: a callback that prunes in `Trainer.train`, and pruned models as folders that save and load in one call.

model.config.use_cache = False
pruner = Pruner(model, "earlycrop-s", 0.5, example_inputs=batch["input_ids"][:2],
                scoring=Scoring(loss, [batch]), epochs=3)
trainer = Trainer(model, arguments, train_dataset=data)
trainer.add_callback(Prune(pruner, trainer))
trainer.train()                             # resume_from_checkpoint=True, before or after the cut
save(model, "small")                        # as does trainer.save_model("small")
model = load("small")
"""

import os
import warnings
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers import AutoConfig, EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from earlycrop.adopting import bare
from earlycrop.checkpoint import load_state, save_state
from earlycrop.errors import CheckpointError, EarlyCropError
from earlycrop.integrations.configuring import GUARD, LOADER, RECORD, apply, describe, forget
from earlycrop.integrations.following import Follower, inside, ordinary_forward, sized, whole
from earlycrop.pruner import Pruner

__all__ = ["Prune", "load", "loss", "save"]

FILE = "earlycrop.safetensors"
"""The pruner's state, in the folder of a checkpoint."""


def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The loss that the model itself computes, for `Scoring(loss, batches)`; the batch goes to the model's device.

    Args:
        model: The model.
        batch: What a data collator returns, labels among it.

    Raises:
        EarlyCropError: the model returns no loss.
    """
    device = next(model.parameters()).device
    output = model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
    if getattr(output, "loss", None) is None:
        raise EarlyCropError(
            f"{type(model).__name__} returns no loss for a batch of {', '.join(batch)}. Give batches with labels, or a "
            f"loss of your own: `Scoring(lambda model, batch: ..., batches)`."
        )
    return output.loss


def save(model: nn.Module, folder: str | os.PathLike[str], inputs: object = None, **options: Any) -> None:
    """`model.save_pretrained(folder)` with a configuration that says how the model was pruned.

    Where every layer has the size that a configuration can say, and for masked models, the folder is an ordinary one.
    Otherwise `from_pretrained` refuses it: use `load`.

    Args:
        model: A `PreTrainedModel`, pruned or not, compiled or not.
        folder: The folder.
        inputs: What the model takes, as `example_inputs`. With them it is tried what the configuration alone makes of
            the model.
        options: What `save_pretrained` takes.

    Raises:
        CheckpointError: it is no model of transformers, or its class does not build it from its configuration.
    """
    model = bare(model)
    if not isinstance(model, PreTrainedModel):
        raise CheckpointError(f"{type(model).__name__} has no configuration, so no folder: use `earlycrop.save`.")
    with ordinary_forward(model):
        describe(model, inputs)
    model.save_pretrained(folder, **options)


def load(folder: str | os.PathLike[str], kind: Any = None, **options: Any) -> Any:
    """The model that `save`, `Trainer.save_model` or a checkpoint of a `Trainer` with `Prune` left in a folder.

    Args:
        folder: The folder, or a name on the hub.
        kind: The class of the model; None: the one that the configuration names.
        options: What `from_pretrained` takes: `dtype`, `device_map`, `attn_implementation`, and so on.

    Returns:
        The model in evaluation mode, as narrow as the saved one.

    Raises:
        CheckpointError: the file lacks weights, or the folder is of another class.
    """
    remote = {name: options[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in options}
    config = AutoConfig.from_pretrained(folder, **remote)
    record = forget(config)
    if kind is None:
        kind = _named(config, folder)
    if record is None:
        return kind.from_pretrained(folder, config=config, **options)
    model, found = _sized(kind, record).from_pretrained(folder, config=config, output_loading_info=True, **options)
    missing = [
        str(one) for name in ("missing_keys", "mismatched_keys", "unexpected_keys") for one in found.get(name, ())
    ]
    if missing:
        raise CheckpointError(
            f"{folder} does not hold a whole {kind.__name__}: {len(missing)} tensors do not fit, {missing[0]} first. "
            f"Save it again, or name its class."
        )
    model.__class__ = kind
    setattr(model.config, RECORD, record)
    setattr(model.config, GUARD, dict(LOADER))
    return model


def _named(config: Any, folder: Any) -> Any:
    names = config.architectures or ["no class"]
    if not hasattr(transformers, names[0]):
        raise CheckpointError(f"{folder} is of {names[0]}, which transformers does not have: give `kind`, its class.")
    return getattr(transformers, names[0])


def _sized(kind: Any, record: dict[str, Any]) -> Any:
    """The class, whose models have the sizes of the record before weights are loaded."""

    def __init__(self: Any, config: Any, *args: Any, **options: Any) -> None:
        kind.__init__(self, config, *args, **options)
        apply(self, record)

    own = {"__init__": __init__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), own)


class Prune(TrainerCallback):
    """Asks a pruner at the start of each epoch, and takes what the `Trainer` keeps through the cut.

    Its checkpoints hold the pruner's state, and `train(resume_from_checkpoint=...)` restores it before the weights.
    Every look and the report are logged as the trainer's own figures are. After a cut the best model is looked for
    again, because a dense network is no better version of a pruned one. The model's configuration follows the cut.

    Args:
        pruner: The pruner, made from the trainer's model or from a network inside it.
        trainer: The trainer; a callback is given only parts of it, and not in time to resume.
        every_steps: Ask after that many optimizer steps instead of after each epoch. A stream of data without a
            length has no epochs: then the pruner's `epochs` are as many equal parts of `max_steps`.
        schedule_from_cut: Whether the learning-rate schedule waits for the cut. Until then rates are the optimizer's
            own, as detectors want it; at each cut the schedule begins.

    Raises:
        EarlyCropError: the pruner's network is no part of the trainer's model, or there are several processes.
    """

    def __init__(
        self, pruner: Pruner, trainer: Any, *, every_steps: int | None = None, schedule_from_cut: bool = False
    ) -> None:
        self._follower, self._trainer, self._every = Follower(pruner, schedule_from_cut), trainer, every_steps
        devices = max(trainer.args.world_size, trainer.args.n_gpu)
        if devices > 1:
            raise EarlyCropError(
                f"This trainer uses {devices} devices, for which it wraps the model before the cut. Show it one "
                f"(CUDA_VISIBLE_DEVICES=0), or train in a loop of your own with `Pruner(group=...)`."
            )
        inside(trainer.model, pruner.model, "model")
        # no public way: the weights are loaded before the first event, and what callbacks exported after them
        resume = trainer._load_from_checkpoint

        def resuming(folder: Any, *rest: Any) -> Any:
            self._restore(folder)
            return resume(folder, *rest)

        trainer._load_from_checkpoint = resuming

    @property
    def pruner(self) -> Pruner:
        """The pruner; `pruner.report` is the report of the last cut."""
        return self._follower.pruner

    # The moment ---------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Adopt the optimizer and, if it shall wait, the scheduler."""
        inside(self._trainer.model, self.pruner.model, "model")  # `model_init` builds another one
        self._sized = sized(parts.get("train_dataloader"))
        optimizer = parts["optimizer"]
        self._follower.begin([getattr(optimizer, "optimizer", optimizer)], [parts["lr_scheduler"]])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Ask, if it is asked by epochs; an epoch in whose middle training resumes does not begin."""
        if self._every is None and self._sized and whole(state.epoch or 0.0):
            self._ask(state, state.epoch or 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Ask, if it is asked by steps, or if a stream of data without a length has no epochs."""
        step, steps = state.global_step, state.max_steps
        if self._follower.due(step, steps, self._every, not self._sized):
            self._ask(state, (state.epoch or 0.0) if self._sized else self._follower.progress(step, steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Hold the scheduler, which has been stepped."""
        self._follower.wait()

    def _ask(self, state: Any, epoch: float) -> None:
        report, numbers = self._follower.check(epoch)
        if report is not None:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None
            for callback in self._trainer.callback_handler.callbacks:
                if isinstance(callback, EarlyStoppingCallback):
                    callback.early_stopping_patience_counter = 0
            self._describe()
        if numbers:
            self._trainer.log(numbers)

    # Checkpoints --------------------------------------------------------------------------------------

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Write the pruner's state into the folder of the checkpoint."""
        folder = Path(self._trainer._get_output_dir(trial=None)) / f"checkpoint-{state.global_step}"
        save_state(self._follower.state_dict(), folder / FILE)

    def _restore(self, folder: Any) -> None:
        path = Path(folder) / FILE
        if not path.exists():
            warnings.warn(
                f"{folder} has no {FILE}: it was saved without `Prune`, so the pruner begins with the weights that are "
                f"loaded from it.",
                stacklevel=2,
            )
            return
        self._follower.load_state_dict(load_state(path))
        if self.pruner.pruned:
            self._describe()

    def _describe(self) -> None:
        """Let the configuration follow, as far as there is one."""
        model = bare(self._trainer.model)
        if isinstance(model, PreTrainedModel):
            try:
                with ordinary_forward(model):
                    describe(model, self.pruner.units.example_inputs if model is self.pruner.model else None)
            except CheckpointError as error:
                warnings.warn(f"The configuration does not follow the cut, and training goes on: {error}", stacklevel=2)
