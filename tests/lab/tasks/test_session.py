"""What every task's setup promises the pruner."""

from dataclasses import replace

import pytest
import torch

import earlycrop
from earlycrop.steps import OneShot
from earlycrop_lab.data.dataset import Dataset
from earlycrop_lab.data.pairs import Pairs
from earlycrop_lab.data.text import Text
from earlycrop_lab.tasks import TASKS, get_task, prepare
from earlycrop_lab.tasks.session import pruner_of

SMALL = {
    "classification": {"network": "mlp", "width": 16, "train_size": 256},
    "depth": {"width": 4, "image_width": 40, "batch_size": 8, "train_size": 16},
    "language": {"network": "lstm", "width": 8, "train_size": 4000, "batch_size": 8},
}


UNLOADED = {
    "classification": "inside scikit-learn",
    "depth": "rendered on the spot",
    "control": "simulated on the spot",
    "language": "inside the package",
}


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_has_without_a_download_says_where_it_is_from(task):
    d = get_task(task).description(method="dense", **SMALL.get(task, {}))
    assert UNLOADED[task] in prepare(d).data


@pytest.mark.filterwarnings("ignore::earlycrop.reach.ReachWarning")  # embeddings hold most of a small language model
@pytest.mark.parametrize("task", SMALL)
def test_pruning_never_asks_for_the_test_split(task, monkeypatch):
    """NTK-SAP takes tokens from the example inputs, so these count too."""

    def secret(*_):
        raise AssertionError("the test split was asked for")

    monkeypatch.setattr(Dataset, "test_batches", secret)
    monkeypatch.setattr(Pairs, "test_batches", secret)
    monkeypatch.setattr(Text, "whole", secret)
    d = get_task(task).description(method="ntk-sap", sparsity=0.5, **SMALL[task])
    setup = prepare(d, None, torch.device("cpu"))
    once = replace(earlycrop.get_method(d.method), steps=OneShot())
    assert pruner_of(d, setup, method=once).check(0) is not None
    with pytest.raises(AssertionError, match="the test split"):
        setup.evaluate(setup.model)
