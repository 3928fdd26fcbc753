"""The pruner beside a training loop: every method of the table, failures, and going on after a stop."""

import itertools
import json
import tempfile
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from earlycrop import METHODS, Pruner, Report, StarvationWarning, get_method, load_state, save_state
from earlycrop.counting import Counter
from earlycrop.errors import OptimizerError, ScoreError, VerificationError
from earlycrop.evaluation import ScoringSet
from earlycrop.steps import Exponential
from earlycrop.structure import Verification
from earlycrop.timing import (
    AbstractDetector,
    AbstractPruningSchedule,
    AtEpoch,
    LazyRegime,
    Never,
    Phase,
    ScoreSettled,
    Spread,
)
from earlycrop.units import Weights
from earlycrop.units import channels as channels_module
from tests import dense
from tests.pruners import make_pruner

PRUNING = [name for name, method in METHODS.items() if not isinstance(method.timing, Never)]


class Small(nn.Module):
    """A stream with a block, a norm, dropout: everything that scoring has to handle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm0(self.stem(x)))
        x = x + self.conv2(torch.relu(self.norm1(self.conv1(x))))
        return self.head(self.drop(torch.relu(x).mean((2, 3))))


BATCH = dense.images(24)


def small(seed: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small().double()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.01)


def momentum(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def make(net: nn.Module, optimizer, method="earlycrop-s", sparsity=0.6, **options) -> Pruner:
    options = {"loss": dense.cross_entropy, "batches": [BATCH], "example_inputs": BATCH[0][:2], "epochs": 8} | options
    return make_pruner(net, method, sparsity, optimizer=optimizer, **options)


def train(net: nn.Module, optimizer, steps: int = 2) -> None:
    net.train()
    torch.manual_seed(steps)  # dropout
    for _ in range(steps):
        optimizer.zero_grad()
        dense.cross_entropy(net, BATCH).backward()
        optimizer.step()


def until_cut(net: nn.Module, optimizer, pruner: Pruner):
    """The last report."""
    for epoch in range(int(pruner.total_epochs) + 1):
        report = pruner.check(epoch)
        if report and pruner.done:
            return report
        train(net, optimizer)
    return None


# The table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_beside_a_loop(name):
    net = small()
    optimizer = adam(net)
    objects, whole = [id(p) for p in net.parameters()], sum(net.get_parameter(n).numel() for n in dense.prunable(net))
    pruner = make(net, optimizer, name)
    report = until_cut(net, optimizer, pruner)
    method = METHODS[name]
    if isinstance(method.timing, Never):
        assert report is None
        assert pruner.done
        assert not pruner.pruned
        return
    assert pruner.pruned
    assert report is pruner.report
    assert report.method == name
    assert (report.reason in ("trigger", "cap")) == isinstance(method.timing, AbstractDetector)
    assert (report.reason == "round") == isinstance(method.timing, AbstractPruningSchedule)
    after_training = isinstance(method.timing, AbstractPruningSchedule) and not isinstance(method.timing, Spread)
    assert (report.epoch >= 8) == after_training
    assert (report.reason == "init") == (report.epoch == 0)
    assert report.samples == (24 if pruner._scorer.samples else 0)
    assert [id(p) for p in net.parameters()] == objects
    assert pruner.check(100) is None
    written = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert Report.from_dict(written).as_dict() == report.as_dict()
    if isinstance(method.units, Weights):
        kept = whole - round(0.6 * whole)
        assert report.after.prunable == kept
        zeros = {n: net.get_parameter(n) == 0 for n in dense.prunable(net)}
        assert sum(int(zero.sum()) for zero in zeros.values()) == whole - kept
    else:
        left = sum(net.get_parameter(n).numel() for n in dense.prunable(net))
        assert report.after.prunable == left
        one_class = 8 * 2 * 9 + 2 * 8 * 6 * 9  # no class holds more
        assert abs(left - 0.4 * whole) <= one_class / 8
        assert report.verification.exact
        zeros = {}
    train(net, optimizer, 3)
    assert all(not net.get_parameter(n)[zero].any() for n, zero in zeros.items())
    assert all(torch.isfinite(p).all() for p in net.parameters())


@pytest.mark.parametrize("name", PRUNING)
def test_scoring_and_looking_leave_everything_bit_for_bit(name):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name, micro_batch=7)
    train(net, optimizer)
    net.head.weight.requires_grad_(False)
    net.norm1.eval()
    net.stem.weight.grad = None
    before = dense.everything(net, optimizer)
    for bn_mode in ("auto", "running", "calibrated", "scaled", "batch"):
        pruner._scorer.bn_mode = bn_mode
        first = pruner.scores()
        assert torch.isfinite(first).all()
        assert dense.everything(net, optimizer) == before
        assert torch.equal(pruner.scores(), first)  # no dropout, no other chance
    pruner.choose()
    timing = METHODS[name].timing
    if isinstance(timing, AbstractDetector | AbstractPruningSchedule):
        assert pruner.check(0) is None
        first = min(1, timing.moments(8, pruner._cuts_in_all)[0]) if isinstance(timing, AbstractPruningSchedule) else 1
        assert pruner.check(0.999 * first) is None
    pruner._phases.enter(Phase())
    assert dense.everything(net, optimizer) == before


@pytest.mark.parametrize("name", [name for name in PRUNING if METHODS[name].score.needs_data])
def test_the_micro_batch_changes_nothing(name):
    pruner, scores = make(small(), None, name), []
    for size in (24, 10, 1):
        pruner._scorer._set = ScoringSet([BATCH], size)
        scores.append(pruner.scores())
    for other in scores[1:]:
        assert (other - scores[0]).norm() <= 1e-12 * scores[0].norm()


@pytest.mark.parametrize("name", ["random-s", "earlycrop-u", "earlycrop-s-score"])
def test_the_same_twice(name):
    reports = []
    for _ in range(2):
        torch.manual_seed(3)
        net = small()
        optimizer = adam(net)
        pruner = make(net, optimizer, name)
        report = until_cut(net, optimizer, pruner)
        reports.append((replace(report, seconds=0.0).as_dict(), pruner.units.keep.tolist()))
    assert reports[0] == reports[1]


@pytest.mark.parametrize("reading", ["gate_hessian", "mixed", "group_sum"])
def test_each_reading_of_crop_prunes(reading):
    net = small()
    report = make(net, None, get_method("crop-s").reading(reading)).check(0)
    assert report.verification.exact
    assert report.weight_sparsity == pytest.approx(0.6, abs=0.1)


# A scoring set that changes ---------------------------------------------------------------------------------


class Stream:
    """Other batches each time that somebody asks."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> list[tuple[Tensor, Tensor]]:
        self.asked += 1
        return [dense.images(24 + self.asked)]


