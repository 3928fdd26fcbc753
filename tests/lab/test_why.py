"""Why it works: flows, what every rule sees of a training, and the sweep of the moment."""

import json
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from earlycrop_lab import cli, why, why_figures
from earlycrop_lab.charts import PAPER
from earlycrop_lab.cli import main
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.why import RULES, Flow, Watched, dense, flows, swept, watched
from tests.lab.results import result as make

SMALL = Classification(
    method="earlycrop-s", sparsity=0.7, network="mlp", width=16, train_size=100, batch_size=50, epochs=9
)


def test_flows_against_an_explicit_jacobian():
    found = list(flows(SMALL, ("crop-u", "snap"), (0.3, 0.7), epochs=1, samples=3))
    assert [(f.method, f.sparsity) for f in found] == [("crop-u", 0.3), ("crop-u", 0.7), ("snap", 0.3), ("snap", 0.7)]
    *_, (_, scene) = dense(SMALL, 1)
    model, scoring = scene.model, scene.scoring
    model.eval()
    weights = [p for name, p in model.named_parameters() if p.ndim > 1]
    total = sum(len(y) for _, y in scoring)
    loss = sum(F.cross_entropy(model(x), y, reduction="sum") for x, y in scoring) / total
    flow = sum(float(g.double().square().sum()) for g in torch.autograd.grad(loss, weights))
    assert [f.flow_before for f in found] == pytest.approx([flow] * 4, rel=1e-4)
    assert all(f.flow_after < 4 * flow for f in found)
    assert found[0].kernel_change < found[1].kernel_change  # more left


def test_closed_weights_have_no_part_in_the_kernel():
    """K of a masked network is that of the network whose masked weights are constants."""
    from earlycrop.evaluation import MeanLoss
    from earlycrop.kernel import empirical_ntk

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = torch.randn(3, 3, dtype=torch.float64), torch.tensor([0, 1, 0])
    mask = torch.rand(4, 3) < 0.5
    parameters = list(net.parameters())
    rows = []
    for output in net(x).flatten():
        grads = torch.autograd.grad(output, parameters, retain_graph=True)
        rows.append(torch.cat([(grads[0] * mask).flatten(), *(g.flatten() for g in grads[1:])]))
    jacobian = torch.stack(rows)
    loss = MeanLoss(net, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), [(x, y)])
    found = empirical_ntk(loss, parameters, 3, [mask, None, None, None])
    torch.testing.assert_close(found, jacobian @ jacobian.T, atol=1e-12, rtol=0)


@pytest.fixture(scope="module")
def seen() -> Watched:
    return watched(SMALL, samples=2)


def test_what_is_watched_is_the_dense_training(seen):
    states = [
        torch.cat([p.detach().flatten().double() for p in scene.model.parameters() if p.ndim > 1])
        for _, scene in dense(SMALL, SMALL.epochs)
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
    outcome = train(replace(SMALL, method=method, epochs=36))  # whose cap is at nine
    assert outcome.report is not None
    if watch.chosen is None:
        assert (outcome.report.reason, outcome.report.epoch) == ("cap", 9)
    else:
        assert (outcome.report.reason, outcome.report.epoch) == ("trigger", watch.chosen)
    looks = [check.value for check in outcome.report.curve]
    assert list(watch.seen)[: len(looks)] == pytest.approx(looks)


def run_at(epoch: float, accuracy: float, seed: int = 0):
    description = Classification(method="crop-s", epochs=20, prune_at=epoch, seed=seed)
    result = make(description)
    return replace(result, columns=replace(result.columns, metrics={"test_accuracy": accuracy}))


def by_hand() -> Watched:
    watch = {"epochs": (1.0, 2.0), "seen": (1.0, 0.5), "signal": (1.0, 0.5), "threshold": 0.1}
    chosen = {"rate settled": 3.0, "score settled": 4.0, "kernel settled": 9.0}
    rules = tuple(why.Watch(rule, chosen=chosen.get(rule), seconds=0.25, **watch) for rule in RULES)
    return Watched((0, 1), (1.0, 1.0), (0.0, 0.1), (0.0, 0.2), (math.nan, 0.2), rules)


def test_how_far_each_choice_is_from_the_best():
    results = [run_at(0, 0.50), run_at(3, 0.60), run_at(3, 0.70, seed=1), run_at(5, 0.75), run_at(9, 0.55)]
    accuracies, moments = swept(results, by_hand())
    assert accuracies == {0: [0.50], 3: [0.60, 0.70], 5: [0.75], 9: [0.55]}
    found = {each.rule: (each.epoch, each.reason, round(each.behind, 6)) for each in moments}
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
    figure = why_figures.flow(found)
    lines = {line.get_label(): list(line.get_ydata()) for axes in figure.axes[:2] for line in axes.get_lines()}
    assert lines["snip"] == pytest.approx([0.5, 0.9])
    assert lines["snap"] == pytest.approx([0.5, 0.9])
    figure = why_figures.training(seen, "a title")
    assert [label.get_text() for label in figure.axes[3].get_yticklabels()] == [
        rule for rule in RULES if rule != "early bird"
    ]  # which sees norms, and there are none
    accuracies, moments = swept([run_at(0, 0.5), run_at(3, 0.6)], by_hand())
    figure = why_figures.moment(accuracies, moments, by_hand(), "a title")
    assert len(figure.axes[1].texts) == len(RULES)


def test_what_a_rule_chooses_without_its_cap_is_marked_beside_what_stands_for_it():
    runs = [run_at(0, 0.50), run_at(3, 0.60), run_at(5, 0.75)]
    axes = why_figures.moment(*swept(runs, by_hand()), by_hand()).axes[1]
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


def test_lines_of_channels_are_not_cut_off_at_the_height_of_those_of_weights():
    found = [Flow(m, s, 0, 1, 2.0, 1.0, change) for m, change in (("snip", 0.1), ("snap", 3.0)) for s in (0.5, 0.9)]
    low, high = why_figures.flow(found).axes[3].get_ylim()
    assert low == 0
    assert high > 3


def test_records_are_drawn_as_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "compare", lambda runs, *_: [(run, make(run, test_accuracy=0.5)) for run in runs])
    monkeypatch.setattr(why, "watched", lambda *_, **__: by_hand())
    asked = ["why", "moment", "--device=cpu", "--epochs=20", "--at", "0", "3", f"--out={tmp_path}"]
    assert main(asked) == 0
    (folder,) = tmp_path.glob("why-*")
    found = why_figures.of(folder)
    assert found.title == "When is the moment? earlycrop-s at 95 %"
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
        why_figures.of(tmp_path)


def test_the_records_are_of_the_device_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(why, "flows", lambda *_, **__: [])
    monkeypatch.setattr(why_figures, "flow", lambda _: Figure())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["why", "flow", "--device=cpu", f"--out={tmp_path}"]) == 0
    (records,) = tmp_path.glob("*/records.json")
    assert json.loads(records.read_text())["environment"]["device"] == "cpu"
