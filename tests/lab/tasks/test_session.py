"""What every task's setup promises the pruner."""

from dataclasses import replace

import pytest
import torch

import earlycrop
from earlycrop.counting import flops
from earlycrop.steps import OneShot
from earlycrop_lab.data.dataset import Dataset
from earlycrop_lab.data.pairs import Pairs
from earlycrop_lab.data.text import Text
from earlycrop_lab.models import LANGUAGE, NETWORKS, build
from earlycrop_lab.tasks import TASKS, get_task, prepare, train
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.control import Control
from earlycrop_lab.tasks.depth import Depth
from earlycrop_lab.tasks.language import Language
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


WIDTHS = {"mlp": 16, "resnext101-32x16d": 4, "resnext101-32x48d": 4}
NETWORKED = [
    *(Classification(network=name, data="folder:x", width=WIDTHS.get(name, 8), method="dense") for name in NETWORKS),
    Control(width=8, method="dense"),
    Depth(width=2, method="dense"),
    *(Language(network=name, width=8, method="dense") for name in LANGUAGE),
]


@pytest.mark.filterwarnings("ignore::earlycrop.reach.ReachWarning")
@pytest.mark.parametrize("d", NETWORKED, ids=lambda d: d.network)
def test_flops_are_those_of_the_planner_and_its_products_of_activations(d):
    """The column is counted by PyTorch, a budget by the planner: they agree on every network without a pointer."""
    if d.task == "classification":
        size = max(NETWORKS[d.network].least, 8)
        model = build(d.network, classes=10, size=size, width=d.width, seed=0)
        example = (torch.randn(2, 3, size, size),)
    else:
        setup = prepare(d)
        model, example = setup.model, setup.example
    pruner = earlycrop.Pruner(model, "random-s", earlycrop.Budget(0.5), example_inputs=example, epochs=4)
    before = flops(model, example)
    report = pruner.check(0)
    assert report is not None
    for counted, planned, width in ((before, report.before.flops, 8), (flops(model, example), report.after.flops, 4)):
        read = example[0].shape[1] - 1  # queries, and hidden states; PyTorch counts no product with a vector
        pointer = 2 * width * read * (read - 1) if d.network == "psmm" else 0
        assert counted == pytest.approx(planned + pointer, rel=1e-6)


@pytest.mark.filterwarnings("ignore::earlycrop.reach.ReachWarning")
@pytest.mark.parametrize("network", ["psmm", "lstm"])
def test_dense_and_pruned_runs_count_their_flops_alike(network):
    d = Language(
        method="random-s", sparsity=0.5, network=network, width=8, train_size=4000, batch_size=8, epochs=1, max_steps=1
    )
    pruned, dense, masked = (
        train(each).columns for each in (d, d.dense_twin(), replace(d, method="random-u", target="weight"))
    )
    assert pruned.flops_before == dense.flops_before == dense.flops_after == masked.flops_before == masked.flops_after
    assert pruned.flops_after < pruned.flops_before