@pytest.mark.parametrize("name", ["snap", "cropit-s-poster", "earlycrop-s-poster"])
def test_a_scoring_set_that_changes_is_asked_for_once_a_call_that_scores(name):
    stream, net, twin = Stream(), small(), small()
    pruner = make(net, None, name, batches=stream)
    assert stream.asked == 0
    plan = pruner.dry_run()
    assert (stream.asked, plan.samples) == (1, 25)
    assert torch.equal(pruner.scores(), make(twin, None, name, batches=[dense.images(26)]).scores())
    assert stream.asked == 2
    epoch = 0
    while not (report := pruner.check(epoch)):  # until then it looks at weights alone
        assert stream.asked == 2
        epoch += 1
        train(net, adam(net))
    assert (stream.asked, report.samples) == (3, 27)
    pruner.check(epoch + 1)
    assert stream.asked == 3


def test_a_detector_that_scores_asks_at_each_look():
    """The last of them is the cap, at which it also cuts."""
    stream = Stream()
    method = replace(get_method("earlycrop-s-poster"), timing=ScoreSettled())
    pruner = make(small(), None, method, batches=stream)
    reports = [(pruner.check(epoch), stream.asked) for epoch in range(4)]
    assert [asked for _, asked in reports] == [0, 1, 2, 2]
    assert [report.samples for report, _ in reports if report] == [26]


