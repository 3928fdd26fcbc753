"""Descriptions, folders, results."""

import json
from dataclasses import fields, replace

import pytest
from torch import nn

from earlycrop.timing import AtEpoch
from earlycrop_lab import runs
from earlycrop_lab.checkpoints import Checkpoints, Occupied, alone
from earlycrop_lab.runs import (
    find,
    finished,
    folder_name,
    has_result,
    once,
    pack,
    read,
    run,
    start_over,
    twin,
    write,
)
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import pruning_method
from earlycrop_lab.tasks.session import Trained
from tests.lab.results import columns, result

NAMES = {
    "digits-resnet18-earlycrop-s-0.95-seed0": Classification(),
    "digits-resnet18-earlycrop-s-0.95-at3.0-seed0": Classification(prune_at=3.0),
    "digits-resnet18-efficient-convnets-0.95-at3.0-seed0": Classification(method="efficient-convnets", prune_at=3.0),
    "digits-resnet18-earlycrop-s-0.95-epochs12-seed0": Classification(epochs=12),
    "digits-resnet18-dense-epochs12-seed3": Classification(method="dense", epochs=12, seed=3),
    "digits-mlp-snip-0.5-width64-seed0": Classification(method="snip", sparsity=0.5, network="mlp", width=64),
    "cifar10-resnet18-crop-s-0.95-node-mixed-round8-train10000-width16-seed1": Classification(
        method="crop-s", target="node", reading="mixed", round_to=8, data="cifar10", train_size=10000, width=16, seed=1
    ),
    "folder_home_me_my_flowers-resnet18-snap-0.95-lr0.001-decay0.0-seed0": Classification(
        method="snap", data="folder:/home/me/my flowers", learning_rate=1e-3, weight_decay=0.0
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_named_from_what_differs_from_the_usual(name):
    assert folder_name(NAMES[name]) == name


@pytest.mark.parametrize("name", NAMES)
def test_a_description_is_its_own_source(name):
    assert eval(repr(NAMES[name])) == NAMES[name]


def test_what_is_usual_may_be_said_and_is_the_same_run():
    said = Classification(network="resnet18", width=32, epochs=20, batch_size=64, learning_rate=0.002)
    assert said == Classification()
    assert Classification(network="mlp").width == 128  # the network's own, not the small ResNet18's


def test_every_field_tells_runs_apart():
    other = {
        "method": "crop-s",
        "sparsity": 0.9,
        "part": "fc=0.5",
        "target": "node",
        "reading": "mixed",
        "prune_at": 2.0,
        "rounds": 3,
        "per_round": 0.2,
        "equal_budget": True,
        "round_to": 8,
        "min_channels": 2,
        "min_part": 0.1,
        "optimizer_state": "reset",
        "bn_mode": "calibrated",
        "rescale": "no",
        "schedule": "constant",
        "data": "cifar10",
        "train_size": 500,
        "image_size": 16,
        "recipe": "paper",
        "network": "mlp",
        "width": 8,
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "max_steps": 3,
        "precision": "bfloat16",
        "channels_last": True,
        "compiled": True,
        "seed": 1,
    }
    assert set(other) == {each.name for each in fields(Classification)}
    base = {
        name: Classification(method="ltr") if "round" in name or name == "equal_budget" else Classification()
        for name in other
    }
    names = {folder_name(replace(base[name], **{name: value})) for name, value in other.items()}
    assert len(names | {folder_name(each) for each in base.values()}) == len(other) + 2


def test_a_moment_that_is_given_replaces_cuts_that_are_spread():
    spread = Classification(method="crop-s-spread", epochs=10, prune_at=3.0)
    assert pruning_method(spread).timing == AtEpoch(3.0)
    assert spread.total_epochs == 10


def test_the_dense_twin_trains_alike_and_has_nothing_of_pruning():
    run = Classification(method="crop-s", sparsity=0.9, target="node", reading="mixed", epochs=7, seed=2)
    assert run.dense_twin() == Classification(method="dense", epochs=7, seed=2)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"method": "earlycorp-s"}, "earlycrop-s"),
        ({"network": "resnet81"}, "Did you mean 'resnet18'"),
        ({"target": "wieght"}, "target cannot be 'wieght'. Did you mean 'weight'"),
        ({"sparsity": 95.0}, "between 0 and 1; 95 is not"),
        ({"sparsity": float("nan")}, "between 0 and 1; nan is not"),
        ({"max_steps": 0}, "max_steps has to be 1 or more, not 0"),
        ({"seed": -1}, "seed has to be 0 or more, not -1"),
        ({"epochs": 10, "prune_at": 9.5}, "prune_at is a whole number of epochs from 0 to 9, .*; 9.5 is not"),
        ({"epochs": 10, "prune_at": 10.0}, "prune_at is a whole number of epochs from 0 to 9, .*; 10 is not"),
        ({"method": "ltr", "rounds": 3, "per_round": 0.2}, "rounds and per_round .* leave out one"),
        (
            {"method": "ltr", "prune_at": 2.0},
            "ltr cuts where its trainings end, which cannot be moved: leave out prune_at",
        ),
        (
            {"method": "crop-s-spread", "equal_budget": True},
            "crop-s-spread is trained once, .*: leave out equal_budget",
        ),
        ({"method": "ltr", "epochs": 1, "equal_budget": True}, "1 epochs cannot be divided"),
        ({"method": "efficient-convnets", "prune_at": 2.0, "equal_budget": True}, "is trained once, .*: leave out"),
        ({"method": "efficient-convnets", "prune_at": 2.0, "rounds": 3}, "cuts at one moment: leave out rounds"),
        ({"method": "snip", "target": "node"}, "snip masks weights.* weight or params, not node"),
        ({"epochs": 0}, "epochs has to be 1 or more, not 0"),
        ({"learning_rate": -1.0}, "learning_rate cannot be -1"),
        ({"learning_rate": float("inf")}, "learning_rate cannot be inf"),
        (
            {"method": "dense", "sparsity": 0.5, "target": "node"},
            "dense removes nothing: leave out sparsity and target",
        ),
        ({"method": "snap", "reading": "mixed"}, "snap does not score with CroP"),
        ({"method": "earlycrop-u", "reading": "mixed"}, "a reading of CroP for channels"),
        ({"epochs": 1}, "earlycrop-s may watch until epoch 1 .* more than 1, not 1"),
    ],
)
def test_a_description_refuses_what_cannot_be(said, error):
    with pytest.raises(ValueError, match=error):
        Classification(**said)


