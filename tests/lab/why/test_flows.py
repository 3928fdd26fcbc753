"""What scores do to the gradient flow and to the kernel."""

import json
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from earlycrop_lab.cli import main
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.why import flow_figures
from earlycrop_lab.why import flows as module
from earlycrop_lab.why.branches import stem_after
from earlycrop_lab.why.flows import Flow, flows

SMALL = Classification(
    method="earlycrop-s", sparsity=0.7, network="mlp", width=16, train_size=100, batch_size=50, epochs=9
)


def test_flows_against_an_explicit_jacobian():
    stem = stem_after(SMALL, 1)
    found = list(flows(SMALL, stem, ("crop-u", "snap"), (0.3, 0.7), samples=3))
    assert [(f.method, f.sparsity) for f in found] == [("crop-u", 0.3), ("crop-u", 0.7), ("snap", 0.3), ("snap", 0.7)]
    model, scoring = stem.setup.model, stem.setup.scoring
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


def test_lines_of_channels_are_not_cut_off_at_the_height_of_those_of_weights():
    found = [Flow(m, s, 0, 1, 2.0, 1.0, change) for m, change in (("snip", 0.1), ("snap", 3.0)) for s in (0.5, 0.9)]
    low, high = flow_figures.flow(found).axes[3].get_ylim()
    assert low == 0
    assert high > 3


def test_the_records_are_of_the_device_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "flows", lambda *_, **__: [])
    monkeypatch.setattr(flow_figures, "flow", lambda _: Figure())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["why", "flow", "--device=cpu", f"--out={tmp_path}"]) == 0
    (records,) = tmp_path.glob("*/records.json")
    assert json.loads(records.read_text())["environment"]["device"] == "cpu"


@pytest.mark.parametrize("level", ["0", "1", "-0.5", "nan"])
def test_a_sparsity_that_is_none_is_refused_before_any_training(level, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("earlycrop_lab.verbs.questions.stem_after", lambda *_: pytest.fail("trained"))
    assert main(["why", "flow", "--sparsities", "0.5", level, f"--out={tmp_path}"]) == 2
    assert "sparsity is the fraction to remove, between 0 and 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sparsity_of_nothing_beside_parts_is_not_the_usual_one():
    stem = stem_after(SMALL, 0)
    (some, more) = (
        next(flows(replace(SMALL, sparsity=usual, part="fc1=0.5"), stem, ("random-u",), (0.0,), samples=2))
        for usual in (0.1, 0.9)
    )
    assert some == more
    assert some.flow_after > 0


def answered(tmp_path, monkeypatch, *asked: str) -> set[str]:
    monkeypatch.setattr(module, "flows", lambda *_, **__: [])
    monkeypatch.setattr(flow_figures, "flow", lambda _: Figure())
    monkeypatch.setattr("earlycrop_lab.verbs.questions.stem_after", lambda *_: None)
    assert main(["why", "flow", "--device=cpu", f"--out={tmp_path}", *asked]) == 0
    return {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("records.json")}


def test_answers_about_networks_that_differ_lie_in_folders_that_differ(tmp_path, monkeypatch):
    usual = {"why-flow-digits-resnet18-after0"}
    assert answered(tmp_path, monkeypatch) == usual
    assert answered(tmp_path, monkeypatch, "--method=snip") == usual  # every score is compared: the method is ignored
    assert answered(tmp_path, monkeypatch, "--width=4") == usual | {"why-flow-digits-resnet18-width4-after0"}


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (["--data=folder:a/b c"], "why-flow-folder_a_b_c-resnet18-after0"),
        (["--task=language", "--data=text:a/b"], "why-flow-text_a_b-psmm-after0"),
    ],
)
def test_the_answer_about_ones_own_data_lies_where_pages_look_for_it(own, name, tmp_path, monkeypatch):
    assert answered(tmp_path, monkeypatch, *own) == {name}