def test_a_function_without_batches_is_refused_where_it_is_asked():
    net = small()
    before = dense.everything(net, None)
    with pytest.raises(ScoreError, match="scoring set is empty"):
        make(net, None, "cropit-s", batches=list).check(0)
    assert dense.everything(net, None) == before


# Targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "sparsity"),
    [
        *(("crop-s", target, 0.3) for target in ("weight", "node", "params", "flops")),
        *(("crop-s", "weight", 0.0), ("cropit-s", "flops", 0.6)),
    ],
)
def test_channels_come_within_one_class_of_any_target(name, target, sparsity):
    net = small()
    pruner = make(net, None, name, sparsity, target=target)
    whole = pruner.units.counts().of(target)
    per_class = []
    for number in range(len(pruner.units.keep)):
        keep = torch.ones(len(pruner.units.keep), dtype=torch.bool)
        keep[number] = False
        per_class.append(whole - Counter(pruner.units.structure, net)(keep).of(target))
    report = pruner.check(0)
    assert abs(1 - report.after.of(target) / whole - sparsity) <= max(per_class) / whole
    if sparsity == 0:
        assert bool(pruner.units.keep.all())


def test_no_sparsity_masks_nothing():
    net = small()
    before = [p.clone() for p in net.parameters()]
    report = make(net, None, "crop-u", 0.0).check(0)
    assert report.weight_sparsity == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_most_that_weights_can_lose_leaves_one():
    net = small()
    whole = sum(net.get_parameter(n).numel() for n in dense.prunable(net))
    with pytest.warns(StarvationWarning, match="starved of weights"):
        report = make(net, None, "snip", 1 - 1 / whole).check(0)
    assert report.after.prunable == 1
    assert report.collapsed


@pytest.mark.parametrize("name", ["random-u", "random-s"])
def test_the_seed_is_what_decides_at_random(name):
    def kept(seed: int) -> list[bool]:
        pruner = make(small(), None, name, seed=seed)
        pruner.check(0)
        return pruner.units.keep.tolist()

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


# Failures ---------------------------------------------------------------------------------------------------


class Failing:
    """A loss that is well for some calls and then is not."""

    def __init__(self, after: int, how) -> None:
        self.calls, self.after, self.how = 0, after, how

    def __call__(self, model, batch):
        self.calls += 1
        loss = dense.cross_entropy(model, batch)
        return self.how(loss) if self.calls > self.after else loss


def nan(loss):
    return loss * torch.nan


def interrupted(loss):
    raise KeyboardInterrupt


def bad_scores(loss):
    """A finite loss whose slope is not."""
    return loss + (loss - loss.detach()).abs().sqrt()


@pytest.mark.parametrize(
    ("how", "error", "scorings", "optimizer_state"),
    [
        (nan, ScoreError, 0, "slice"),
        (nan, ScoreError, 2, "slice"),
        (interrupted, KeyboardInterrupt, 2, "reset"),
        (bad_scores, ScoreError, 2, "slice"),
    ],
)
@pytest.mark.parametrize("name", ["cropit-s", "cropit-u"])
def test_a_failure_at_any_step_leaves_model_and_optimizer_bit_for_bit(name, optimizer_state, scorings, how, error):
    """Two passes a scoring; after two scorings two cuts were made, and all is undone."""
    net = small()
    optimizer = adam(net)
    loss = Failing(10**9, how)
    options = {"bn_mode": "running", "optimizer_state": optimizer_state}
    pruner = make(net, optimizer, name, loss=loss, **options)
    train(net, optimizer)
    before, keep = dense.everything(net, optimizer), pruner.units.keep.clone()
    scores_before = pruner.scores()
    loss.calls, loss.after = 0, 2 * scorings
    with pytest.raises(error):
        pruner.check(0)
    assert loss.calls >= 2 * scorings + 1
    assert dense.everything(net, optimizer) == before
    assert torch.equal(pruner.units.keep, keep)
    assert not pruner.pruned
    loss.after = 10**9  # mended: it goes on as if nothing had been
    assert torch.equal(pruner.scores(), scores_before)
    report = pruner.check(0)
    twin = small()
    other = adam(twin)
    train(twin, other)
    expected = make(twin, other, name, **options).check(0)
    assert report.after == expected.after
    train(net, optimizer)
    train(twin, other)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("name", ["snip", "crop-s"])
