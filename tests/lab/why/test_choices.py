"""Choices inside fixed widths: what is shared, what is measured, and what is kept."""

import json
from dataclasses import replace
from statistics import fmean

import pytest
import torch

import earlycrop
from earlycrop.scores import Inverted, PathNorm, Random
from earlycrop.units import WeightUnits
from earlycrop_lab.checkpoints import alone
from earlycrop_lab.cli import main
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.why import choice_figures, inquiry
from earlycrop_lab.why.branches import grown
from earlycrop_lab.why.choices import CHANCE, Choice, choices, chosen, in_widths, markdown, usual_epoch
from earlycrop_lab.why.independence import Independence

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.starvation.StarvationWarning")  # bad choices starve it

SMALL = Classification(
    method="earlycrop-s", sparsity=0.7, network="cnn", width=6, train_size=100, batch_size=50, epochs=3
)


@pytest.fixture(scope="module")
def seen():
    """What was chosen, the branches as they were right after their cuts, and a copy of each state."""
    states = []

    def watch(branch):
        optimizer = branch.optimizer.state_dict()["state"]
        steps = [float(each["step"]) for each in optimizer.values()]
        states.append({"steps": steps, "widths": {w.layer: w.after for w in branch.report.widths}})

    found = list(chosen(SMALL, 2, (0.6, 0.8), watch=watch))
    return found, states


def test_every_choice_is_in_the_same_widths(seen):
    found, states = seen
    assert [each.widths for each in found] == [state["widths"] for state in states]
    for sparsity in (0.6, 0.8):
        some = [each for each in found if each.sparsity == sparsity]
        assert [each.choice for each in some] == list(choices(earlycrop.get_method("earlycrop-s")))
        assert len({tuple(each.widths.items()) for each in some}) == 1
        assert [each.choice for each in some if each.own] == ["PathNorm"]
    assert found[0].widths != found[-1].widths


def test_the_widths_are_the_methods_own_at_initialisation(seen):
    found, _ = seen
    trained = train(replace(SMALL, sparsity=0.8, method="crop-s"))
    assert trained.report is not None
    assert found[-1].widths == {width.layer: width.after for width in trained.report.widths}


def test_its_own_choice_is_the_run_of_the_laboratory(seen):
    """The branch of the stem and a run of its own are the same training."""
    found, _ = seen
    trained = train(replace(SMALL, sparsity=0.8, prune_at=2.0))
    own = next(each for each in found if each.own and each.sparsity == 0.8)
    assert own.accuracy == trained.columns.metrics["test_accuracy"]
    assert trained.report is not None
    assert own.widths == {width.layer: width.after for width in trained.report.widths}


def test_all_choices_continue_one_training(seen):
    """Each carries the optimizer's state of two dense epochs of two steps."""
    _, states = seen
    assert all(step == 4 for state in states for step in state["steps"])


def test_a_cut_leaves_the_stem_as_it_was():
    *_, stem = grown(SMALL, 1)
    before = {name: value.clone() for name, value in stem.setup.model.state_dict().items()}
    method = earlycrop.get_method("crop-s")
    branches = [stem.cut(SMALL, method) for _ in range(2)]
    accuracies = [branch.finish() for branch in branches]
    after = stem.setup.model.state_dict()
    assert accuracies[0] == accuracies[1]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {float(each["step"]) for each in stem.optimizer.state_dict()["state"].values()} == {2.0}


def test_single_weights_too():
    d = replace(SMALL, method="earlycrop-u", network="mlp", width=8)
    masked = []

    def watch(branch):
        assert isinstance(branch.pruner.units, WeightUnits)
        masked.append(branch.pruner.units.keep.clone())

    found = list(chosen(d, 1, (0.9,), watch=watch))
    assert not any("norms" in each.choice for each in found)  # there are none to differ
    assert len({tuple(each.widths.items()) for each in found}) == 1
    kept = dict(zip([each.choice for each in found], masked, strict=True))
    assert not torch.equal(kept["Magnitude"], kept["opposite of Magnitude"])
    assert not torch.equal(kept["Magnitude"], kept["Random"])


