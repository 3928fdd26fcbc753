"""The record of a cut: its numbers counted anew, its JSON, and back."""

import json
import math
from dataclasses import replace

import pytest
import torch

from earlycrop import Check, Report, get_method
from earlycrop.counting import Counts
from earlycrop.report import Width
from earlycrop.structure import Frozen, Verification
from earlycrop.timing import LazyRegime, RateSettled
from tests import dense
from tests.pruners import make_pruner

BATCH = dense.images(12)


def report_of(method, sparsity=0.5, net=None, **options) -> Report:
    net = net if net is not None else dense.residual_net(torch.relu)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    pruner = make_pruner(
        net, method, sparsity, example_inputs=BATCH[0], loss=dense.cross_entropy, batches=[BATCH], optimizer=optimizer,
        epochs=8, **options,
    )  # fmt: skip
    for epoch in range(8):
        if report := pruner.check(epoch):
            return report
        dense.cross_entropy(net.train(), BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("it never pruned")


def strictly(record) -> str:
    return json.dumps(record, allow_nan=False)


def like(a: Report, b: Report) -> bool:
    """Equal, where nan equals nan."""
    return repr(a) == repr(b)


@pytest.mark.parametrize("name", ["snip", "cropit-s", "earlycrop-u-score"])
def test_through_json_and_back(name):
    report = report_of(name)
    again = Report.from_dict(json.loads(strictly(report.as_dict())))
    assert like(again, report)
    assert again.as_dict() == report.as_dict()
    assert str(again) == str(report)


EVERYTHING = Report(
    method="earlycrop-s",
    unit="channels",
    target="weight",
    requested_sparsity=0.9,
    epoch=2.5,
    reason="trigger",
    seconds=1.5,
    samples=512,
    before=Counts(1000, 1100, 50, math.nan),
    after=Counts(100, 130, 10, math.nan),
    widths=(Width("conv", 50, 10),),
    frozen=(Frozen("conv.weight dim 0", "a reason", 4),),
    collapsed=("fc keeps no weight",),
    verification=Verification(1e-12, 0.1),
    curve=(Check(1, 0.5, math.nan, 0.1, 0.05), Check(2, math.nan, math.inf, 0.1, None)),
)


def test_what_is_no_number_becomes_none():
    record = EVERYTHING.as_dict()
    strictly(record)
    assert record["before"]["flops"] is None
    assert [check["signal"] for check in record["curve"]] == [None, None]
    again = Report.from_dict(json.loads(strictly(record)))
    assert math.isnan(again.before.flops)
    assert all(isinstance(check.value, float) and isinstance(check.signal, float) for check in again.curve)
    assert again.curve[1].learning_rate is None
    assert again.as_dict() == record
    assert (again.frozen, again.widths, again.verification) == (
        EVERYTHING.frozen,
        EVERYTHING.widths,
        EVERYTHING.verification,
    )


def test_sparsities_by_hand():
    assert EVERYTHING.weight_sparsity == pytest.approx(0.9)
    assert EVERYTHING.all_sparsity == pytest.approx(1 - 130 / 1100)
    assert EVERYTHING.node_sparsity == pytest.approx(0.8)
    record = EVERYTHING.as_dict()
    assert [record[f"{what}_sparsity"] for what in ("weight", "all", "node")] == [
        EVERYTHING.weight_sparsity,
        EVERYTHING.all_sparsity,
        EVERYTHING.node_sparsity,
    ]
    assert replace(EVERYTHING, unit="weights").node_sparsity is None


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_numbers_counted_anew(name):
    net = dense.residual_net(torch.relu)
    layers = {"stem": 4, "conv1": 3, "conv2": 4, "head": 3}
    whole = sum(net.get_parameter(n).numel() for n in dense.prunable(net))
    everything = sum(p.numel() for p in net.parameters())
    report = report_of(name, net=net)
    assert (report.before.prunable, report.before.params) == (whole, everything)
    tensors = [net.get_parameter(n) for n in dense.prunable(net)]
    if name == "crop-s":
        left = sum(p.numel() for p in tensors)
        assert report.after.params == sum(p.numel() for p in net.parameters())
        after = {layer: net.get_submodule(layer).weight.shape[0] for layer in layers}
        assert {width.layer: (width.before, width.after) for width in report.widths} == {
            layer: (layers[layer], after[layer]) for layer in layers
        }
        nodes = sum(after[layer] for layer in ("stem", "conv1", "conv2"))
        assert report.node_sparsity == pytest.approx(1 - nodes / 11)
    else:
        left = sum(int((p != 0).sum()) for p in tensors)
        assert report.after.params == everything - (whole - left)
        assert report.node_sparsity is None
        assert [width.after for width in report.widths] == [int((p != 0).sum()) for p in tensors]
        assert report.after.flops == report.before.flops  # a mask saves nothing, and that is told
    assert report.after.prunable == left
    assert report.weight_sparsity == pytest.approx(1 - left / whole)
    assert report.samples == 12


def test_what_is_printed_says_what_matters():
    text = str(EVERYTHING)
    for words in ("earlycrop-s", "trigger", "2.5", "0.9000", "512", "a reason", "COLLAPSED", "fc keeps no weight"):
        assert words in text
    assert "FLOPs" not in text  # unknown here
    assert "FLOPs" in str(report_of("crop-s"))


def test_a_proof_that_could_not_be_had_is_told(monkeypatch):
    monkeypatch.setattr("earlycrop.units.ChannelUnits.retrace", lambda units: None)
    net = dense.residual_net(torch.relu)
    pruner = make_pruner(net, "snap", 0.3, example_inputs=BATCH[0], loss=dense.cross_entropy, batches=[BATCH])
    pruner.units.keep_only(torch.arange(7) > 0)
    report = pruner.check(0)
    assert report.verification is None
    assert "UNVERIFIED  the graph of what the last cut left" in str(report)
    record = json.loads(strictly(report.as_dict()))
    assert like(Report.from_dict(record), report)
    del record["unverified"]  # as older ones are
    assert Report.from_dict(record).unverified is None


def test_starved_layers_are_bottlenecks_and_a_floor_is_advised():
    widths = (Width("a", 64, 1), Width("b", 64, 2), Width("c", 9, 1), Width("d", 10, 1), Width("e", 64, 30))
    report = replace(EVERYTHING, widths=widths)
    assert [(one.layer, one.after) for one in report.bottlenecks] == [("a", 1), ("d", 1)]
    assert report.as_dict()["bottlenecks"] == ["a", "d"]
    assert "a (1 of 64), d (1 of 10)\n" in str(report)
    assert "give every layer a floor (`min_channels=0.1`)" in str(report)
    assert replace(report, unit="weights").bottlenecks == ()
    assert "bottleneck" not in str(EVERYTHING)
    assert "remedy" not in str(EVERYTHING)


def test_the_requested_and_the_target_are_recorded():
    report = report_of("crop-s", 0.3, target="params")
    assert (report.requested_sparsity, report.target, report.unit) == (0.3, "params", "channels")
    assert report.all_sparsity == pytest.approx(0.3, abs=0.2)


def test_the_curve_is_in_the_report():
    method = replace(get_method("earlycrop-s"), timing=LazyRegime(tau=1e-9, max_epochs=4))
    report = report_of(method)
    assert [check.epoch for check in report.curve] == [1, 2, 3, 4]
    signals = method.timing.signal([check.value for check in report.curve])
    assert [check.signal for check in report.curve][1:] == signals[1:]
    assert math.isnan(report.curve[0].signal)


def test_a_standstill_can_be_written_down():
    """A rate that is zero makes a signal that is infinite."""
    method = replace(get_method("earlycrop-u"), timing=RateSettled(max_epochs=3))
    net = dense.residual_net(torch.relu)
    pruner = make_pruner(
        net, method, 0.5, example_inputs=BATCH[0], loss=dense.cross_entropy, batches=[BATCH], optimizer=None, epochs=8
    )
    reports = [pruner.check(epoch) for epoch in range(4)]
    record = reports[3].as_dict()
    strictly(record)
    assert Report.from_dict(record).as_dict() == record