def test_a_report_that_cannot_be_made_undoes_the_cut(name, monkeypatch):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, name)
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(type(pruner.units), "collapsed", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pruner.check(0)
    assert dense.everything(net, optimizer) == before
    assert (pruner.report, pruner.cuts, bool(pruner.units.keep.all())) == (None, 0, True)
    assert pruner.check(0)


@pytest.mark.parametrize("optimizer_state", ["slice", "reset"])
def test_a_cut_that_is_not_exact_is_undone(monkeypatch, optimizer_state):
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, "cropit-s", optimizer_state=optimizer_state)
    train(net, optimizer)
    before = dense.everything(net, optimizer)
    monkeypatch.setattr(channels_module.Verifier, "compare", lambda *_: Verification(0.5, 0.5))
    with pytest.raises(VerificationError, match=r"5\.0e-01"):
        pruner.check(0)
    assert dense.everything(net, optimizer) == before
    assert bool(pruner.units.keep.all())
    assert not pruner.pruned


def test_without_verification_nothing_is_compared(monkeypatch):
    monkeypatch.setattr(channels_module.Verifier, "compare", lambda *_: pytest.fail("compared"))
    assert make(small(), None, "crop-s", verify=False).check(0).verification is None


def test_state_that_cannot_be_cut_is_refused_and_reset_is_the_way_out():
    for optimizer_state in ("slice", "reset"):
        net = small().float()
        optimizer = torch.optim.Adafactor(net.parameters(), lr=0.01)
        batch = BATCH[0].float(), BATCH[1]
        pruner = make(
            net, optimizer, "crop-s", batches=[batch], example_inputs=batch[0], optimizer_state=optimizer_state
        )
        dense.cross_entropy(net, batch).backward()
        optimizer.step()
        before = dense.everything(net, optimizer)
        if optimizer_state == "slice":
            with pytest.raises(OptimizerError, match=r"Adafactor(.|\n)*reset"):
                pruner.check(0)
            assert dense.everything(net, optimizer) == before
        else:
            pruner.check(0)
            dense.cross_entropy(net, batch).backward()
            optimizer.step()


# The optimizer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_optimizer", [adam, momentum])
@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
def test_momentum_is_carried_through_or_forgotten(name, make_optimizer):
    for optimizer_state in ("slice", "reset"):
        net = small()
        optimizer = make_optimizer(net)
        pruner = make(net, optimizer, name, optimizer_state=optimizer_state)
        train(net, optimizer)
        before = {n: dict(optimizer.state[p]) for n, p in net.named_parameters()}
        pruner.check(0)
        if optimizer_state == "reset":
            assert not optimizer.state
        else:
            for n, parameter in net.named_parameters():
                for key, value in optimizer.state[parameter].items():
                    if isinstance(value, Tensor) and value.ndim:
                        assert value.shape == parameter.shape
                        assert set(value.reshape(-1).tolist()) <= {0.0, *before[n][key].reshape(-1).tolist()}
                    else:
                        assert value == before[n][key]
        values = [p.detach().clone() for p in net.parameters()]
        train(net, optimizer, 1)
        assert any(not torch.equal(a, b) for a, b in zip(values, net.parameters(), strict=True))


