"""Why it works: flows, what every rule sees of a training, and the sweep of the moment."""

import math
from dataclasses import replace

import pytest
import torch

from earlycrop_lab.cli import main
from earlycrop_lab.reporting.charts.canvas import PAPER
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.verbs import comparison as verb
from earlycrop_lab.why import flow_figures, inquiry, moment_figures, moments
from earlycrop_lab.why.branches import grown
from earlycrop_lab.why.flows import Flow
from earlycrop_lab.why.moments import RULES, Watched, swept, watched
from tests.lab.results import result as make

SMALL = Classification(
    method="earlycrop-s", sparsity=0.7, network="mlp", width=16, train_size=100, batch_size=50, epochs=9
)


@pytest.fixture(scope="module")
def seen() -> Watched:
    return watched(SMALL, samples=2)


def test_what_is_watched_is_the_dense_training(seen):
    states = [
        torch.cat([p.detach().flatten().double() for p in stem.setup.model.parameters() if p.ndim > 1])
        for stem in grown(SMALL, SMALL.epochs)
    ]
    assert seen.epochs == tuple(range(10))
    assert seen.norm == pytest.approx([float(state.norm()) for state in states])
    assert seen.drift == pytest.approx([float((s - states[0]).norm() / states[0].norm()) for s in states])
    assert seen.from_start[0] == 0
    assert math.isnan(seen.pace[0])
    assert seen.pace[1] == pytest.approx(seen.from_start[1])
    lazy, unsquared = seen.rules[:2]
    assert lazy.seen == unsquared.seen == pytest.approx(seen.drift[1:])


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        ("rate settled", "earlycrop-s-rate"),
        ("kernel settled", "earlycrop-s-ntk"),
        ("score settled", "earlycrop-s-score"),
    ],
)
def test_a_rule_chooses_the_epoch_at_which_it_prunes_in_a_run(seen, rule, method):
    watch = next(each for each in seen.rules if each.rule == rule)
    trained = train(replace(SMALL, method=method, epochs=36))  # whose cap is at nine
    assert trained.report is not None
    if watch.chosen is None:
        assert (trained.report.reason, trained.report.epoch) == ("cap", 9)
    else:
        assert (trained.report.reason, trained.report.epoch) == ("trigger", watch.chosen)
    looks = [check.value for check in trained.report.curve]
    assert list(watch.seen)[: len(looks)] == pytest.approx(looks)


def run_at(epoch: float, accuracy: float, seed: int = 0):
    description = Classification(method="crop-s", epochs=20, prune_at=epoch, seed=seed)
    result = make(description)
    return replace(result, columns=replace(result.columns, metrics={"test_accuracy": accuracy}))


def by_hand() -> Watched:
    watch = {"epochs": (1.0, 2.0), "seen": (1.0, 0.5), "signal": (1.0, 0.5), "threshold": 0.1}
    chosen = {"rate settled": 3.0, "score settled": 4.0, "kernel settled": 9.0}
    rules = tuple(moments.Watch(rule, chosen=chosen.get(rule), seconds=0.25, **watch) for rule in RULES)
    return Watched((0, 1), (1.0, 1.0), (0.0, 0.1), (0.0, 0.2), (math.nan, 0.2), rules)


def test_how_far_each_choice_is_from_the_best():
    results = [run_at(0, 0.50), run_at(3, 0.60), run_at(3, 0.70, seed=1), run_at(5, 0.75), run_at(9, 0.55)]
    accuracies, chosen = swept(results, by_hand())
    assert accuracies == {0: [0.50], 3: [0.60, 0.70], 5: [0.75], 9: [0.55]}
    found = {each.rule: (each.epoch, each.reason, round(each.behind, 6)) for each in chosen}
    assert found["lazy regime"] == (5, "cap", 0)  # never within a quarter of 20
    assert found["rate settled"] == (3, "trigger", 0.1)
    assert found["score settled"] == (3, "trigger", 0.1)  # of two equally near, the earlier
    assert found["kernel settled"] == (5, "cap", 0)


def test_a_sweep_is_of_one_description():
    with pytest.raises(ValueError, match="prune_at and the seed alone"):
        swept([run_at(1, 0.5), make(Classification(method="snap", epochs=20, prune_at=2))], by_hand())
    with pytest.raises(ValueError, match="prune_at and the seed alone"):
        swept([], by_hand())


def test_the_pictures_show_what_was_found(seen):
    found = [Flow(m, s, 0, 1, 2.0, 2.0 * s, s) for m in ("crop-u", "snip", "snap") for s in (0.5, 0.9)]
    figure = flow_figures.flow(found)
    lines = {line.get_label(): list(line.get_ydata()) for axes in figure.axes[:2] for line in axes.get_lines()}
    assert lines["snip"] == pytest.approx([0.5, 0.9])
    assert lines["snap"] == pytest.approx([0.5, 0.9])
    figure = moment_figures.training(seen, "a title")
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == [
        rule for rule in RULES if rule != "early bird"
    ]  # which sees norms, and there are none
    accuracies, chosen = swept([run_at(0, 0.5), run_at(3, 0.6)], by_hand())
    figure = moment_figures.moment(accuracies, chosen, by_hand(), "a title")
    assert len(figure.axes[1].texts) == len(RULES)


def test_what_a_rule_chooses_without_its_cap_is_marked_beside_what_stands_for_it():
    runs = [run_at(0, 0.50), run_at(3, 0.60), run_at(5, 0.75)]
    axes = moment_figures.moment(*swept(runs, by_hand()), by_hand()).axes[1]
    marks = {"hollow": set(), "fired": set(), "capped": set()}
    rules = [label.get_text() for label in axes.get_yticklabels()]
    for line in axes.lines:
        kind = "capped" if line.get_marker() == "s" else "fired"
        if line.get_marker() in "os":
            kind = "hollow" if line.get_markerfacecolor() == PAPER else kind
            marks[kind] |= {(rules[int(y)], float(x)) for x, y in line.get_xydata()}
    assert marks["hollow"] == {("score settled", 4), ("kernel settled", 9)}  # between swept epochs; after the cap
    assert marks["fired"] == {("rate settled", 3), ("score settled", 3)}
    assert marks["capped"] == {(rule, 5) for rule in RULES} - {("rate settled", 5), ("score settled", 5)}


def test_records_are_drawn_as_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "compare", lambda runs, *_: [(run, make(run, test_accuracy=0.5)) for run in runs])
    monkeypatch.setattr(moments, "watched", lambda *_, **__: by_hand())
    asked = ["why", "moment", "--device=cpu", "--epochs=20", "--at", "0", "3", f"--out={tmp_path}"]
    assert main(asked) == 0
    (folder,) = tmp_path.glob("why-*")
    found = inquiry.of(folder)
    assert found.title == "When to prune? earlycrop-s at 95 %"
    assert found.setting == "resnet18 of width 32 on digits, 20 epochs"
    moment, training = found.charts
    assert "Never in 1 epochs: lazy regime; lazy regime, unsquared; authors' code; early bird." in moment.note
    assert "rate settled 250 ms" in moment.note
    (kernel,) = [line.get_ydata() for line in training.figure.axes[2].lines if len(line.get_ydata()) == 1]
    assert list(kernel) == [0.2]  # at epoch 0 there is none before


@pytest.mark.parametrize("text", ["{}", '{"asked": "print()", "found": []}', '{"asked": "1 +", "found": []}'])
def test_what_is_no_answer_is_refused(tmp_path, text):
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(ValueError, match=r"records.json is no answer of `earlycrop why`"):
        inquiry.of(tmp_path)
