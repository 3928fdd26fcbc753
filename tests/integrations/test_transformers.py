"""The Hugging Face Trainer: the callback repeats the plain loop through the cut, before and after being resumed."""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from earlycrop import CheckpointError, EarlyCropError, Pruner, Scoring, get_method
from earlycrop.timing import AtEpoch, LazyRegime
from tests.integrations.small import Stream, equal
from tests.integrations.words import IDS, LABELS, bert, gpt2

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from earlycrop.integrations.transformers import Prune, load, loss, save

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
BUILD = {"gpt2": gpt2, "bert": bert}
NEXT = torch.where(torch.arange(IDS.shape[1]) == 0, -100, IDS)  # the trainer counts labels, the model all but the first
TARGETS = {"gpt2": NEXT, "bert": LABELS}
EPOCHS, CUT, BATCH = 3, 1, 4
STEPS = len(IDS) // BATCH


def pruner_of(model: nn.Module, name: str, method: str, **options: Any) -> Pruner:
    at_the_cut = replace(get_method(method), timing=AtEpoch(CUT))
    scoring = Scoring(loss, [{"input_ids": IDS, "labels": TARGETS[name]}])
    return Pruner(model, at_the_cut, 0.3, example_inputs=IDS[:2], scoring=scoring, epochs=EPOCHS, **options)


def plain(name: str, method: str, bf16: bool = False, accumulate: int = 1, held: bool = False) -> nn.Module:
    """The model after a loop of one's own; if held, a linear schedule begins at the cut."""
    model = BUILD[name]().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.0)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, EPOCHS * STEPS)
    pruner = pruner_of(model, name, method, optimizer=optimizer)
    for epoch in range(EPOCHS):
        pruner.check(epoch)
        for number, (ids, labels) in enumerate(zip(IDS.split(BATCH), TARGETS[name].split(BATCH), strict=True), start=1):
            with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
                value = loss(model, {"input_ids": ids, "labels": labels}) / accumulate
            value.backward()
            if number % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                if held and pruner.pruned:
                    schedule.step()
    return model


def train(
    name: str, method: str, folder: Path, resume: Any = None, schedule_from_cut: bool = False, **options: Any
) -> Any:
    """The model, its pruner and its trainer."""
    model = BUILD[name]()
    pruner = pruner_of(model, name, method)
    defaults = {"lr_scheduler_type": "linear" if schedule_from_cut else "constant", "save_strategy": "no"}
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-2,
        adam_epsilon=1e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="epoch",
        train_sampling_strategy="sequential",
        **(defaults | options),
    )
    data = [{"input_ids": ids, "labels": label} for ids, label in zip(IDS, TARGETS[name], strict=True)]
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.add_callback(Prune(pruner, trainer, schedule_from_cut=schedule_from_cut))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model, pruner, trainer


WAYS = {"plain": ({}, {}), "bf16": ({"bf16": True}, {"bf16": True})}
WAYS["accumulated"] = ({"gradient_accumulation_steps": 2}, {"accumulate": 2})
CASES = [("gpt2", "snap", "plain"), ("bert", "snap", "plain"), ("bert", "snip", "plain")]
CASES += [
    ("bert", "snap", "bf16"),
    ("gpt2", "snip", "bf16"),
    ("gpt2", "snap", "accumulated"),
]  # BERT ignores how many labels there are


@pytest.mark.parametrize(("name", "method", "way"), CASES)
def test_it_repeats_the_plain_loop_and_so_does_a_resumed_one(name, method, way, tmp_path):
    theirs, ours = WAYS[way]
    model, pruner, _ = train(name, method, tmp_path, save_strategy="epoch", **theirs)
    assert pruner.report.epoch == CUT
    assert equal(model, plain(name, method, **ours), 1e-5)
    steps = STEPS // theirs.get("gradient_accumulation_steps", 1)
    for epoch in range(1, EPOCHS):  # before the cut, and after it
        resumed, again, _ = train(name, method, tmp_path, tmp_path / f"checkpoint-{epoch * steps}", **theirs)
        assert equal(resumed, model)
        assert again.report.widths == pruner.report.widths


def test_in_the_middle_of_an_epoch_and_with_a_schedule_that_waits_for_the_cut(tmp_path):
    model, _, trainer = train("bert", "snap", tmp_path, schedule_from_cut=True, save_strategy="steps", save_steps=3)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] == 1e-2 > rates[1] > rates[2] > 0
    assert equal(model, plain("bert", "snap", held=True), 1e-5)
    for step in (3, 6, 9):
        resume = tmp_path / f"checkpoint-{step}"
        assert equal(train("bert", "snap", tmp_path, resume, schedule_from_cut=True)[0], model)