def test_the_optimizer_must_hold_what_will_be_cut():
    net = small()
    for optimizer in (adam(small()), torch.optim.SGD(net.head.parameters(), lr=0.1)):
        before = dense.everything(net, optimizer)
        with pytest.raises(OptimizerError, match=r"stem\.weight"):
            make(net, optimizer)
        assert dense.everything(net, optimizer) == before
    for name in ("stem", "conv1", "conv2"):
        net.get_submodule(name).requires_grad_(False)
    make(net, torch.optim.SGD(net.head.parameters(), lr=0.1))  # frozen weights need no optimizer


@pytest.mark.parametrize("name", ["crop-s", "crop-u"])
@pytest.mark.parametrize("given", ["before the cut", "after it"])
def test_an_optimizer_that_is_made_later(name, given):
    net = small()
    pruner = make(net, None, name)
    if given == "after it":
        pruner.check(0)
    optimizer = adam(net)
    with pytest.raises(OptimizerError):
        pruner.optimizer = adam(small())
    assert pruner.optimizer is None
    pruner.optimizer = optimizer
    if given == "before the cut":
        train(net, optimizer)
        pruner.check(0)
    expected = pruner.report.after
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)  # as something else than the gradient may
    train(net, optimizer)
    assert all(v.shape == p.shape for p in net.parameters() for v in optimizer.state[p].values() if v.ndim)
    left = sum(int((net.get_parameter(n) != 0).sum()) for n in dense.prunable(net))
    assert left == expected.prunable


# The moment -------------------------------------------------------------------------------------------------


def test_it_may_be_asked_at_every_step():
    net = small()
    optimizer = adam(net)
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9, interval=0.5, max_epochs=2.5))
    pruner, steps = make(net, optimizer, method), 7
    for step in range(8 * steps):
        if report := pruner.check(step / steps):
            break
        train(net, optimizer, 1)
    assert [check.epoch for check in report.curve] == [4 / 7, 1, 11 / 7, 2, 18 / 7]
    assert (report.epoch, report.reason) == (18 / 7, "cap")
    assert all(a.value != b.value for a, b in itertools.pairwise(report.curve))


def test_at_an_epoch():
    net = small()
    optimizer = adam(net)
    report = until_cut(net, optimizer, make(net, optimizer, replace(get_method("crop-s"), timing=AtEpoch(3))))
    assert (report.epoch, report.reason) == (3, "epoch")


def test_a_learning_rate_that_moves_is_told_once_and_recorded():
    net = small()
    optimizer = momentum(net)
    method = replace(get_method("earlycrop-s"), timing=LazyRegime(tau=1e-9, max_epochs=6))
    pruner, rates, told = make(net, optimizer, method), [], []
    for epoch in range(8):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = pruner.check(epoch)
        told += [(epoch, str(one.message)) for one in caught]
        if report:
            break
        train(net, optimizer)
        optimizer.param_groups[0]["lr"] *= 1.0 if epoch < 2 else 0.5
        rates.append(optimizer.param_groups[0]["lr"])
    assert [check.learning_rate for check in report.curve] == rates
    assert len(told) == 1
    assert told[0][0] == 3
    assert "0.05 to 0.025" in told[0][1]


def test_a_constant_learning_rate_is_no_news():
    net = small()
    optimizer = adam(net)
    report = until_cut(net, optimizer, make(net, optimizer))  # warnings are errors
    assert {check.learning_rate for check in report.curve} == {0.01}


@pytest.mark.parametrize("name", ["earlycrop-u-score", "earlycrop-u-ntk"])
def test_a_look_that_failed_can_be_had_again(name):
    net = small()
    optimizer, loss = adam(net), Failing(10**9, interrupted)
    pruner = make(net, optimizer, name, loss=loss)
    pruner.check(1)
    train(net, optimizer)
    loss.after = 0
    before = dense.everything(net, optimizer)
    with pytest.raises(KeyboardInterrupt):
        pruner.check(2)
    assert dense.everything(net, optimizer) == before
    loss.after = 10**9
    pruner.check(2)
    assert [check.epoch for check in pruner.curve] == [2]