def test_a_result_comes_back_as_it_was(tmp_path):
    whole = result(Classification(epochs=3))
    write(whole, tmp_path)
    assert read(tmp_path) == whole
    assert eval(json.loads((tmp_path / "result.json").read_text())["repr"]) == whole.description
    assert whole.columns.seconds == 3.5


def test_a_result_is_written_whole_or_not_at_all(tmp_path):
    write(result(Classification()), tmp_path)
    before = (tmp_path / "result.json").read_text()
    with pytest.raises(ValueError, match="JSON"):
        write(replace(result(Classification()), columns=columns(kwh=float("nan"))), tmp_path)
    assert (tmp_path / "result.json").read_text() == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"description": {"methd": 1}}'])
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result.json is no result of this laboratory"):
        read(tmp_path)


class Task:
    """In the place of `train`: counts, and breaks when told to."""

    def __init__(self, breaks: bool = False):
        self.calls, self.breaks = 0, breaks

    def __call__(self, description, **_):
        self.calls += 1
        if self.breaks:
            raise KeyboardInterrupt
        whole = result(description)
        return Trained(nn.Linear(2, 3), whole.epochs, None, whole.columns, whole.emissions, "digits")


def test_a_run_whose_result_exists_is_not_run_again(tmp_path, monkeypatch):
    task, said = Task(), []
    monkeypatch.setattr(runs, "train", task)
    first = run(Classification(), tmp_path, say=said.append)
    folder = tmp_path / "digits-resnet18-earlycrop-s-0.95-seed0"
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json"]
    assert first.columns.disk_bytes == (folder / "model.safetensors").stat().st_size
    assert said == []
    assert run(Classification(), tmp_path, say=said.append) == first
    assert task.calls == 1
    assert "not run again" in said[0]
    start_over([Classification()], tmp_path)
    run(Classification(), tmp_path)
    assert task.calls == 2
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json"]


