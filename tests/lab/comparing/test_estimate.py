"""How long runs will take: sums by hand, and what is measured once."""

from dataclasses import replace

import pytest
import torch

from earlycrop_lab.comparing import estimate
from earlycrop_lab.comparing.estimate import PASSES, Cost, measured, seconds, table
from earlycrop_lab.tasks import prepare
from earlycrop_lab.tasks.classification import Classification

COST = Cost(start=1000.0, dense=10.0, sparse=1.0, cut=100.0, scoring=0.01, sample=1e-5, evaluation=0.001)
BASE = {"network": "mlp", "sparsity": 0.5, "epochs": 16}


@pytest.mark.parametrize(
    ("method", "dense", "sparse", "passes"),
    [
        ("random-s", 0, 16, 0),
        ("snap", 0, 16, 1),
        ("cropit-s", 0, 16, 7),  # 0.25, 0.375, … in Halving(5)
        ("earlycrop-s", 4, 12, 7),  # the cap, a quarter of the budget; widths in bounded steps
        ("earlycrop-s-poster", 4, 12, 1),
        ("efficient-convnets", 16, 8, 0),  # in full, then half of it again
        ("ltr", 16 + 5 * 15, 15, 0),  # six cuts; each training after the first begins at epoch 1
        ("imp", 16 + 5 * 16, 16, 0),
    ],
)
def test_a_run_is_the_sum_of_its_parts(method, dense, sparse, passes):
    run = Classification(method=method, **BASE)
    assert run.total_epochs == dense + sparse
    by_hand = 1000 + 10 * dense + 1 * sparse + 100 + 0.01 * PASSES * passes + 0.001 * (dense + sparse)
    assert seconds(run, COST) == pytest.approx(by_hand)


def test_dense_has_no_scoring_and_no_cut_of_its_own():
    dense = Classification(method="dense", network="mlp", epochs=16)
    assert seconds(dense, replace(COST, cut=0.0)) == pytest.approx(1000 + 16 * 10.001)


def test_gate_decorators_are_dense_until_their_last_cut():
    """16 in full, 20 Ticks with a Tock of one epoch before every ten, then a quarter to tune what is left."""
    run = Classification(method="gate-decorators", **BASE)
    assert run.total_epochs == 16 + 20 + 2 + 4
    by_hand = 1000 + 10 * 38 + 1 * 4 + 100 + 0.01 * PASSES * 20 + 0.001 * 42
    assert seconds(run, COST) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("method", "cuts", "samples"),
    [
        ("ntk-sap", 20, 3 * 5 * 128),  # in each of five draws two networks, and one before, on 128 samples
        ("synflow", 100, 4),
        ("magnitude-u", 1, 0),
    ],
)
def test_a_score_without_data_costs_the_samples_that_it_makes_up(method, cuts, samples):
    by_hand = 1000 + 16 * 1 + 100 + cuts * samples * 1e-5 + 0.001 * 16
    assert seconds(Classification(method=method, **BASE), COST) == pytest.approx(by_hand, rel=1e-9)


SMALL = {"network": "mlp", "width": 32, "train_size": 256}


def test_a_network_that_is_never_trained_dense_is_not_stepped_dense(monkeypatch):
    """One that is too large for that can still be measured, as it can be trained."""
    sizes, step = [], estimate._epoch

    def noted(setup, device):
        sizes.append(sum(parameter.numel() for parameter in setup.model.parameters()))
        return step(setup, device)

    monkeypatch.setattr(estimate, "_epoch", noted)
    crop = Classification(method="crop-s", sparsity=0.5, **SMALL)
    whole = sum(parameter.numel() for parameter in prepare(crop).model.parameters())
    ((_, cost),) = measured([crop], None, "cpu")
    assert len(sizes) == 1
    assert sizes[0] < 0.6 * whole
    assert cost.dense == 0
    assert cost.scoring > cost.sample > 0
    ((_, cost),) = measured([replace(crop, method="earlycrop-s")], None, "cpu")
    assert sorted(sizes)[1:] == [sizes[0], whole]
    assert cost.dense > 0