def test_an_optimizer_that_comes_later_has_no_rate_to_compare_with():
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9)), epochs=99)
    optimizer = adam(net)
    train(net, optimizer)
    pruner.check(1)
    pruner.optimizer = optimizer
    train(net, optimizer)
    pruner.check(2)
    assert [check.learning_rate for check in pruner.curve] == [None, 0.01]


# Going on ---------------------------------------------------------------------------------------------------


def through_a_file(state):
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, f"{folder}/state")
        return load_state(f"{folder}/state")


GOING_ON = {
    "crop-u": get_method("crop-u"),
    "crop-s": get_method("crop-s"),
    "synflow": replace(get_method("synflow"), steps=Exponential(4)),
    "lazy-u": replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9, max_epochs=3)),
    "lazy-s": replace(get_method("earlycrop-s"), timing=LazyRegime(tau=1e-9, max_epochs=3)),
    "lazy-epoch1": replace(
        get_method("earlycrop-u"), timing=LazyRegime(reference="epoch1", params="all", max_epochs=3)
    ),
} | {name: METHODS[name] for name in ("earlycrop-u-rate", "earlycrop-u-score", "earlycrop-u-ntk", "earlycrop-s-score")}


@pytest.mark.parametrize(
    ("name", "make_optimizer"), [*((name, adam) for name in GOING_ON), ("lazy-s", momentum), ("lazy-u", momentum)]
)
def test_going_on_is_not_stopping(name, make_optimizer):
    """Stopped before the cut (or after it, where that is at once) and after it, and gone on with on networks anew."""

    def epoch_of(net, optimizer, pruner, epoch):
        torch.manual_seed(100 + epoch)
        pruner.check(epoch)
        train(net, optimizer)

    net = small()
    optimizer = make_optimizer(net)
    pruner = make(net, optimizer, GOING_ON[name])
    for epoch in range(5):
        epoch_of(net, optimizer, pruner, epoch)
    assert pruner.pruned

    other = small()
    other_optimizer = make_optimizer(other)
    going_on = make(other, other_optimizer, GOING_ON[name])
    for epoch in range(5):
        epoch_of(other, other_optimizer, going_on, epoch)
        if epoch not in (1, 3):
            continue
        state = through_a_file(
            {"pruner": going_on.state_dict(), "model": other.state_dict(), "optimizer": other_optimizer.state_dict()}
        )
        other = small(seed=50 + epoch)
        other_optimizer = make_optimizer(other)
        going_on = make(other, other_optimizer, GOING_ON[name])
        going_on.load_state_dict(state["pruner"])
        other.load_state_dict(state["model"])
        other_optimizer.load_state_dict(state["optimizer"])

    assert {n: dense.bits(t) for n, t in net.state_dict().items()} == {
        n: dense.bits(t) for n, t in other.state_dict().items()
    }
    assert repr(replace(pruner.report, seconds=0.0)) == repr(replace(going_on.report, seconds=0.0))
    assert torch.equal(pruner.units.keep, going_on.units.keep)
    train(other, other_optimizer)
    train(net, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_going_on_between_two_looks():
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9))
    net = small()
    pruner = make(net, None, method, epochs=99)
    for epoch in (1.2, 1.5, 1.9, 2.1):
        with torch.no_grad():
            net.stem.weight.mul_(1.1)
        pruner.check(epoch)
        if epoch == 1.2:
            going_on = make(net, None, method, epochs=99)
            going_on.load_state_dict(through_a_file(pruner.state_dict()))
        else:
            going_on.check(epoch)
    assert [check.epoch for check in going_on.curve] == [check.epoch for check in pruner.curve] == [1.2, 2.1]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "snap"}, "method"),
        ({"sparsity": 0.5}, "budget"),
        ({"target": "node"}, "budget"),
        ({"seed": 1}, "seed"),
        ({"bn_mode": "batch"}, "bn_mode"),
    ],
)
def test_a_state_of_another_run_is_refused(options, what):
    state = make(small(), None, "crop-s").state_dict()
    net = small()
    pruner = make(net, None, **({"method": "crop-s"} | options))
    before = dense.everything(net)
    with pytest.raises(ValueError, match=what):
        pruner.load_state_dict(state)
    assert dense.everything(net) == before


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match="another method"):
        make(small(), None, "crop-s").load_state_dict(small().state_dict())