def test_the_best_model_is_one_from_after_the_cut(tmp_path):
    """The largest loss counts as the best here, and it is the dense network's."""
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    best |= {"metric_for_best_model": "loss", "greater_is_better": True}
    model, _, trainer = train("bert", "snap", tmp_path, **best)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert max(losses) == losses[0]
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{(CUT + 1) * STEPS}"
    assert equal(load(trainer.state.best_model_checkpoint), model)


def test_checkpoints_are_models_and_the_report_is_in_the_log(tmp_path):
    model, pruner, trainer = train("gpt2", "snap", tmp_path, save_strategy="epoch")
    found = load(tmp_path / f"checkpoint-{EPOCHS * STEPS}")
    assert torch.equal(found(IDS).logits, model.eval()(IDS).logits)
    trainer.save_model(str(tmp_path / "saved"))
    assert equal(load(tmp_path / "saved"), model, 0.0)
    (entry,) = [entry for entry in trainer.state.log_history if "earlycrop/sparsity" in entry]
    assert entry["earlycrop/sparsity"] == pruner.report.weight_sparsity
    assert entry["step"] == CUT * STEPS


def test_a_checkpoint_from_before_the_callback_is_where_the_pruner_begins(tmp_path):
    train("bert", "snap", tmp_path, save_strategy="epoch")
    (tmp_path / f"checkpoint-{STEPS}" / "earlycrop.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"no earlycrop\.safetensors"):
        _, pruner, _ = train("bert", "snap", tmp_path, tmp_path / f"checkpoint-{STEPS}")
    assert pruner.report.epoch == CUT


def test_what_does_not_belong_together_is_refused(tmp_path):
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = transformers.Trainer(bert(), arguments)
    with pytest.raises(EarlyCropError, match="no part of the model that is trained"):
        Prune(pruner_of(bert(), "bert", "snap"), trainer)


def test_a_batch_without_labels_has_no_loss():
    with pytest.raises(EarlyCropError, match="returns no loss for a batch of input_ids"):
        loss(bert(), {"input_ids": IDS})


LABELLED = [{"input_ids": ids, "labels": label} for ids, label in zip(IDS, LABELS, strict=True)]


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("endless", [False, True])
def test_a_stream_is_cut_into_the_epochs_of_the_pruner(endless, every, tmp_path):
    """`state.epoch` means nothing there; a resumed training asks at the same steps."""

    def trained(resume: Any = None) -> Prune:
        model = bert()
        scoring = Scoring(loss, [{"input_ids": IDS, "labels": LABELS}])
        method = replace(get_method("earlycrop-s"), timing=LazyRegime(1e-9, max_epochs=4))
        pruner = Pruner(model, method, 0.3, example_inputs=IDS[:2], scoring=scoring, epochs=8)
        arguments = transformers.TrainingArguments(
            str(tmp_path), max_steps=16, per_device_train_batch_size=BATCH, use_cpu=True, report_to=[],
            disable_tqdm=True, save_strategy="steps", save_steps=5, learning_rate=1e-3,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=Stream(LABELLED, endless))
        prune = Prune(pruner, trainer, every_steps=every)
        trainer.add_callback(prune)
        trainer.train(resume_from_checkpoint=resume)
        return prune

    whole, resumed = trained(), trained(str(tmp_path / "checkpoint-5"))
    for prune in (whole, resumed):
        assert [look.epoch for look in prune.pruner.curve] == [1, 2, 3, 4]
        assert prune.pruner.report.epoch == 4


def test_a_model_that_its_class_cannot_build_is_trained_on(tmp_path):
    """The configuration is for folders; that it cannot follow a cut is no reason to end a training."""

    class Own(type(bert())):
        def __init__(self, config, needed):
            super().__init__(config)

    head = bert()
    wide, labels = head.config.hidden_size, head.config.num_labels
    head.classifier = nn.Sequential(nn.Linear(wide, 8), nn.ReLU(), nn.Linear(8, labels))
    for model in (head, Own(bert().config, needed=1)):
        pruner = pruner_of(model, "bert", "crop-s")
        arguments = transformers.TrainingArguments(str(tmp_path), max_steps=4 * STEPS, use_cpu=True, report_to=[])
        trainer = transformers.Trainer(model, arguments, train_dataset=LABELLED)
        trainer.add_callback(Prune(pruner, trainer))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer.train()
        assert pruner.pruned
        assert any("The configuration does not follow the cut" in str(one.message) for one in seen)
        with pytest.raises(CheckpointError, match=r"earlycrop\.save"):
            save(model, tmp_path / "folder")
