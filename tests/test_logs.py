"""Logs: what the pruner reports, and what TensorBoard, Weights & Biases and a notebook make of it."""

import json
import struct
import sys

import pytest
import torch
from torch import nn

from earlycrop import EarlyCropError, Pruner, Scoring
from earlycrop.logs import Log, Logs, LogWarning, Notebook, TensorBoard, Wandb
from earlycrop.logs.announcing import check_log
from earlycrop.report import Check

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.StarvationWarning")  # networks here are tiny


class Noted(Log):
    """Keeps everything."""

    def __init__(self):
        self.seen = []

    def check(self, look):
        self.seen.append(look)

    def cut(self, report):
        self.seen.append(report)

    def epoch(self, epoch, figures):
        self.seen.append((epoch, dict(figures)))


class Broken(Log):
    def cut(self, report):
        raise OSError("no space left")


class Stopped(Log):
    def cut(self, report):
        raise KeyboardInterrupt


def trained(log, method="earlycrop-s", epochs=8, interval=1, **given):
    """A small training that reports to a log, and its pruner."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 5), torch.arange(32) % 3
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    scoring = Scoring(loss, [(x, y)])
    given = {"example_inputs": x[:2], "scoring": scoring, "optimizer": optimizer, "epochs": epochs} | given
    pruner = Pruner(model, method, 0.5, log=log, **given)
    for epoch in range(epochs):
        pruner.check(epoch)
        optimizer.zero_grad()
        value = loss(model, (x, y))
        value.backward()
        optimizer.step()
        if log is not None:
            log.epoch(epoch + 1, {"loss": value.item(), "phase": "sparse" if pruner.pruned else "dense", "test": None})
    return pruner


# What is reported -------------------------------------------------------------------------------------------------


def test_looks_and_cuts_are_reported_in_the_order_in_which_they_happen():
    log = Noted()
    pruner = trained(log)
    assert [one for one in log.seen if isinstance(one, Check)] == pruner.curve
    assert pruner.curve
    cut = log.seen.index(pruner.report)
    assert log.seen[cut - 1] == pruner.curve[-1]  # the look that decided
    assert log.seen[cut + 1][0] == pruner.report.epoch + 1
    assert log.seen.count(pruner.report) == 1


def test_every_cut_of_several_is_reported():
    log = Noted()
    pruner = trained(log, "ltr", epochs=4)
    for epoch in range(4, int(pruner.total_epochs) + 1):
        pruner.check(epoch)
    found = [one for one in log.seen if hasattr(one, "widths")]
    assert len(found) == pruner.cuts > 1
    assert found[-1] == pruner.report


def test_a_log_can_come_later():
    log = Noted()
    pruner = trained(None, "efficient-convnets", epochs=2)
    pruner.log = log
    pruner.check(2)
    assert log.seen == [pruner.report]


def test_what_is_no_log_is_refused_before_anything_happens():
    for wrong in ([Noted()], print, "runs"):
        with pytest.raises(EarlyCropError, match=r"`log` has the methods check, cut and epoch .* found"):
            check_log(wrong)
    assert check_log(None) is None


def test_a_log_that_fails_costs_no_training_and_no_other_log():
    log = Noted()
    with pytest.warns(LogWarning, match="Broken failed with OSError: no space left. The training goes on"):
        pruner = trained(Logs(Broken(), log))
    assert pruner.report in log.seen
    with pytest.warns(LogWarning, match="Broken failed"):
        assert trained(Broken()).pruned
    with pytest.raises(KeyboardInterrupt):
        trained(Stopped())


def test_a_log_changes_nothing():
    one, other = trained(None), trained(Noted())
    assert one.report.widths == other.report.widths
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# TensorBoard ------------------------------------------------------------------------------------------------------


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return found


def scalars(found, tag):
    return [(event.step, event.value) for event in found.Scalars(tag)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_curves_the_report_and_the_widths(tmp_path):
    pytest.importorskip("tensorboard")
    log = TensorBoard(tmp_path, steps_per_epoch=10)
    pruner = trained(log)
    log.close()
    found = events(tmp_path)
    looks = [(10 * look.epoch, look.value) for look in pruner.curve]
    assert scalars(found, "earlycrop/value") == [(step, pytest.approx(value)) for step, value in looks]
    assert len(scalars(found, "loss")) == 8
    assert "phase" not in found.Tags()["scalars"]
    at = round(10 * pruner.report.epoch)
    assert scalars(found, "earlycrop/parameters") == [(at, pruner.report.after.params)]
    assert scalars(found, "earlycrop/sparsity") == [(at, pytest.approx(pruner.report.weight_sparsity))]
    text = {tag: found.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode() for tag in TEXTS}
    assert str(pruner.report).splitlines()[0] in text["earlycrop/report"]
    for width in pruner.report.widths:
        assert f"| {width.layer} | {width.before} | {width.after} |" in text["earlycrop/widths"]


TEXTS = ("earlycrop/report", "earlycrop/widths")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_takes_your_own_writer_and_hides_what_is_done_again(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "mine")) as writer:
        TensorBoard(writer).epoch(1, {"loss": 0.5})
        writer.add_scalar("mine", 1.0, 1)
    assert {"loss", "mine"} <= set(events(tmp_path / "mine").Tags()["scalars"])
    first = TensorBoard(tmp_path / "resumed")
    for epoch in (1, 2, 3):
        first.epoch(epoch, {"loss": float(epoch)})
    first.close()
    second = TensorBoard(tmp_path / "resumed", done=2)
    second.epoch(3, {"loss": 30.0})
    second.close()
    assert scalars(events(tmp_path / "resumed"), "loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]
    with pytest.raises(EarlyCropError, match="found 0"):
        TensorBoard(tmp_path / "none", steps_per_epoch=0)


def test_without_tensorboard_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EarlyCropError, match=r'pip install "earlycrop\[tensorboard\]"'):
        TensorBoard(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Weights & Biases -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_has_the_curves_and_the_summary(tmp_path):
    """Offline: its file is read back."""
    wandb = pytest.importorskip("wandb")
    quiet = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="small", mode="offline", dir=tmp_path, settings=quiet)
    pruner = trained(Wandb(run))
    run.finish()
    wandb.teardown()
    (path,) = tmp_path.rglob("run-*.wandb")
    (history, summary), left = wandb_records(path), pruner.report.after.params
    assert sum("earlycrop/value" in row for row in history) == len(pruner.curve)
    assert [row["epoch"] for row in history if "loss" in row] == list(range(1, 9))
    assert [row["earlycrop/parameters"] for row in history if "earlycrop/parameters" in row] == [left]
    assert summary["earlycrop/parameters"] == left
    assert "earlycrop-s cut at epoch" in summary["earlycrop/report"]


def wandb_records(path):
    """The rows and the last summary that an offline run has written."""
    from wandb.proto import wandb_internal_pb2

    rows, summary = [], {}
    for data in log_of(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append(named(record.history.item))
        if record.HasField("summary"):
            summary |= named(record.summary.update)
    return rows, summary


def named(items):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def log_of(data, block=32768, header=7):
    """The records of a file of wandb: its own header, then LevelDB's format of logs, parts with lengths in blocks."""
    at, parts = header, b""
    while at + header <= len(data):
        if block - at % block < header:  # padding
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_what_is_no_run_of_wandb_is_refused():
    with pytest.raises(EarlyCropError, match=r"`wandb.init\(\.\.\.\)` returned; found NoneType"):
        Wandb(None)


# Notebooks --------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_a_bar_the_last_epochs_the_curve_and_the_report():
    log = Notebook(epochs=8, rows=3)
    assert str(log) == "nothing has happened yet"
    pruner = trained(log)
    page = log._repr_html_()
    assert '<progress value="8" max="8"' in page
    assert f"cut at epoch {pruner.report.epoch:g}" in page
    assert page.count("<tr>") == 4
    assert "<th>loss</th>" in page
    assert "<td>–</td>" in page
    assert "earlycrop-s cut at epoch" in page
    assert "earlycrop-s cut at epoch" in str(log)
    assert "nan" not in page


def test_a_notebook_draws_the_detectors_curve():
    log = Notebook()
    assert "<svg" not in log._repr_html_()
    for epoch, signal in ((1, float("nan")), (2, 1.0), (3, 0.5), (4, 0.25)):
        log.check(Check(epoch, signal, signal, 0.3, None))
    page = log._repr_html_()
    assert page.count("<polyline") == 2
    assert "0.0,2.0 180.0,45.0 360.0,66.5" in page
    assert "epoch 0, dense" in page