def test_the_dense_method_has_a_state_too():
    net = small()
    pruner = make(net, adam(net), "dense")
    state = through_a_file(pruner.state_dict())
    twin = make(small(), None, "dense")
    twin.load_state_dict(state)
    assert twin.report is None
    assert twin.done


def test_the_dense_method_can_be_asked_what_others_can():
    net = small()
    pruner = make(net, adam(net), "dense", target="flops", coupled=[("stem", "conv2")])  # what others are asked for
    pruner = make(net, adam(net), "dense")
    before = dense.everything(net)
    weights = torch.cat([net.get_parameter(name).detach().flatten() for name in dense.prunable(net)])
    assert torch.equal(pruner.scores(), weights.abs())
    assert int(pruner.choose().sum()) == len(weights) - round(0.6 * len(weights))
    assert pruner.kernel(4).shape == (12, 12)
    assert dense.everything(net) == before
    assert pruner.units.keep.untyped_storage().nbytes() == 1


def test_what_it_holds_beside_the_model_is_told():
    """θ(0) until it prunes, then a mask in truths and in bits; no memory at all for dense."""
    net = small()
    numbers = sum(net.get_parameter(name).numel() for name in dense.prunable(net))
    pruner = make(net, adam(net), replace(get_method("earlycrop-u"), timing=LazyRegime(max_epochs=1)))

    def size() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in pruner.held())

    assert size() == 8 * numbers + 1  # float64; the mask is one truth yet
    assert pruner.check(1) is not None
    assert size() == (1 + 8) * numbers
    pruner = make(net := small(), adam(net), "dense")
    assert size() == 1
    pruner = make(net := small(), adam(net), "ltr", epochs=4)
    pruner.check(1)
    assert size() == 1 + sum(tensor.untyped_storage().nbytes() for _, tensor in net.state_dict(keep_vars=True).items())


@pytest.mark.parametrize("stopped_after", [1, 2])
def test_a_rate_that_moves_is_warned_of_once_however_often_one_stops(stopped_after):
    """It moves between the looks at 1 and 2 epochs and again before the third."""
    method = replace(get_method("earlycrop-u"), timing=LazyRegime(tau=1e-9))
    net = small()
    optimizer = adam(net)
    pruner = make(net, optimizer, method, epochs=99)
    warned = []
    for epoch in (1, 2, 3):
        train(net, optimizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pruner.check(epoch)
        warned += [epoch] * len(caught)
        optimizer.param_groups[0]["lr"] *= 0.5
        if epoch == stopped_after:
            state = through_a_file(pruner.state_dict())
            pruner = make(net, optimizer, method, epochs=99)
            pruner.load_state_dict(state)
    assert warned == [2]


def test_after_the_cut_the_state_holds_nothing_of_the_dense_size():
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-s"), timing=LazyRegime(max_epochs=1)))
    assert pruner.state_dict()["instrument"]["reference"]
    train(net, adam(net))
    assert pruner.check(1)
    assert pruner.state_dict()["instrument"] is None


def test_a_look_that_saw_infinity_comes_back():
    """JSON's None for what is not a number would come back as nan."""
    net = small()
    pruner = make(net, None, replace(get_method("earlycrop-u"), timing=LazyRegime(max_epochs=1)))
    train(net, adam(net))
    report = pruner.check(1)
    pruner.report = replace(report, curve=(replace(report.curve[0], value=float("inf")),))
    twin = make(small(), None, pruner.method)
    twin.load_state_dict(through_a_file(pruner.state_dict()))
    assert twin.report.curve[0].value == float("inf")
    assert repr(twin.report) == repr(pruner.report)
