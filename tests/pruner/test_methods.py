"""Every method of the table beside a training loop: what it cuts, what it leaves alone; scoring sets that change."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from earlycrop import METHODS, Report, get_method
from earlycrop.errors import ScoreError
from earlycrop.evaluation import ScoringSet
from earlycrop.timing import AbstractDetector, AbstractPruningSchedule, Never, Phase, ScoreSettled, Spread
from earlycrop.units import Weights
from tests import dense
from tests.small import BATCH, PRUNING, adam, make, small, train, until_cut

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
