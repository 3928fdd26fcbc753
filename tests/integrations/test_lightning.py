"""Lightning: the callback repeats the plain loop through the cut, before and after being resumed."""

import copy
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from earlycrop import CheckpointError, EarlyCropError, Pruner, Scoring, get_method
from earlycrop.timing import LazyRegime
from tests.integrations import small
from tests.integrations.small import BATCHES, CUT, EPOCHS, IMAGES, Stream, adam, equal, net, plain, pruner_of, widths

L = pytest.importorskip("lightning.pytorch")
callbacks = pytest.importorskip("lightning.pytorch.callbacks")

from earlycrop.integrations.lightning import Prune, Resized, load_from_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own
BOTH = pytest.mark.parametrize("method", ["snap", "snip"])
LOADER = DataLoader(BATCHES, batch_size=None)
SCORING = Scoring(small.loss, BATCHES)


class Task(L.LightningModule):
    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = net()

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, index):
        value = small.loss(self, batch)
        self.log("loss", value)
        return value

    def validation_step(self, batch, index):
        self.log("val", small.loss(self, batch))
        self.log("when", float(self.current_epoch))

    def configure_optimizers(self):
        optimizer, schedule = adam(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ResizedTask(Resized, Task):
    pass


class Rates(L.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])


def fit(method: str, folder: Path, *others: Any, epochs: int = EPOCHS, resume: Any = None, **options: Any) -> Any:
    """The task, its callback and its trainer."""
    task = Task()
    held, every = options.pop("schedule_from_cut", False), options.pop("every_steps", None)
    network = options.pop("network", lambda task: task)
    prune = Prune(pruner_of(network(task), method), schedule_from_cut=held, every_steps=every)
    options = {
        "logger": False,
        "enable_checkpointing": any(isinstance(one, callbacks.Checkpoint) for one in others),
    } | options
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*others, prune],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(task, LOADER, LOADER, ckpt_path=resume)
    return task, prune, trainer


def every_epoch(folder: Path) -> Any:
    return callbacks.ModelCheckpoint(dirpath=folder / "kept", filename="{epoch}", save_top_k=-1)


WAYS = {"plain": ({}, {}), "bf16": ({"precision": "bf16-mixed"}, {"bf16": True})}
WAYS["accumulated"] = ({"accumulate_grad_batches": 2}, {"accumulate": 2})


@BOTH
@pytest.mark.parametrize("way", WAYS)
def test_it_repeats_the_plain_loop_and_so_does_a_resumed_one(method, way, tmp_path):
    theirs, ours = WAYS[way]
    expected = plain(method, **ours)
    task, prune, _ = fit(method, tmp_path, every_epoch(tmp_path), **theirs)
    assert prune.pruner.report.epoch == CUT
    assert equal(task, expected)
    for epoch in range(EPOCHS - 1):  # before the cut, and after it
        resumed, again, _ = fit(method, tmp_path, resume=tmp_path / "kept" / f"epoch={epoch}.ckpt", **theirs)
        assert equal(resumed, expected)
        assert again.pruner.report.widths == prune.pruner.report.widths


@BOTH
def test_averages_go_through_the_cut_and_through_a_checkpoint(method, tmp_path):
    average = copy.deepcopy(net())
    plain(method, copies=[average])
    task, _, _ = fit(method, tmp_path, callbacks.EMAWeightAveraging(decay=0.9), every_epoch(tmp_path))
    assert equal(task, average)  # Lightning leaves the average in the module
    for epoch in range(EPOCHS - 1):
        resume = tmp_path / "kept" / f"epoch={epoch}.ckpt"
        resumed, _, _ = fit(method, tmp_path, callbacks.EMAWeightAveraging(decay=0.9), resume=resume)
        assert equal(resumed, average)


def test_a_network_inside_the_module(tmp_path):
    task, _, _ = fit("snap", tmp_path, callbacks.EMAWeightAveraging(decay=0.9), network=lambda task: task.net)
    average = copy.deepcopy(net())
    plain("snap", copies=[average])
    assert equal(task, average)