def test_what_has_no_room_is_told_and_does_not_stop_the_others(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory.\n Tried to allocate 3 TiB.")

    monkeypatch.setattr(estimate, "_dense", full)
    runs = [Classification(method=method, **SMALL) for method in ("dense", "snip", "crop-s")]
    dense, masked, cut = measured(runs, None, "cpu")
    why = "OutOfMemoryError: out of memory. Tried to allocate 3 TiB."
    assert (dense, masked) == ((runs[0], why), (runs[1], why))
    text = table([dense, masked, cut], [], workers=1).splitlines()
    assert text[1].split()[-4:] == ["1", "0", "–", "–"]
    assert text[5].endswith(", without those that could not be measured here.")
    assert text[6] == f"digits mlp dense, 20 epochs could not be measured here: {why}"
    assert text[7] == f"digits mlp snip 0.95, 20 epochs could not be measured here: {why}"


def test_a_network_is_measured_once_and_cut_once_for_each_sparsity(monkeypatch):
    calls = []
    for name in ("_around", "_dense", "_cut"):
        function = getattr(estimate, name)

        def counted(d, *more, name=name, function=function):
            calls.append((name, d.sparsity if name == "_cut" else None))
            return function(d, *more)

        monkeypatch.setattr(estimate, name, counted)
    runs = [
        Classification(method=method, seed=seed, **SMALL, **pruned)
        for seed in (0, 1)
        for method, pruned in (
            ("dense", {}),
            ("snip", {"sparsity": 0.5}),
            ("crop-s", {"sparsity": 0.5}),
            ("snap", {"sparsity": 0.5}),
            ("snap", {"sparsity": 0.75}),
            ("ltr", {"sparsity": 0.5, "rounds": 3}),
        )
    ]
    costs = list(measured(runs, None, "cpu"))
    assert [run for run, _ in costs] == runs
    assert calls == [("_around", None), ("_dense", None), ("_cut", 0.5), ("_cut", 0.75)]
    by_method = {(run.method, run.sparsity): cost for run, cost in costs}
    dense = by_method["dense", 0.95]
    assert min(dense.start, dense.dense, dense.scoring, dense.evaluation) > 0
    assert by_method["snip", 0.5] == by_method["ltr", 0.5] == dense
    assert dense.sparse == dense.dense
    assert dense.cut == 0
    pruned = by_method["crop-s", 0.5]
    assert pruned == by_method["snap", 0.5]
    assert pruned.cut > 0


def test_a_network_that_cannot_be_cut_so_far_at_random_is_taken_as_dense():
    run = Classification(method="snap", network="mlp", width=16, sparsity=0.999, train_size=256)
    ((_, cost),) = measured([run], None, "cpu")
    assert cost.sparse > 0
    assert cost.cut == 0


def test_the_table_adds_up_and_finished_runs_count_nothing():
    snip = [Classification(method="snip", network="mlp", epochs=20, seed=seed) for seed in range(3)]
    dense = Classification(method="dense", network="mlp", epochs=20)
    cost = Cost(start=20.0, dense=2.0, sparse=2.0, cut=0.0, scoring=0.0, sample=0.0, evaluation=0.0)  # 60 s a run
    text = table([(run, cost) for run in snip[:2]], [snip[2], dense], workers=2).splitlines()
    assert " ".join(text[1].split()) == "digits mlp snip 0.95, 20 epochs 2 1 1 min 00 s 2 min 00 s"
    assert " ".join(text[2].split()) == "digits mlp dense, 20 epochs 0 1 – –"
    assert "In all about 2 min 00 s, 2 side by side: about 1 min 00 s." in text
    assert text[-1] == estimate.HOW
