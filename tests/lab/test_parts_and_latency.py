"""A run whose parts have sparsities of their own, and one whose budget is measured in milliseconds."""

import json
from dataclasses import asdict, replace

import pytest

from earlycrop.counting import measuring
from earlycrop_lab.cli import main
from earlycrop_lab.runs import folder_name, run, start_over
from earlycrop_lab.tasks import described
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.description import TooShort
from earlycrop_lab.tasks.progress import Silent

SMALL = {"network": "mlp", "width": 64, "epochs": 3, "train_size": 640, "method": "crop-s"}


def test_parts_name_the_folder_in_any_order_and_survive_a_file():
    one = Classification(part="layer2+layer1=0.5,fc = .2")
    assert one.part == "fc=0.2,layer1+layer2=0.5"
    assert one == Classification(part="fc=0.2,layer1+layer2=0.50")
    assert one.parts == {("fc",): 0.2, ("layer1", "layer2"): 0.5}
    assert folder_name(one) == "digits-resnet18-earlycrop-s-0.95-parts-fc_0.2_layer1_layer2_0.5-seed0"
    assert described("classification", json.loads(json.dumps(asdict(one)))) == one
    assert eval(repr(one)) == one
    assert one.dense_twin().part is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("layer1", "as in layer1=0.5"),
        ("=0.5", "as in layer1=0.5"),
        ("layer1=half", "'layer1=half' is not"),
        ("layer1=0.5,", "'' is not"),
        ("layer1=0.5+layer2", "as in layer1=0.5"),
        ("layer1=1", "at least 0 and below 1; 1 is not"),
        ("layer1=nan", "nan is not"),
        ("layer1=0.5,layer2+layer1=0.6", "'layer1' is given to two parts"),
    ],
)
def test_parts_that_mean_nothing_are_refused(part, message):
    with pytest.raises(ValueError, match="part") as refused:
        Classification(part=part)
    assert message in str(refused.value)


def test_the_rest_may_stay_whole_if_a_part_does_not():
    assert Classification(sparsity=0.0, part="layer1=0.5").highest == 0.5
    for part in (None, "layer1=0"):
        with pytest.raises(ValueError, match="sparsity is the fraction to remove"):
            Classification(sparsity=0.0, part=part)
    with pytest.raises(ValueError, match="dense removes nothing: leave out part"):
        Classification(method="dense", part="layer1=0.5")


def test_the_number_of_trainings_follows_the_highest_sparsity():
    usual = Classification(method="ltr", sparsity=0.5, epochs=30)
    assert replace(usual, part="fc=0.98").total_epochs == replace(usual, sparsity=0.98).total_epochs
    with pytest.raises(TooShort):
        replace(usual, part="fc=0.98", equal_budget=True, epochs=3)


def test_the_command_takes_several_parts_and_a_dry_run_tells_of_them(tmp_path, capsys):
    command = ["train", "--dry-run", "--network=mlp", "--width=16", "--method=crop-u", f"--out={tmp_path}"]
    assert main([*command, "--sparsity=0.5", "--part", "fc1=0.8", "--part=fc3=0"]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == "plan-digits-mlp-crop-u-0.5-parts-fc1_0.8_fc3_0.0-width16-seed0"
    parts = {one["part"]: one for one in json.loads((folder / "plan.json").read_text())["parts"]}
    assert {name: one["requested"] for name, one in parts.items()} == {"fc1": 0.8, "fc3": 0.0, "the rest": 0.5}
    for one in parts.values():
        assert 1 - one["after"] / one["before"] == pytest.approx(one["requested"], abs=0.01)
    assert "asked for 0.8" in capsys.readouterr().out


def test_a_part_that_the_network_does_not_have_is_refused_before_training(tmp_path, capsys):
    command = ["train", "--network=mlp", "--width=16", "--method=crop-s", f"--out={tmp_path}"]
    assert main([*command, "--part=fc7=0.5"]) == 2
    assert "the model has no module or parameter of that name. Did you mean 'fc" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Leaves(Silent):
    """Interrupts training after its second epoch, which is the first after the cut."""

    def epoch(self, epoch, figures):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_latency_is_measured_once_for_a_run_however_often_it_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "ROUNDS", (3, 3))
    d = Classification(**SMALL, sparsity=0.01, target="latency", prune_at=1)  # so little leaves on any machine
    with pytest.raises(KeyboardInterrupt):
        run(d, tmp_path, progress=Leaves())
    kept = tmp_path / folder_name(d) / "latency.json"
    measured = kept.read_bytes()
    monkeypatch.setattr(measuring, "_Rounds", None)  # nothing is measured again
    done = run(d, tmp_path)
    assert kept.read_bytes() == measured
    assert done.report is not None
    assert done.report["target"] == "latency"
    assert done.report["after"]["other"] < done.report["before"]["other"]
    start_over([d], tmp_path)
    assert not kept.exists()


def test_masks_save_no_latency():
    with pytest.raises(ValueError, match="masks weights, which makes no layer smaller"):
        Classification(method="crop-u", target="latency")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--target=latency"], "without torchrun"),
        (["why", "flow", "--target=latency"], "choose another --target"),
    ],
)
def test_where_a_latency_would_be_measured_again_and_again_it_is_refused(command, message, monkeypatch, capsys):
    if command[0] == "train":
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 2
    assert message in capsys.readouterr().err