def test_a_run_that_was_cut_off_starts_over(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", Task(breaks=True))
    with pytest.raises(KeyboardInterrupt):
        run(Classification(), tmp_path)
    assert not list(tmp_path.glob("*/result.json"))
    task = Task()
    monkeypatch.setattr(runs, "train", task)
    run(Classification(), tmp_path)
    assert task.calls == 1


def test_a_cut_off_repetition_goes_on_and_the_old_result_waits_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", Task())
    run(Classification(), tmp_path)
    folder = tmp_path / folder_name(Classification())
    first = (folder / "result.json").read_bytes()
    start_over([Classification()], tmp_path)
    task = Task(breaks=True)
    monkeypatch.setattr(runs, "train", task)
    with pytest.raises(KeyboardInterrupt):
        run(Classification(), tmp_path)
    assert (folder / "result-before.json").read_bytes() == first
    task.breaks = False
    run(Classification(), tmp_path)
    assert task.calls == 2
    assert not (folder / "result-before.json").exists()


def test_several_runs_start_over_or_none_does(tmp_path, monkeypatch):
    """The last one is somebody's, and the one before it was never run."""
    monkeypatch.setattr(runs, "train", Task())
    run(Classification(), tmp_path)
    folder = tmp_path / folder_name(Classification())
    (folder / "checkpoint.safetensors").write_bytes(b"of somebody")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    asked = [Classification(seed=seed) for seed in range(3)]
    busy = tmp_path / folder_name(asked[2])
    with Checkpoints(busy, of=repr(asked[2])):
        with pytest.raises(Occupied, match=f"Another process is at work in {busy}"):
            start_over(asked, tmp_path)
        assert set(tmp_path.iterdir()) == {folder, busy}
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    start_over(asked, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "result-before.json"}
    assert set(tmp_path.iterdir()) == {folder}


def test_the_result_of_another_description_is_not_taken_for_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", Task())
    folder = tmp_path / folder_name(Classification())
    folder.mkdir()
    write(result(Classification(epochs=5)), folder)
    with pytest.raises(ValueError, match=r"the result of another description: .*epochs=5"):
        run(Classification(), tmp_path)


def test_a_run_is_found_by_path_name_or_beginning(tmp_path):
    for each in (Classification(seed=0), Classification(seed=1), Classification(method="dense")):
        folder = tmp_path / folder_name(each)
        folder.mkdir()
        write(result(each), folder)
    (tmp_path / "digits-unfinished").mkdir()
    dense = tmp_path / "digits-resnet18-dense-seed0"
    assert find(str(dense), tmp_path / "elsewhere") == dense
    assert find(dense.name, tmp_path) == dense
    assert find("digits-resnet18-d", tmp_path) == dense
    with pytest.raises(ValueError, match=r"could be any of .*seed0, .*seed1"):
        find("digits-resnet18-e", tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'digits-resnet18-dense-seed0'"):
        find("digits-resnet-dense", tmp_path)
    with pytest.raises(ValueError, match="no finished run"):
        find("digits", tmp_path / "elsewhere")


def test_the_twin_is_found_where_it_is(tmp_path):
    assert twin(Classification(), tmp_path) is None
    dense = Classification(method="dense")
    folder = tmp_path / folder_name(dense)
    folder.mkdir()
    write(result(dense), folder)
    assert twin(Classification(), tmp_path) == result(dense)


def test_packed_results_stand_for_their_folders(tmp_path):
    """Packed, moved without their folders, and asked for by every reader."""
    runs_folder, kept = tmp_path / "runs", tmp_path / "kept"
    seeds = [Classification(seed=seed) for seed in range(3)]
    for each in seeds:
        folder = runs_folder / folder_name(each)
        folder.mkdir(parents=True)
        write(result(each), folder)
    assert pack(runs_folder, kept) == 3
    assert [path.name for path in kept.iterdir()] == ["runs.jsonl"]
    assert [read(folder) for folder in finished(kept)] == [read(folder) for folder in finished(runs_folder)]
    assert find("digits-resnet18-earlycrop-s-0.95-seed1", kept) == kept / folder_name(seeds[1])
    assert not has_result(kept / folder_name(Classification(seed=3)))


def test_a_result_in_its_folder_wins_over_a_packed_one_and_replaces_it_when_packed_again(tmp_path):
    folder = tmp_path / folder_name(Classification())
    folder.mkdir()
    write(replace(result(Classification()), data="before"), folder)
    pack(tmp_path, tmp_path)
    write(replace(result(Classification()), data="after"), folder)
    assert read(folder).data == "after"
    assert pack(tmp_path, tmp_path) == 1
    (folder / "result.json").unlink()
    assert read(folder).data == "after"


def test_a_packed_run_is_not_run_again_unless_asked(tmp_path, monkeypatch):
    task = Task()
    monkeypatch.setattr(runs, "train", task)
    folder = tmp_path / folder_name(Classification())
    others = tmp_path / folder_name(Classification(seed=1))
    for each, seed in ((folder, 0), (others, 1)):
        each.mkdir()
        write(result(Classification(seed=seed)), each)
    pack(tmp_path, tmp_path)
    for each in (folder, others):
        (each / "result.json").unlink()
    run(Classification(), tmp_path)
    assert task.calls == 0
    start_over([Classification()], tmp_path)
    assert (folder / "result-before.json").exists()
    assert [path.name for path in finished(tmp_path)] == [others.name]
    run(Classification(), tmp_path)
    assert task.calls == 1


def test_a_damaged_line_of_packed_results_is_named(tmp_path):
    (tmp_path / "runs.jsonl").write_text('{"run": "a", "description": {}}\nnothing\n')
    with pytest.raises(ValueError, match=r"Line 2 of .*runs.jsonl is no packed result"):
        finished(tmp_path)


def test_two_do_not_pack_into_one_folder_at_once(tmp_path):
    folder = tmp_path / folder_name(Classification())
    folder.mkdir()
    write(result(Classification()), folder)
    with alone(tmp_path / "kept"), pytest.raises(ValueError, match="Another process is at work"):
        pack(tmp_path, tmp_path / "kept")
    assert pack(tmp_path, tmp_path / "kept") == 1


def test_a_run_counts_once_however_often_its_folder_was_copied(tmp_path):
    runs = {seed: Classification(seed=seed) for seed in range(2)}
    first, second = (tmp_path / folder_name(each) for each in runs.values())
    found = {
        tmp_path / "a-copy": result(runs[0], test_accuracy=0.1),
        first: result(runs[0], test_accuracy=0.2),
        tmp_path / "moved": result(runs[1], test_accuracy=0.3),
        tmp_path / "moved-again": result(runs[1], test_accuracy=0.4),
    }
    results, copies = once(found)
    assert [each.columns.metrics["test_accuracy"] for each in results] == [0.2, 0.3]
    assert list(copies) == ["a-copy", "moved-again"]
    assert first.name in copies["a-copy"]
    found[second] = result(runs[1], test_accuracy=0.5)
    results, copies = once(found)
    assert [each.columns.metrics["test_accuracy"] for each in results] == [0.2, 0.5]
    assert list(copies) == ["a-copy", "moved", "moved-again"]


def test_two_paths_that_are_called_alike_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "train", Task())
    one, other = (Classification(data=f"folder:{name}") for name in ("a b", "a_b"))
    assert folder_name(one) == folder_name(other)
    run(one, tmp_path)
    with pytest.raises(ValueError, match=r"folder:a b.*Both are called so: give this one another --out"):
        run(other, tmp_path)


def test_only_parts_may_be_cut():
    d = Classification(sparsity=0.0, part="conv1=0.5")
    assert folder_name(d) == "digits-resnet18-earlycrop-s-0.0-parts-conv1_0.5-seed0"
    assert folder_name(replace(d, width=4)) == "digits-resnet18-earlycrop-s-0.0-parts-conv1_0.5-width4-seed0"
    with pytest.raises(ValueError, match="sparsity is the fraction to remove, between 0 and 1; 0 is not"):
        Classification(sparsity=0.0, part="conv1=0")


def test_the_largest_seed_is_the_largest_that_generators_take():
    assert Classification(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ValueError, match=r"seed has to be below 2\*\*63"):
        Classification(seed=2**63)