def test_a_ranking_over_all_layers_leaves_its_widths_at_the_cut():
    """Its own choice inside its own widths is what the method itself cuts."""
    d = replace(SMALL, method="crop-s-poster")
    (own, *_) = chosen(d, 1, (0.7,))
    trained = train(replace(d, sparsity=0.7, prune_at=1.0))
    assert own.accuracy == trained.columns.metrics["test_accuracy"]


def test_what_is_done_is_not_done_again(seen):
    found, _ = seen
    done = {each.key for each in found if each.choice != CHANCE or each.sparsity != 0.8}
    (again,) = chosen(SMALL, 2, (0.6, 0.8), done=done)
    before = next(each for each in found if each.choice == CHANCE and each.sparsity == 0.8)
    assert replace(again, seconds=before.seconds) == before
    assert not list(chosen(SMALL, 2, (0.6, 0.8), done={each.key for each in found}))


def test_independence_by_hand():
    """Correlations of 1/2 between two channels: λ are 3/2 and 1/2, so 4 / (9/4 + 1/4) = 8/5 of 2."""
    rows = torch.tensor([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, -1.0], [0.0, 1.0], [0.0, -1.0]])
    assert float(torch.corrcoef(rows.T)[0, 1]) == pytest.approx(0.5)
    seen = Independence()
    seen.add(rows[:2])  # in parts, as batches come
    seen.add(rows[2:])
    assert seen.value == pytest.approx(0.8)


def test_independence_against_eigenvalues():
    rows = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) @ torch.randn(
        7, 7, generator=torch.Generator().manual_seed(1)
    )
    seen = Independence()
    seen.see(torch.nn.Conv2d(1, 7, 1), (), rows.view(10, 5, 1, 7).permute(0, 3, 1, 2))
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.double().T))
    assert seen.value == pytest.approx(float(values.sum() ** 2 / values.square().sum()) / 7, rel=1e-5)


def test_copies_and_dead_channels_are_not_independent():
    a, b = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    for columns, wanted in (
        ((a, b), 1.0),
        ((a, 5 - 3 * a), 0.5),
        ((a, b, torch.full((4,), 0.1)), 2 / 3),
        ((torch.ones(4), torch.ones(4)), 0.0),
    ):
        seen = Independence()
        seen.add(torch.stack(columns, 1))
        assert seen.value == pytest.approx(wanted)
    alone = Independence()
    alone.add(a[:, None])
    assert alone.value is None


def test_what_can_be_chosen_by():
    assert list(choices(earlycrop.get_method("earlycrop-s")))[:3] == ["PathNorm", "Random", "opposite of PathNorm"]
    ways = choices(earlycrop.get_method("crop-s-poster"))
    assert list(ways)[:3] == ["Crop", "Random", "opposite of Crop"]
    assert not any("norms" in name for name in ways)  # they are as they are for the method too
    scores = [way.score for way in choices(earlycrop.get_method("earlycrop-s")).values()]
    assert scores[:3] == [PathNorm(), Random(), Inverted(PathNorm())]
    with pytest.raises(ValueError, match="does not cut at one moment"):
        in_widths(earlycrop.get_method("dense"))
    with pytest.raises(ValueError, match="from 0 to 2, not at 3"):
        next(chosen(SMALL, 3, (0.5,)))
    assert usual_epoch(replace(SMALL, epochs=10)) == 3


def made(choice: str, seed: int, accuracy: float) -> Choice:
    return Choice(
        *("earlycrop-s", 0.95, seed, 3, 12, choice),
        own=choice == "PathNorm",
        widths={"conv": 4},
        accuracy=accuracy,
        cut_accuracy=0.4,
        cut_loss=2.0,
        variation=0.5,
        independence=0.75,
        seconds=1.0,
    )