def test_a_checkpoint_is_loaded_for_use(tmp_path):
    task, _, trainer = fit("snap", tmp_path, every_epoch(tmp_path))
    last, first = (tmp_path / "kept" / f"epoch={epoch}.ckpt" for epoch in (EPOCHS - 1, 0))
    found = load_from_checkpoint(Task, last)
    assert type(found) is Task
    assert widths(found) == widths(task) != widths(Task())
    assert torch.equal(found(IMAGES), task(IMAGES))
    assert equal(ResizedTask.load_from_checkpoint(last), task)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Task.load_from_checkpoint(last)
    assert widths(load_from_checkpoint(Task, first)) == widths(Task())
    other = Task()
    prune = Prune(pruner_of(other, "snap"))
    quiet = L.Trainer(
        callbacks=[prune], logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    (seen,) = quiet.validate(other, LOADER, ckpt_path=last, verbose=False)
    assert seen["val"] == trainer.validate(task, LOADER, verbose=False)[0]["val"]
    with pytest.raises(CheckpointError, match="is not part of"):
        trainer.validate(task, LOADER, ckpt_path=first, verbose=False)


def test_looks_and_report_are_logged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    _, prune, _ = fit("snap", tmp_path, logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1))
    (file,) = tmp_path.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(file.open()) if row.get("earlycrop/sparsity")]
    assert [float(row["earlycrop/sparsity"]) for row in rows] == [pytest.approx(prune.pruner.report.weight_sparsity)]
    assert int(rows[0]["step"]) == CUT * len(BATCHES)


def test_the_best_is_looked_for_again_after_the_cut(tmp_path):
    """The earliest is the best here."""
    best = callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", monitor="when", mode="min")
    stopping = callbacks.EarlyStopping("when", mode="min", patience=2)
    task, _, trainer = fit("snap", tmp_path, best, stopping)
    assert Path(best.best_model_path).name == f"epoch={CUT}.ckpt"
    assert stopping.wait_count == EPOCHS - 1 - CUT
    trainer.validate(task, LOADER, ckpt_path="best", verbose=False)


def test_the_schedule_begins_at_the_cut(tmp_path):
    rates = Rates()
    task, _, _ = fit("snap", tmp_path, rates, every_epoch(tmp_path), schedule_from_cut=True)
    steps = len(BATCHES)
    assert rates.seen[: CUT * steps + 1] == [0.01] * (CUT * steps + 1)
    assert rates.seen[CUT * steps + 1] < 0.01
    assert equal(task, plain("snap", held=True))
    for epoch in range(EPOCHS - 1):
        resume = tmp_path / "kept" / f"epoch={epoch}.ckpt"
        assert equal(fit("snap", tmp_path, resume=resume, schedule_from_cut=True)[0], task)


def test_asked_by_steps(tmp_path):
    _, prune, _ = fit("snap", tmp_path, every_steps=4, limit_val_batches=0)
    assert prune.pruner.report.epoch == pytest.approx(8 / len(BATCHES))  # the first multiple of 4 after the first epoch


def test_what_does_not_belong_together_is_refused(tmp_path):
    other = net()
    with pytest.raises(EarlyCropError, match="no part of the module"):
        fit("snap", tmp_path, network=lambda task: other)


def test_the_other_package_of_lightning_takes_the_callback_too(tmp_path):
    other = pytest.importorskip("pytorch_lightning")

    class Other(other.LightningModule):
        forward, training_step, configure_optimizers = Task.forward, Task.training_step, Task.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.net = net()

    task = Other()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = other.Trainer(
        max_epochs=EPOCHS, callbacks=[Prune(pruner_of(task, "snap"))], default_root_dir=tmp_path, **options
    )
    trainer.fit(task, LOADER)
    assert equal(task, plain("snap"))


def test_a_detector_goes_on_where_it_was(tmp_path):
    def watched(resume: Any = None, *others: Any) -> Any:
        task = Task()
        pruner = Pruner(task, "earlycrop-s", 0.5, example_inputs=IMAGES[:2], scoring=SCORING, epochs=12)
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            max_epochs=5,
            callbacks=[Prune(pruner), *others],
            logger=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        trainer.fit(task, LOADER, ckpt_path=resume)
        return pruner

    whole = watched(None, every_epoch(tmp_path))
    assert len(whole.curve) > 1
    again = watched(tmp_path / "kept" / "epoch=0.ckpt")
    assert [(one.epoch, one.value) for one in again.curve] == [(one.epoch, one.value) for one in whole.curve]
    assert again.report.epoch == whole.report.epoch


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("endless", [False, True])
def test_a_stream_is_cut_into_the_epochs_of_the_pruner(endless, every, tmp_path):
    task = Task()
    method = replace(get_method("earlycrop-s"), timing=LazyRegime(1e-9, max_epochs=4))
    pruner = Pruner(task, method, 0.3, example_inputs=IMAGES[:2], scoring=SCORING, epochs=8)
    trainer = L.Trainer(
        max_steps=16,
        accelerator="cpu",
        callbacks=[Prune(pruner, every_steps=every)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader(Stream(BATCHES, endless), batch_size=None))
    assert [look.epoch for look in pruner.curve] == [1, 2, 3, 4]
    assert pruner.report.epoch == 4