RUNS = [
    made(choice, seed, mean + aside)
    for choice, mean in (("PathNorm", 0.9), (CHANCE, 0.7), ("opposite of PathNorm", 0.4), ("Crop", 0.71))
    for seed, aside in enumerate((-0.02, 0.0, 0.02))
]


def test_the_table_compares_with_chance():
    lines = {line.split(" |")[0].strip("| "): line for line in markdown(RUNS).splitlines() if line.startswith("| ")}
    assert "| better |" in lines["PathNorm (its own)"]
    assert "90.0 ± 2.0 %" in lines["PathNorm (its own)"]
    assert "+20 (" in lines["PathNorm (its own)"]
    assert "| worse |" in lines["opposite of PathNorm"]
    assert "| inconclusive |" in lines["Crop"]
    assert "70.0 ± 2.0 % | 3 | – | – |" in lines["Random"]
    assert list(lines)[2:] == ["PathNorm (its own)", "Crop", "Random", "opposite of PathNorm"]  # the best first


def test_the_picture_has_a_row_a_choice_and_a_line_at_chance():
    figure = choice_figures.choice(RUNS, 0.95, "a title")
    end = figure.axes[0]
    assert [label.get_text() for label in end.get_yticklabels()] == [
        "PathNorm",
        "Crop",
        "Random",
        "opposite of PathNorm",
    ]
    dots = [line for line in end.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([0.9, 0.71, 0.7, 0.4])
    assert dots[0].get_color() == choice_figures.COLOURS["better"]
    bars = [line for line in end.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]]
    assert max(bars[0].get_xdata()) < 1


def test_asked_on_the_command_line_it_goes_on_where_it_was(tmp_path, capsys):
    asked = ["why", "choice", "--method=earlycrop-s", "--network=cnn", "--width=6", "--train-size=100", "--epochs=2"]
    asked += ["--sparsities=0.7", "--at=1", "--device=cpu", f"--out={tmp_path}"]
    assert main(asked) == 0
    (folder,) = tmp_path.glob("why-choice-*")
    assert folder.name == "why-choice-digits-cnn-earlycrop-s-train100-width6-epochs2-at1"
    stored = json.loads((folder / "records.json").read_text())
    assert {path.name for path in folder.iterdir()} == {
        "records.json",
        "table.md",
        "choice-0.7.png",
        "choice-0.7.svg",
    }
    kept, stored["choices"] = stored["choices"], stored["choices"][1:]
    (folder / "records.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert main(asked) == 0
    assert capsys.readouterr().out.count("seed 0") == 1  # only what was lacking
    again = json.loads((folder / "records.json").read_text())["choices"]
    assert {json.dumps({**each, "seconds": 0}) for each in again} == {
        json.dumps({**each, "seconds": 0}) for each in kept
    }
    answer = inquiry.of(folder)
    assert answer.title == "What is the choice of earlycrop-s worth?"
    assert fmean(len(chart.figure.axes) for chart in answer.charts) == 3
    assert main([*asked, "--learning-rate=0.01"]) == 0  # another question, another folder
    assert len(list(tmp_path.glob("why-choice-*"))) == 2
    assert usual_epoch(SMALL) == 1


@pytest.mark.parametrize("question", ["choice", "early", "moment", "flow"])
def test_two_do_not_answer_the_same_question_at_once(question, tmp_path, capsys, monkeypatch):
    """The second would write its records over those of the first."""
    monkeypatch.setattr("earlycrop_lab.verbs.questions.stem_after", lambda *_: pytest.fail("trained"))
    names = {
        "choice": "why-choice-digits-cnn-snap-at0",
        "early": "why-early-digits-cnn-snap",
        "moment": "why-moment-digits-cnn-snap-0.95-seed0",
        "flow": "why-flow-digits-cnn-after0",
    }
    with alone(tmp_path / names[question]):
        assert main(["why", question, "--method=snap", "--network=cnn", f"--out={tmp_path}"]) == 2
    assert f"Another process is at work in {tmp_path / names[question]}" in capsys.readouterr().err
